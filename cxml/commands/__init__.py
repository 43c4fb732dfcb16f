"""The commands: one module each, with the command's options as a dataclass and its `main`.

`cxml NAME` (`cxml.__main__`) and `python -m cxml.NAME` run `cxml.commands.NAME`. `cxml data NAME` and
`python -m cxml.data_tools.NAME` run `cxml.commands.data.NAME`. A module parses its options before it imports anything
heavy.
"""
