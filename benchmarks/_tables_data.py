"""Nine real tables, what their columns are and what is to be predicted, their splits, and rows as points to measure.

The kinds of columns here are for the peers and the measures; scorefield is given the table as people have it, with
identifiers, missing cells and no word on kinds.

Rows that lack a number are left out, for no peer makes incomplete numbers and no distance knows them (two penguins); a
missing category counts as a category of its own (penguins' sex, three columns of adult).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets

from scorefield.randomness import Stream

NONE = "(missing)"
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Named:
    """A table by name.

    Args:
        name: of the table.
        frame: all its columns.
        target: the column that is predicted.
        categories: names of columns that are categories; those of two values are among them.
        whole: names of columns of whole numbers; all that remain are numbers.
        left_out: identifiers, which neither peers nor measures see.
    """

    name: str
    frame: pd.DataFrame
    target: str
    categories: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Categories first, then numbers: the order for the peers and the measures."""
        numbers = [c for c in self.frame.columns if c not in (*self.categories, *self.left_out)]
        return [*self.categories, *numbers]

    @property
    def numbers(self) -> list[str]:
        """The columns that are no categories."""
        return self.columns[len(self.categories) :]

    @property
    def classes(self) -> bool:
        """Whether a category is predicted."""
        return self.target in self.categories

    def tidy(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The measured columns: categories as text, the missing by a name of their own, numbers in float64."""
        made = {c: _text(frame[c]) for c in self.categories}
        made |= {c: pd.to_numeric(frame[c]).astype(np.float64) for c in self.numbers}
        return pd.DataFrame(made)[self.columns].reset_index(drop=True)


def _text(column: pd.Series) -> pd.Series:
    """Values as text, alike for 1, 1.0 and "1"."""
    if pd.api.types.is_bool_dtype(column):
        column = column.astype(int)
    if pd.api.types.is_numeric_dtype(column):
        return column.map(lambda value: NONE if pd.isna(value) else f"{value:g}").astype(object)
    return column.astype(object).where(column.notna(), NONE).astype(str).astype(object)


def _of_sklearn(load: Callable, name: str, folder: Path, whole: tuple[str, ...] = ()) -> Named:
    found = load()
    frame = pd.DataFrame(found.data, columns=[str(c) for c in found.feature_names])
    frame["class"] = [str(found.target_names[k]) for k in found.target]
    return Named(name, frame, "class", ("class",), whole)


def _without_header(file: str, name: str, target: int, folder: Path) -> Named:
    frame = pd.read_csv(folder / file, header=None)
    frame.columns = [f"x{k}" for k in range(frame.shape[1])]
    return Named(name, frame, f"x{target}")


def _penguins(folder: Path) -> Named:
    frame = pd.read_csv(folder / "penguins.csv")
    whole = ("flipper_length_mm", "body_mass_g")
    return Named("penguins", frame, "species", ("species", "island", "sex"), whole)


def _churn(folder: Path) -> Named:
    categories = ("Exited", "Geography", "Gender", "HasCrCard", "IsActiveMember")
    whole = ("CreditScore", "Age", "Tenure", "NumOfProducts")
    identifiers = ("RowNumber", "CustomerId", "Surname")
    return Named("churn", pd.read_csv(folder / "churn.csv"), "Exited", categories, whole, identifiers)


def _adult(folder: Path) -> Named:
    frame = pd.read_csv(folder / "adult-train.csv")
    whole = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
    return Named("adult", frame, "class", tuple(c for c in frame.columns if c not in whole), whole)


def _diamonds(folder: Path) -> Named:
    return Named("diamonds", pd.read_csv(folder / "diamonds.csv"), "price", ("cut", "color", "clarity"), ("price",))


TABLES: dict[str, Callable[[Path], Named]] = {
    "iris": lambda folder: _of_sklearn(datasets.load_iris, "iris", folder),
    "wine": lambda folder: _of_sklearn(datasets.load_wine, "wine", folder, ("proline",)),
    "cancer": lambda folder: _of_sklearn(datasets.load_breast_cancer, "cancer", folder),
    "penguins": _penguins,
    "red wine": lambda folder: _without_header("wine.csv", "red wine", 10, folder),  # quality; alcohol is last
    "parkinsons": lambda folder: _without_header("parkinsons.csv", "parkinsons", 20, folder),  # total UPDRS
    "churn": _churn,
    "diamonds": _diamonds,
    "adult": _adult,
}
OF_SKLEARN = ("iris", "wine", "cancer")


@dataclass(frozen=True)
class Split:
    """A table cut in two.

    Args:
        table: the table.
        number: of the split.
        train: rows to learn from, as people have them.
        test: rows held out, as people have them.
    """

    table: Named
    number: int
    train: pd.DataFrame
    test: pd.DataFrame


def split(table: Named, number: int, most: int | None, most_test: int) -> Split:
    """Fixed split `number`: a fifth held out; no more than so many rows of each part, for all methods the same.

    The rows held out do not depend on how many are learnt from.
    """
    complete = table.frame[table.frame[table.numbers].notna().all(axis=1)]
    order = Stream(number, f"tables split {table.name}").permutation(len(complete))
    held = int(len(complete) * _TEST_SHARE)
    train = complete.iloc[order[held:][:most]].reset_index(drop=True)
    return Split(table, number, train, complete.iloc[order[:held][:most_test]].reset_index(drop=True))


@dataclass(frozen=True)
class Scaling:
    """Numbers to [0, 1] by the range of the training rows, categories one-hot with one half, so that two differ by 1.

    Args:
        table: the table.
        low, width: of the numbers in the training rows.
        levels: values of each category, of all rows.
    """

    table: Named
    low: np.ndarray
    width: np.ndarray
    levels: dict[str, list[str]]

    @staticmethod
    def fit(part: Split) -> Scaling:
        """Of the training rows; the names of categories from both parts."""
        train, test = part.table.tidy(part.train), part.table.tidy(part.test)
        numbers = train[part.table.numbers].to_numpy()
        low, width = numbers.min(0), np.ptp(numbers, axis=0)
        levels = {c: sorted(set(train[c]) | set(test[c])) for c in part.table.categories}
        return Scaling(part.table, low, np.where(width > 0, width, 1.0), levels)

    def __call__(self, tidy: pd.DataFrame) -> np.ndarray:
        """Tidy rows as points (n, d) between which city-block distances are measured."""
        numbers = (tidy[self.table.numbers].to_numpy() - self.low) / self.width
        return np.concatenate([numbers, self.one_hot(tidy, list(self.table.categories)) / 2], axis=1)

    def one_hot(self, tidy: pd.DataFrame, names: list[str]) -> np.ndarray:
        """These categories, one column for each value."""
        parts = [tidy[c].to_numpy()[:, None] == np.array(self.levels[c], dtype=object)[None] for c in names]
        return np.concatenate(parts, axis=1).astype(np.float64) if parts else np.zeros((len(tidy), 0))

    def features(self, tidy: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """What the target is predicted from (n, d), and the target (n,)."""
        scaled = (tidy[self.table.numbers].to_numpy() - self.low) / self.width
        keep = [k for k, c in enumerate(self.table.numbers) if c != self.table.target]
        categories = [c for c in self.table.categories if c != self.table.target]
        return np.concatenate([scaled[:, keep], self.one_hot(tidy, categories)], axis=1), tidy[
            self.table.target
        ].to_numpy()
