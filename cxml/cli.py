"""Command lines: a YAML file provides the config, options override its fields, `--help` documents them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import io
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar

import tyro

from cxml import extras, urls
from cxml.config import Config, DataConfig, SourceConfig, config_from_dict, config_to_dict
from cxml.config_files import config_of_table, load_config, own_configs
from cxml.console import discard_output, escape_unprintable, set_up_logging
from cxml.errors import ConfigError, CxmlError, InterruptionError
from cxml.operating_system import has_reader
from cxml.stopping import Stopped, stopping_on_signals

EXIT_STOPPED = 75
"""Exit code after a signal other than Ctrl-C; EX_TEMPFAIL of sysexits.h: try again later."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C; shells report it for a program that SIGINT ended."""
EXIT_NO_READER = 141
"""Exit code if the reader of the output, such as `head`, has ended; shells report it after SIGPIPE."""

_AFTER_A_SIGNAL = "Run the same command again."

_called: ContextVar[str] = ContextVar("called", default="")
_MODULE_CALL = re.compile(r"python -m cxml\.(data_tools\.)?([a-z_]+)")

_Command = TypeVar("_Command")

Settings = Annotated[Config, tyro.conf.arg(name="")]
"""The run's config in a command; its fields become options without a prefix."""

_DEFAULTS = Config(output=tyro.MISSING, data=DataConfig(source=SourceConfig(path=tyro.MISSING)))
"""The config whose values `--help` shows if no config file is given: defaults, and fields without one as required."""


@contextlib.contextmanager
def called_as(program: str) -> Iterator[None]:
    """In help texts, show commands as subcommands of `cxml`, and the running one as `program`."""
    token = _called.set(program)
    try:
        yield
    finally:
        _called.reset(token)


def parse_command(command: type[_Command], program: str, arguments: Sequence[str] | None = None) -> _Command:
    """Parse a command's options and its config file.

    Args:
        command: a dataclass whose docstring is the help, with a field `settings: Settings`. The option `--config`
            (a YAML file) fills the settings, or a table of texts and labels as the first argument (`config_of_table`);
            every other option overrides one field.
        program: name of the command in the help.
        arguments: the command line; None uses that of the process.

    Raises:
        ConfigError: the file or an option has an unknown field or an invalid value.
    """
    escape_unprintable()
    words = _words(arguments)
    table, words = (words[0], words[1:]) if words and not words[0].startswith("-") else ("", words)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", action="append", default=[])
    files, rest = first.parse_known_args(words)
    asks_for_help = bool({"-h", "--help"} & set(rest))
    settings = _settings(files.config[-1] if files.config else "", table, asks_for_help=asks_for_help)
    # Help and errors name its values as defaults.
    shown_settings = settings if settings is _DEFAULTS else config_from_dict(config_to_dict(settings))
    names = ", ".join(name for name in own_configs() if "/" not in name)
    required = (
        f"Required: --config FILE, a YAML file with the fields below, or the name of a built-in config: {names}. "
        "Or DATA as the first argument: a table file with texts and labels, or a folder of such files. The run then "
        "chooses all settings that no option gives, and its output is runs/NAME, with the name of DATA."
    )

    def parse(given: Sequence[str], settings: Config) -> Any:  # noqa: ANN401 - a command
        return tyro.cli(
            command,
            prog=_called.get() or program,
            description=f"{_help(command.__doc__)}\n\n{required}",
            args=given,
            default=command(settings=settings),  # pyright: ignore[reportCallIssue]  every command has settings
        )

    parsed = _masking_errors(
        lambda: parse(rest, shown_settings if asks_for_help else settings),
        lambda: parse(_masked(rest), shown_settings),
    )
    return dataclasses.replace(parsed, settings=_without_given(parsed.settings, rest))


def _settings(config: str, table: str, *, asks_for_help: bool) -> Config:
    """The settings before options: those of the config file, or of a run on a table."""
    if config and table:
        problem = f"is given together with the data {table!r}"
        raise ConfigError("--config", config, problem, "Give one of them; a config names its data itself.")
    if config:
        return load_config(config)
    if table:
        return config_of_table(table)
    if asks_for_help:
        return _DEFAULTS
    remedy = "Give a YAML file, the name of a built-in config such as quickstart, or first of all a table of texts."
    raise ConfigError("--config", None, "is missing", remedy)


