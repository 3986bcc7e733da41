"""The exceptions of the project: one family, each with a message that names the place."""

from __future__ import annotations


class ScorefieldError(Exception):
    """Base of every refusal; the command line turns it into exit code 2."""


class DataError(ScorefieldError):
    """The data is wrong: the message names the file, the row or column, what was found and what was expected."""


class OptionError(ScorefieldError):
    """An option, a recipe field or an argument is wrong: the message names it, and the closest right one."""


class BundleError(ScorefieldError):
    """A bundle or checkpoint on disk is damaged or of another kind: the message names the file."""


class TrainingError(ScorefieldError):
    """Training cannot go on: the message names the step, the noise level and the rows."""


class SamplingError(ScorefieldError):
    """Sampling was misused or produced non-finite values: the message names the row, the step and the level."""


class Interrupted(ScorefieldError):  # noqa: N818 - no error: the same command goes on later
    """Long work was asked to stop, and stopped cleanly; the command line exits with 75."""
