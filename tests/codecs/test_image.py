"""Images there and back: every integer of every mode, log-Jacobian, clipping, refusals with the difference."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from scorefield.codecs.choose import codec_from_json
from scorefield.codecs.image import ImageCodec
from scorefield.data import Array, Images
from scorefield.errors import DataError


def images(mode: str = "L", maximum: int = 255, rows: int = 3, size: tuple[int, int] = (4, 5)) -> Images:
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}[mode]
    dtype = np.uint8 if maximum < 256 else np.uint16
    drawn = np.random.default_rng(0).integers(0, maximum, (rows, *size, channels), endpoint=True)
    return Images(drawn.astype(dtype), mode, maximum=maximum)


@pytest.mark.parametrize(("mode", "maximum"), [("L", 255), ("L", 16), ("RGB", 255), ("RGBA", 255), ("I;16", 65535)])
def test_law_images_of_every_mode_come_back(mode: str, maximum: int) -> None:
    data = replace(images(mode, maximum), layout="NCHW")
    codec = ImageCodec.fit(data)
    again = codec_from_json(json.loads(json.dumps(codec.to_json())))
    assert again == codec
    x = codec.encode(data)
    assert x.shape == (3, *codec.shape)
    assert x.dtype == torch.float32
    assert 0 < float(x.max()) - float(x.min()) <= 2 + 1e-6
    # Centred: the standard deviation is the root mean square, which preconditioning and the first draw rely on.
    assert float(x.double().mean()) == pytest.approx(0, abs=1e-6)
    back = again.decode(x)
    assert isinstance(back, Images)
    assert (back.mode, back.maximum, back.layout) == (mode, maximum, "NCHW")
    assert back.pixels.dtype == data.pixels.dtype
    np.testing.assert_array_equal(back.pixels, data.pixels)


@pytest.mark.parametrize("maximum", [1, 16, 255, 65535])
def test_law_every_integer_has_its_own_bin_and_black_and_white_are_the_ends(maximum: int) -> None:
    every = np.arange(maximum + 1).reshape(-1, 1, 1, 1)
    data = Images(every.astype(np.uint8 if maximum < 256 else np.uint16), "L", maximum=maximum)
    codec = ImageCodec.fit(data)
    x = codec.encode(data)
    assert (float(x[0]), float(x[-1])) == (-1, 1)
    assert codec.resolution == pytest.approx(float(x.flatten().double().diff().mean()))
    # Anywhere within 0.49 of a bin's width of its centre is that integer.
    for shift in (-0.49, 0.49):
        moved = codec.decode(x + shift * 2 / maximum)
        assert isinstance(moved, Images)
        np.testing.assert_array_equal(moved.pixels, data.pixels)


def test_values_beyond_the_ends_are_black_and_white() -> None:
    codec = ImageCodec.fit(images())
    drawn = codec.decode(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, *codec.shape))
    assert isinstance(drawn, Images)
    assert not drawn.pixels[0].any()
    assert (drawn.pixels[1] == 255).all()


def test_law_log_jacobian_is_the_log_ratio_of_volumes() -> None:
    data = images("RGB", 255, size=(2, 3))
    codec = ImageCodec.fit(data)
    # One unit of a pixel moves its code by this much, and each of the 18 numbers of a row alike.
    brighter = replace(data, pixels=np.where(data.pixels < 255, data.pixels + 1, data.pixels - 1).astype(np.uint8))
    moved = (codec.encode(brighter) - codec.encode(data)).abs().double()
    torch.testing.assert_close(codec.spread(data)[1], moved.log().flatten(1).sum(1), rtol=1e-4, atol=0)


def test_equal_images_are_refused() -> None:
    one = images(rows=1).pixels
    with pytest.raises(DataError, match="all 4 images are equal"):
        ImageCodec.fit(Images(np.repeat(one, 4, axis=0), "L"))


@pytest.mark.parametrize(
    "other",
    [images("RGB"), images("L", 16), images(size=(5, 4)), replace(images("RGBA"), mode="CMYK")],
    ids=["channels", "maximum", "size", "mode"],
)
def test_images_of_another_form_are_refused_with_both_forms(other: Images) -> None:
    codec = ImageCodec.fit(images())
    with pytest.raises(DataError) as refused:
        codec.encode(other)
    message = str(refused.value)
    assert str((*other.pixels.shape[1:], other.mode, other.maximum)) in message
    assert str((4, 5, 1, "L", 255)) in message


def test_other_kinds_are_refused() -> None:
    with pytest.raises(DataError, match="trained on images, got array"):
        ImageCodec.fit(images()).encode(Array(np.zeros((2, 1, 4, 5))))
