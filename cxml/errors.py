"""The errors of cxml. Each names the problem, its location and the remedy."""

from __future__ import annotations

from collections.abc import Callable

from cxml import urls


class CxmlError(Exception):
    """Base class of all errors that cxml raises on purpose.

    Credentials of URLs are masked in its message.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(urls.masked(each) if isinstance(each, str) else each for each in arguments))


class ConfigError(CxmlError, ValueError):
    """A configuration value is unknown or invalid. Names the field, the value and the remedy."""

    def __init__(self, field: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(f"{field} = {value!r}: {problem}. {remedy}")
        self.field = field
        self.value = value
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str, str]]:
        return type(self), (self.field, self.value, self.problem, self.remedy)


class DataError(CxmlError, ValueError):
    """An input file is broken. Names the file, the line if there is one, and the remedy."""

    def __init__(self, file: str, problem: str, remedy: str, *, line: int | None = None) -> None:
        place = file if line is None else f"{file}, line {line}"
        super().__init__(f"{place}: {problem}. {remedy}")
        self.file = file
        self.problem = problem
        self.remedy = remedy
        self.line = line

    def __reduce__(self) -> tuple[Callable[..., DataError], tuple[str, str, str, int | None]]:
        return _make_data_error, (self.file, self.problem, self.remedy, self.line)


def _make_data_error(file: str, problem: str, remedy: str, line: int | None) -> DataError:
    """Constructor for pickle, because errors are sent between processes."""
    return DataError(file, problem, remedy, line=line)


class StaleArtefactError(CxmlError):
    """A stored result was made with another configuration or from other inputs than requested."""


class StorageError(CxmlError, OSError):
    """A file or object store could not be read or written, after retries."""


class DivergenceError(CxmlError):
    """Training diverged: losses, gradients or weights are infinite or NaN."""


class InUseError(CxmlError):
    """Another command writes to the same folder. Names that command."""


class InterruptionError(CxmlError):
    """A command stopped cleanly on a signal. The same command resumes from the saved state."""


class WorkerError(CxmlError):
    """A process of a distributed job failed. Contains its error message."""


class LaunchError(CxmlError):
    """The processes of a job were started in a way in which they cannot find each other."""
