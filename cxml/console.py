"""What a command writes to its standard output and standard error, whether a person or a file is at the other end."""

from __future__ import annotations

import contextlib
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


def table_console(log_width: int) -> Console:
    """Where to print tables: as wide as the terminal, or `log_width` columns where there is none, as in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=log_width)


def escape_what_cannot_be_printed() -> None:
    """Let standard output print characters that its encoding lacks as escapes: no locale fails a finished run."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def write_out(content: str | bytes) -> None:
    """Write to standard output, at once.

    Raises:
        StorageError: it is closed, or leads to a file that cannot be written.
        BrokenPipeError: nobody reads it any more, as behind `| head`; see `cxml.cli.until_the_reader_ends`.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  so it is behind `>&-`
        raise StorageError("standard output is closed. Leave it open, or name a file to write.")
    try:
        if isinstance(content, bytes):
            sys.stdout.buffer.write(content)
        else:
            sys.stdout.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_what_is_left(sys.stdout)
        raise StorageError(f"standard output: {error}. Check where it leads to, and make room there.") from error


def drop_what_is_left(stream: TextIO) -> None:
    """Let the flush at the end of the program succeed."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _ErrorStreamHandler(logging.StreamHandler):
    """Writes to what is standard error by then: a progress bar stands in for it, to keep the log above itself."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None: ...


class _MaskingFormatter(logging.Formatter):
    """Shows no credentials of URLs, in messages and in tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return urls.masked(super().format(record))


def _print_masked(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` without the credentials of URLs."""
    print(urls.masked("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def set_up_logging(*, is_speaker: bool) -> None:
    """Show this program's log on standard error; of several processes only the speaker tells more than warnings.

    Neither the log nor the traceback of an error that nobody caught shows the credentials of URLs.
    """
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415  heavy, and not needed for --help

    level = logging.INFO if is_speaker else logging.WARNING
    handler = _ErrorStreamHandler()
    handler.setFormatter(_MaskingFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    sys.excepthook = _print_masked
    logging.getLogger("cxml").setLevel(level)
    # DeepSpeed and transformers tell about their insides at every start.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch\.distributed|deepspeed|transformers")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
