"""Arrays there and back: every type and shape, one scale for a field, log-Jacobian, constants, refusals."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield.codecs import array
from scorefield.codecs.array import ArrayCodec
from scorefield.codecs.choose import codec_from_json
from scorefield.data import Array, Images, Table
from scorefield.errors import DataError

quick = settings(max_examples=60, deadline=None)
TYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool"]


def values(shape: tuple[int, ...], dtype: str = "float64", seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(20, 6, shape)
    return drawn > 20 if dtype == "bool" else drawn.astype(dtype)


@quick
@given(
    dtype=st.sampled_from(TYPES),
    shape=st.sampled_from([(), (1,), (4,), (3, 2), (2, 3, 5), (2, 2, 2, 2)]),
    rows=st.integers(2, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_law_arrays_of_every_type_and_shape_come_back(dtype: str, shape: tuple[int, ...], rows: int, seed: int) -> None:
    data = Array(values((rows, *shape), dtype, seed))
    if (data.values == data.values[0]).all():
        return
    codec = codec_from_json(json.loads(json.dumps(ArrayCodec.fit(data).to_json())))
    assert codec == ArrayCodec.fit(data)
    x = codec.encode(data)
    assert x.shape == (rows, *codec.shape)
    back = codec.decode(x)
    assert isinstance(back, Array)
    assert back.values.dtype == data.values.dtype
    assert back.values.shape == data.values.shape
    if data.values.dtype.kind == "f":
        # Encoded values are float32 about the mean, so that one near zero keeps the precision of its column.
        np.testing.assert_allclose(back.values, data.values, rtol=2e-6, atol=2e-6)
    else:
        np.testing.assert_array_equal(back.values, data.values)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16"])
def test_samples_of_integers_stay_in_range_wherever_they_fall(dtype: str) -> None:
    data = Array(values((300, 3), dtype))
    codec = ArrayCodec.fit(data)
    far = torch.linspace(-30, 30, 301)[:, None].expand(301, 3)
    drawn = codec.decode(far)
    assert drawn.values.dtype == data.values.dtype
    # Rising codes give rising values, from the least that was seen to the largest.
    np.testing.assert_array_equal(drawn.values[0], data.values.min(0))
    np.testing.assert_array_equal(drawn.values[-1], data.values.max(0))
    assert (np.diff(drawn.values.astype(np.int64), axis=0) >= 0).all()


def test_a_field_has_one_scale_and_a_vector_one_for_each_element() -> None:
    spread = np.array([0.01, 1.0, 100.0, 1.0])
    drawn = np.random.default_rng(0).normal(size=(400, 4)) * spread
    vector = ArrayCodec.fit(Array(drawn)).encode(Array(drawn)).std(0)
    torch.testing.assert_close(vector, torch.ones(4), rtol=0.01, atol=0)
    field = Array(drawn.reshape(400, 2, 2))
    encoded = ArrayCodec.fit(field).encode(field)
    assert encoded.shape == (400, 1, 2, 2)
    # Within the field the ratio of deviations is the data's own.
    ratios = encoded.std(0).flatten() / encoded.std(0).flatten()[1]
    expected = torch.from_numpy(drawn.std(0) / drawn.std(0)[1]).float()
    torch.testing.assert_close(ratios, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_law_log_jacobian_is_the_determinant_of_autograd(shape: tuple[int, ...]) -> None:
    data = Array(values((50, *shape)))
    codec = ArrayCodec.fit(data)

    def scaled(row: torch.Tensor) -> torch.Tensor:
        if len(shape) == 2:
            assert codec.columns[0].scaler is not None
            return codec.columns[0].scaler.forward(row)
        return torch.stack([c.scaler.forward(row[i]) for i, c in enumerate(codec.columns) if c.scaler is not None])

    row = torch.from_numpy(data.values[7].reshape(-1)).double()
    # What is differentiated is what encode does.
    torch.testing.assert_close(scaled(row).float(), codec.encode(data)[7].flatten())
    jacobian = torch.autograd.functional.jacobian(scaled, row)
    torch.testing.assert_close(codec.spread(data)[1][7], torch.linalg.slogdet(jacobian).logabsdet)


def test_constant_elements_are_not_modelled_but_put_back() -> None:
    drawn = values((20, 4), "int32")
    drawn[:, 2] = -7
    codec = ArrayCodec.fit(Array(drawn))
    assert codec.shape == (3,)
    assert any("1 constant" in note for note in codec.notes)
    back = codec.decode(codec.encode(Array(drawn)))
    assert isinstance(back, Array)
    np.testing.assert_array_equal(back.values, drawn)
    assert codec.spread(Array(drawn))[1].isfinite().all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 2, 2)])
def test_equal_rows_are_refused_even_where_their_elements_differ(shape: tuple[int, ...]) -> None:
    row = np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape)
    with pytest.raises(DataError, match="all rows are equal"):
        ArrayCodec.fit(Array(np.stack([row] * 5)))


def test_integers_that_float64_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(DataError, match=r"element 1.*cannot be told apart"):
        ArrayCodec.fit(Array(np.array([[0, 2**60], [1, 2**60 + 1]])))


def test_data_of_another_form_is_refused_with_the_difference() -> None:
    codec = ArrayCodec.fit(Array(values((5, 3))))
    with pytest.raises(DataError, match=r"shape \(4,\), expected \(3,\)"):
        codec.encode(Array(values((5, 4))))
    with pytest.raises(DataError, match="trained on an array, got images"):
        codec.encode(Images(np.zeros((2, 4, 4, 1), np.uint8), "L"))


def test_an_array_may_stand_in_the_columns_of_a_table() -> None:
    array = Array(values((4, 2, 3)))
    codec = ArrayCodec.fit(array)
    flat = [array.values.reshape(4, -1)[:, place] for place in range(6)]
    for names, header in (([str(place) for place in range(6)], True), (list("abcdef"), False)):
        table = Table(pa.table(dict(zip(names, flat, strict=True))), header=header)
        assert torch.equal(codec.encode(table), codec.encode(array))
    named, five = dict(zip("abcdef", flat, strict=True)), {str(place): flat[place] for place in range(5)}
    for columns, words in (
        (named, r"6 columns without names, or named 0 to 5, got 6: a, b, c, d, e, …"),
        ({str(place): flat[place] for place in (1, 0, 2, 3, 4, 5)}, "got 6: 1, 0, 2"),
        (five, "got 5: 0, 1"),
        ({**five, "5": ["x"] * 4}, "column '5' holds string"),
        ({**five, "5": [1.0, None, 1.0, 1.0]}, "column '5' has missing cells"),
    ):
        with pytest.raises(DataError, match=f"trained on an array.*{words}"):
            codec.encode(Table(pa.table(columns)))


def test_describe_lists_few_of_many_elements() -> None:
    lines = ArrayCodec.fit(Array(values((5, 100)))).describe()
    assert len(lines) < 30
    assert "and 80 more" in lines


@pytest.mark.parametrize(
    ("shape", "encoded", "said"),
    [
        ((16, 16, 4), (4, 16, 16), "4 channels, last, of 16×16"),
        ((32, 32, 3), (3, 32, 32), "3 channels, last, of 32×32"),
        ((6, 5, 1), (1, 6, 5), "1 channels, last, of 6×5"),
        ((3, 32, 32), (3, 32, 32), "3 channels, first, of 32×32"),
        ((5, 7, 9), (5, 7, 9), "5 channels, first, of 7×9, though no image"),
        ((4, 8, 4), (4, 8, 4), "4 channels, first, of 8×4, though the last axis could be"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_law_channels_come_first_for_networks_and_back_where_they_were(
    shape: tuple[int, ...], encoded: tuple[int, ...], said: str, dtype: str
) -> None:
    data = Array(values((6, *shape), dtype))
    fitted = ArrayCodec.fit(data)
    assert any(said in note for note in fitted.notes)
    codec = codec_from_json(json.loads(json.dumps(fitted.to_json())))
    x = codec.encode(data)
    assert (*x.shape,) == (6, *codec.shape) == (6, *encoded)
    # A scaler grows, so one that moved no element leaves the order of all values as it is.
    expected = data.values.transpose(0, 3, 1, 2) if "last, of" in said else data.values
    order = np.argsort(expected.reshape(-1), kind="stable")
    assert (np.diff(x.flatten().numpy()[order]) >= 0).all()
    back = codec.decode(x)
    assert isinstance(back, Array)
    np.testing.assert_allclose(back.values, data.values, atol=2e-5)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (5, 6, 3)])
def test_law_rows_are_the_same_in_any_chunks(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    data = Array(values((101, *shape)))
    codec = ArrayCodec.fit(data)
    x, jacobian = codec.encode(data), codec.spread(data)[1]
    back = codec.decode(x)
    monkeypatch.setattr(array, "_AT_ONCE", 200)
    assert torch.equal(codec.encode(data), x)
    assert torch.equal(codec.spread(data)[1], jacobian)
    np.testing.assert_array_equal(codec.decode(x).values, back.values)


def test_the_key_of_an_npz_comes_back_also_after_json() -> None:
    data = Array(values((5, 3)), name="features")
    codec = codec_from_json(json.loads(json.dumps(ArrayCodec.fit(data).to_json())))
    back = codec.decode(codec.encode(data))
    assert isinstance(back, Array)
    assert back.name == "features"
