"""The command `cxml` (also `python -m cxml`), with all commands of the project as subcommands.

cxml --help
cxml train --config quickstart

This module imports no heavy library; the chosen command does.
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
    "evaluate": (
        "cxml.commands.evaluate",
        "Evaluate a trained model again, and compare it with other models and systems.",
    ),
    "export": ("cxml.commands.export", "Export a trained model as a self-contained folder."),
    "serve": ("cxml.commands.serve", "Serve a trained model over HTTP."),
    "tune": ("cxml.commands.tune", "Search for better values of config fields, on held-out texts."),
    "similar": ("cxml.commands.similar", "Show similar labels and train texts by the features of a model."),
    "relabel": ("cxml.commands.relabel", "Move a trained model to a changed label set."),
    "recluster": ("cxml.commands.recluster", "Build a label tree from the features of a trained model."),
}
"""Module and summary of each command."""

DATA_COMMANDS = {
    "prepare": ("cxml.commands.data.prepare", "Prepare the data set of a config from raw texts and labels."),
    "inspect": ("cxml.commands.data.inspect", "Show counts, lengths, labels and examples of a prepared data set."),
    "validate": ("cxml.commands.data.validate", "Check every property of the format of a prepared data set."),
    "split": ("cxml.commands.data.split", "Hold out a validation split from a prepared data set."),
    "propensity": ("cxml.commands.data.propensity", "Write the inverse propensities of all labels."),
    "tree-report": ("cxml.commands.data.tree_report", "Show sizes, balance and examples of a label tree."),
    "import-tree": ("cxml.commands.data.import_tree", "Import the label tree of another tool."),
}
"""Module and summary of each command of `cxml data`."""

_USAGE = """usage: cxml COMMAND ...
       cxml COMMAND --help
       cxml --version

Extreme multi-label text classification with CascadeXML: each text gets its few correct labels out of
thousands to millions.

Examples:
  cxml train --config quickstart                  train on data from a Python package
  cxml train --config mine.yaml --dry-run         print plan, memory, steps and estimated time
  cxml train --config mine.yaml                   train on your own data
  cxml predict runs/mine texts.txt --k 10         predict the labels of texts
  cxml serve runs/mine                            predict over HTTP
"""
_DATA_USAGE = """usage: cxml data COMMAND ...
       cxml data COMMAND --help

Prepare, inspect, validate and split data sets, and inspect and import label trees.

Example:
  cxml data inspect runs/mine/data
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code, 0 after help, or 2 for an unknown command."""
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
    """Run the command named by the first word; `groups` are further names to list, with their summaries."""
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
