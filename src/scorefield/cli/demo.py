"""scorefield demo: the main job on real data that ships with a dependency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scorefield.data.kinds import Data, Images

DATA = "sklearn:digits"


def ten_of_each(digits: Data) -> Images:
    """The first ten images of each label, label by label."""
    import numpy as np

    from scorefield.data.kinds import Images

    assert isinstance(digits, Images)
    assert digits.labels is not None
    return digits.rows(np.concatenate([np.flatnonzero(digits.labels == label)[:10] for label in range(10)]))


def demo(
    out: Annotated[Path, typer.Option(help="folder for the model, the samples and the picture")] = Path(
        "scorefield-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="of all randomness")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Learn 1797 handwritten digits (8 by 8 pixels), draw new ones, say how likely some are, and show a picture."""
    import time

    import pyarrow as pa

    from scorefield.api import fit
    from scorefield.cli.console import Console, clock
    from scorefield.data.kinds import Table
    from scorefield.data.read import read
    from scorefield.data.write import write
    from scorefield.report.pictures import picture_beside
    from scorefield.scoring import Scoring

    start = time.monotonic()
    data = read(DATA)
    run = out / "run"
    with Console() as console:
        console.say(f"{DATA}: {data.describe()}")
        bundle = fit(data, out=run, condition=["label"], seed=seed, device=device, report=console)
        began = time.perf_counter()
        samples = bundle.sample(1000, seed=seed, on_progress=console.drawing())
        each = (time.perf_counter() - began) / len(samples)
        for name in ("samples.npz", "samples.parquet"):
            write(samples, out / name)
        shown, title = ten_of_each(data), "scikit-learn's digits, and digits drawn from the model"
        picture_beside(shown, ten_of_each(samples), out / "samples.png", title)
        began = time.perf_counter()
        how = Scoring(tolerance=1e-2, probes=2, draws=1)
        scores = bundle.log_prob(shown, how, on_progress=console.drawing("scored"))
        bits, each_score = scores.bits_per_dim, (time.perf_counter() - began) / len(shown)
    columns = {"label": shown.labels, "log_prob": scores.log_prob.numpy(), "std_error": scores.std_error.numpy()}
    write(Table(pa.table({**columns, "bits_per_dim": bits.numpy()}), source="scores"), out / "scores.csv")
    training = bundle.facts["training"]
    print(
        f"\nlearned in {training['steps']} steps, {training['milliseconds_a_step']:.3g} ms each; "
        f"1000 samples, {1000 * each:.3g} ms each; 100 digits scored, {1000 * each_score:.3g} ms each: "
        f"{float(bits.mean()):.3f} ± {float(bits.std()) / 10:.2g} bits/dim (17 grey values are 4.09 bits); "
        f"{clock(time.monotonic() - start)} in all\n\n"
        f"  {out / 'samples.png'}      samples beside the data\n"
        f"  {out / 'samples.npz'}      1000 samples with their labels (also as .parquet)\n"
        f"  {out / 'scores.csv'}       how likely each of the 100 digits of the data in the picture is\n"
        f"  {run}              the model: scorefield inspect {run}\n\n"
        f"more of one digit:  scorefield sample {run} --given label=7 --rows 64 --out sevens.npz"
    )
