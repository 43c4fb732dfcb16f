"""The errors that cxml raises on purpose: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable

from cxml import urls


class CxmlError(Exception):
    """Root of the family: catch this to catch every error that cxml raises on purpose.

    Its message names URLs without their credentials.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(urls.masked(each) if isinstance(each, str) else each for each in arguments))


class ConfigError(CxmlError, ValueError):
    """A configuration value is unknown or impossible; names the field, the value and the remedy."""

    def __init__(self, field: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(f"{field} = {value!r}: {problem}. {remedy}")
        self.field = field
        self.value = value
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str, str]]:
        return type(self), (self.field, self.value, self.problem, self.remedy)


class DataError(CxmlError, ValueError):
    """An input file is broken; names the file, the line where there is one, and the remedy."""

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
    """What pickle calls: errors travel between processes."""
    return DataError(file, problem, remedy, line=line)


class StaleArtefactError(CxmlError):
    """Something on disk was made by another configuration or from other inputs than the ones asked for."""


class StorageError(CxmlError, OSError):
    """A file or object store could not be read or written, after retries."""


class DivergenceError(CxmlError):
    """Training left the range of floating-point numbers: losses, gradients or weights are infinite or not a number."""


class InUseError(CxmlError):
    """Another command writes to the same folder; names it."""


class InterruptionError(CxmlError):
    """A signal asked a command to stop, and it did, in good order: the same command goes on with what is saved."""


class WorkerError(CxmlError):
    """A process of a distributed job failed; carries its own account of why."""


class LaunchError(CxmlError):
    """The processes of a job were started in a way that does not let them find each other."""
