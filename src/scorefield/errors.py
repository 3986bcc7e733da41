"""The exceptions of the project: one family, each with a message that names the place."""

from __future__ import annotations

from collections.abc import Sequence


class ScorefieldError(Exception):
    """Base of every refusal; the command line turns it into its exit code, 2 where input or options are wrong."""

    exit_code = 2


class DataError(ScorefieldError):
    """The data is wrong: the message names the file, the row or column, what was found and what was expected."""


class OptionError(ScorefieldError, ValueError):
    """An option, a recipe field or an argument is wrong: the message names it, and the closest right one."""


class BundleError(ScorefieldError):
    """A bundle or checkpoint on disk is damaged or of another kind: the message names the file."""


class WriteError(BundleError):
    """The disk refused to take a bundle or checkpoint: the message names the path and the bytes needed."""

    exit_code = 1


class TrainingError(ScorefieldError):
    """Training cannot go on: the message names the step, the noise level and the rows."""

    exit_code = 1


class SamplingError(ScorefieldError):
    """Sampling was misused or produced non-finite values: the message names the row, the step and the level."""

    exit_code = 1


class Interrupted(ScorefieldError):  # noqa: N818 - no error: the same command goes on later
    """Long work was asked to stop, and stopped cleanly; the command line exits with 75."""

    exit_code = 75


class ConstraintError(ScorefieldError):
    """What rows should keep is impossible, or nearly so: the message names the first row.

    Args:
        message: as of any exception.
        rows: the numbers of all the rows concerned.
    """

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)
