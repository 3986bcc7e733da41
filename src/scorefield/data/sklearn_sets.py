"""The data sets that ship with scikit-learn, `sklearn:NAME`; those that it would download are refused."""

from __future__ import annotations

import numpy as np

from scorefield.data.kinds import Images, Table
from scorefield.data.schema import suggestion
from scorefield.errors import OptionError

TABLES = ("iris", "wine", "breast_cancer", "diabetes", "linnerud")
SETS = ("digits", *TABLES)
_DOWNLOADED = (
    "olivetti_faces",
    "california_housing",
    "covtype",
    "kddcup99",
    "lfw_people",
    "lfw_pairs",
    "20newsgroups",
    "rcv1",
    "species_distributions",
    "openml",
)


def read_sklearn(name: str) -> Images | Table:
    """Read a data set that ships with scikit-learn; nothing is downloaded.

    Args:
        name: one of the names in SETS.

    Returns:
        digits as 1797 images of 8×8 with values 0 to 16 and labels; the others as tables whose last column is `target`,
        an integer for classes (linnerud has three targets, by their names).

    Raises:
        OptionError: for a set that needs the network, or an unknown name.
    """
    source = f"sklearn:{name}"
    if name in _DOWNLOADED or name.split("_", maxsplit=1)[0] in ("olivetti", "california", "lfw"):
        raise OptionError(
            f"{source}: scikit-learn would download it, and nothing is downloaded here; there are {', '.join(SETS)}"
        )
    if name not in SETS:
        raise OptionError(f"{source}: no such set{suggestion(name, SETS)}; there are {', '.join(SETS)}")
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{name}")()
    if name == "digits":
        return Images(
            loaded.images.astype(np.uint8)[..., None],
            "L",
            labels=loaded.target.astype(np.int64),
            label_name="label",
            maximum=16,
            source=source,
        )
    import pyarrow as pa

    names = [str(feature) for feature in loaded.feature_names]
    columns = [pa.array(np.ascontiguousarray(column)) for column in loaded.data.T]
    if loaded.target.ndim == 1:
        names.append("target")
        columns.append(pa.array(loaded.target))
    else:
        names += [str(target) for target in loaded.target_names]
        columns += [pa.array(np.ascontiguousarray(column)) for column in loaded.target.T]
    return Table(pa.table(columns, names=names), source=source)
