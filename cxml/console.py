"""Standard output and standard error of commands, on terminals and in files."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import traceback
import warnings
from types import TracebackType
from typing import TextIO

from rich.console import Console

from cxml import urls
from cxml.errors import StorageError

_log = logging.getLogger(__name__)


def table_console(log_width: int) -> Console:
    """A console for tables, as wide as the terminal, or with `log_width` columns without a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=log_width)


def counted(number: int, noun: str) -> str:
    """A number of things for people, such as `1 text` and `2,000 train texts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@functools.cache
def log_once(message: str, level: int = logging.INFO) -> None:
    """Log a message once per process, although the code that finds its reason runs more than once."""
    _log.log(level, "%s", message)


def escape_unprintable() -> None:
    """Escape characters that the encoding of standard output lacks, so that no locale makes a finished run fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def write_out(content: str | bytes) -> None:
    """Write to standard output, and flush it.

    Raises:
        StorageError: it is closed, or redirected to a file that cannot be written.
        BrokenPipeError: its reader has ended, as with `| head`; see `cxml.cli.handle_broken_pipe`.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  so it is behind `>&-`
        raise StorageError("standard output is closed. Keep it open, or give an output file.")
    try:
        if isinstance(content, bytes):
            sys.stdout.buffer.write(content)
        else:
            sys.stdout.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output(sys.stdout)
        raise StorageError(f"standard output: {error}. Check its destination and the free space there.") from error


def discard_output(stream: TextIO) -> None:
    """Discard buffered output, so that the flush at the end of the program succeeds."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _ErrorStreamHandler(logging.StreamHandler):
    """Writes to the current standard error, which a progress bar replaces to keep the log above itself."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None: ...


class _MaskingFormatter(logging.Formatter):
    """Masks credentials of URLs in messages and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return urls.masked(super().format(record))


def _print_masked(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` that masks credentials of URLs."""
    print(urls.masked("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def set_up_logging(*, is_main: bool) -> None:
    """Show this program's log on standard error; processes other than the speaker show only warnings.

    Credentials of URLs are masked in the log and in tracebacks of uncaught errors.
    """
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415  heavy, and not needed for --help

    level = logging.INFO if is_main else logging.WARNING
    handler = _ErrorStreamHandler()
    handler.setFormatter(_MaskingFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    sys.excepthook = _print_masked
    logging.getLogger("cxml").setLevel(level)
    # DeepSpeed and transformers log internals at every start.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch\.distributed|deepspeed|transformers")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
