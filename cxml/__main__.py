"""The command `cxml`, also `python -m cxml`: every command of the project under one name.

cxml --help
cxml train --config quickstart

Nothing heavy is imported here: the chosen command does that.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence

from cxml import __version__

COMMANDS = {
    "train": ("cxml.commands.train", "From raw text to a trained and evaluated model, stage by stage."),
    "predict": ("cxml.commands.predict", "Predict the labels of texts: files of any size, or standard input."),
    "evaluate": ("cxml.commands.evaluate", "Evaluate a trained model again, beside other models and systems."),
    "export": ("cxml.commands.export", "Write a trained model as one self-contained folder."),
    "serve": ("cxml.commands.serve", "Serve a trained model over HTTP."),
    "tune": ("cxml.commands.tune", "Search a config's fields for better values, on held-out texts."),
    "similar": ("cxml.commands.similar", "Show labels and training texts that a model holds for alike."),
    "relabel": ("cxml.commands.relabel", "Carry a trained model over to a changed label set."),
    "recluster": ("cxml.commands.recluster", "Build a label tree from what a trained model has learnt."),
}
"""Module and summary of each command."""

DATA_COMMANDS = {
    "prepare": ("cxml.commands.data.prepare", "Make the prepared data set of a config from raw texts and labels."),
    "inspect": ("cxml.commands.data.inspect", "Show counts, lengths, labels and examples of a prepared data set."),
    "validate": ("cxml.commands.data.validate", "Check everything that a prepared data set promises."),
    "split": ("cxml.commands.data.split", "Hold out a validation split from a prepared data set."),
    "propensity": ("cxml.commands.data.propensity", "Write the inverse propensity of every label."),
    "tree-report": ("cxml.commands.data.tree_report", "Show sizes, balance and examples of a label tree."),
    "import-tree": ("cxml.commands.data.import_tree", "Use a label tree that another tool made."),
}
"""The same of the commands of `cxml data`."""

_USAGE = """usage: cxml COMMAND ...
       cxml COMMAND --help
       cxml --version

Extreme multi-label text classification with CascadeXML: one text in, the few right labels out of very many.

The usual way:
  cxml train --config quickstart                  a first run, on data that a package ships
  cxml train --config mine.yaml --dry-run         plan, memory, steps and time of a run on your own data
  cxml train --config mine.yaml                   the run: data, label tree, model, report
  cxml predict runs/mine texts.txt --k 10         labels of other texts
  cxml serve runs/mine                            the same over HTTP
"""
_DATA_USAGE = """usage: cxml data COMMAND ...
       cxml data COMMAND --help

Prepared data sets and label trees: make them, look at them, check them, cut them.
  cxml data inspect runs/mine/data
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, 0 after help, or 2 where there is no such command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--version"]:
        print(f"cxml {__version__}")
        return 0
    if words[:1] == ["data"]:
        return _run("cxml data", DATA_COMMANDS, {}, _DATA_USAGE, words[1:])
    return _run("cxml", COMMANDS, {"data": "Data sets and trees: " + ", ".join(DATA_COMMANDS) + "."}, _USAGE, words)


def _run(
    program: str, commands: Mapping[str, tuple[str, str]], groups: Mapping[str, str], usage: str, words: list[str]
) -> int:
    """Run the command that the first word names; `groups` are further names to list, with their summaries."""
    name, *rest = words or ["--help"]
    if name in ("-h", "--help"):
        summaries = {**{each: summary for each, (_, summary) in commands.items()}, **groups}
        print(usage + "\nCommands:\n" + "\n".join(f"  {each:<13}{text}" for each, text in summaries.items()))
        return 0
    if name not in commands:
        near = difflib.get_close_matches(name, [*commands, *groups], n=1)
        hint = f"Did you mean {near[0]}?" if near else f"See {program} --help."
        print(f"{program}: unknown command {name[:80]!r}. {hint}", file=sys.stderr)
        return 2
    from cxml.cli import called_as  # noqa: PLC0415 - what only a command needs

    with called_as(f"{program} {name}"):
        return importlib.import_module(commands[name][0]).main(rest)


if __name__ == "__main__":
    sys.exit(main())