def _words(arguments: Sequence[str] | None) -> list[str]:
    """The command line, or the process's own; no later message shows the credentials of the URLs in it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for word in words:
        urls.remember_credentials(word.partition("=")[2] if word.startswith("--") else word)
    return words


def _without_given(settings: Config, words: Sequence[str]) -> Config:
    """The config in which fields given as options are not chosen by the run, even if given their default."""
    options = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")}
    given = {option.replace(".no_", ".") for option in options}
    return dataclasses.replace(settings, auto=tuple(name for name in settings.auto if name not in given))


def _masked(words: Sequence[str]) -> list[str]:
    return [urls.masked(word) for word in words]


def _masking_errors(parse: Callable[[], _Command], parse_masked: Callable[[], object]) -> _Command:
    """The options of a command line; where it is wrong, `tyro` repeats it without the credentials of URLs.

    Args:
        parse: parses it.
        parse_masked: the same without credentials: no pattern finds what the box around an error breaks into lines.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as end:
        if end.code:
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
                parse_masked()
        raise
    finally:
        print(urls.masked(said.getvalue()), file=sys.stderr, end="")


def exit_with_message(error: CxmlError | KeyboardInterrupt, remedy: str = "") -> int:
    """Print the reason for the end of a command, without a traceback.

    Args:
        error: the error that ended it.
        remedy: what to do after Ctrl-C or another signal.

    Returns:
        The exit code: 130 after Ctrl-C, 75 after another signal, else 2.
    """
    if isinstance(error, Stopped):
        print(f"{error} stopped the command. {remedy}".rstrip(), file=sys.stderr)
        return EXIT_STOPPED
    if isinstance(error, KeyboardInterrupt):
        print(f"Interrupted. {remedy}".rstrip(), file=sys.stderr)
        return EXIT_INTERRUPTED
    if isinstance(error, InterruptionError):
        print(error, file=sys.stderr)
        return EXIT_STOPPED
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 2


def run_with_config(
    command: type[_Command],
    action: Callable[[_Command], None],
    program: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse a command's options and its config file like `parse_command`, and run it.

    Args:
        command: see `parse_command`.
        action: the function to run. It imports heavy libraries itself, after the command line was validated.
        program: name of the command in the help.
        arguments: the command line; None uses that of the process.

    Returns:
        The exit code: 0, that of `exit_with_message`, or `EXIT_NO_READER`.
    """
    return _run(lambda: parse_command(command, program, arguments), action)


def run_tool(
    command: type[_Command],
    action: Callable[[_Command], None],
    program: str,
    arguments: Sequence[str] | None = None,
    description: str | None = None,
) -> int:
    """Parse the options of a dataclass `command` without a config, and run it.

    Args:
        command: its docstring is the help, unless `description` is given.
        action: the function to run; see `run_with_config`.
        program: name of the command in the help.
        arguments: the command line; None uses that of the process.
        description: the help.

    Returns:
        The exit code, see `run_with_config`.
    """
    escape_unprintable()
    words = _words(arguments)
    text = _help(description or command.__doc__)

    def parse(given: Sequence[str]) -> _Command:
        return tyro.cli(command, prog=_called.get() or program, description=text, args=given)

    return _run(lambda: _masking_errors(lambda: parse(words), lambda: parse(_masked(words))), action)


def _help(text: str | None) -> str:
    """Format a docstring for `tyro`, which joins the lines of a paragraph except indented ones such as examples."""
    paragraphs = (paragraph.splitlines() for paragraph in inspect.cleandoc(text or "").split("\n\n"))
    text = "\n\n".join(
        textwrap.indent("\n".join(lines), "    ") if all("python -m " in line for line in lines) else "\n".join(lines)
        for lines in paragraphs
    )
    return _MODULE_CALL.sub(_as_command, text) if _called.get() else text


def _as_command(call: re.Match[str]) -> str:
    """`cxml data split` for `python -m cxml.data_tools.split`."""
    return f"cxml {'data ' if call[1] else ''}{call[2].replace('_', '-')}"


def handle_broken_pipe(act: Callable[[], int]) -> int:
    """The exit code of `act`, or `EXIT_NO_READER` if the reader of standard output, such as `head`, ends first."""
    try:
        code = act()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _has_lost_its_reader():
            raise
        return EXIT_NO_READER
    return code


def _run(parse: Callable[[], _Command], action: Callable[[_Command], None]) -> int:
    return handle_broken_pipe(lambda: _run_until_done(parse, action))


def _run_until_done(parse: Callable[[], _Command], action: Callable[[_Command], None]) -> int:
    try:
        options = parse()
        with stopping_on_signals():
            set_up_logging(is_main=True)
            with extras.named():
                action(options)
    except (CxmlError, KeyboardInterrupt) as error:
        return exit_with_message(error, _AFTER_A_SIGNAL)
    return 0


def _has_lost_its_reader() -> bool:
    """Whether the reader of standard output has ended; remaining output is then discarded."""
    if has_reader(sys.stdout.fileno()):
        return False
    discard_output(sys.stdout)
    return True
