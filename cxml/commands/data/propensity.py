"""Write the inverse propensity of every label of a prepared data set, for other tools that compute PSP@k.

python -m cxml.data_tools.propensity runs/mine/data inverse_propensities.txt --a 0.55 --b 1.5
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from cxml import urls
from cxml.cli import run_tool


@dataclass(frozen=True, kw_only=True)
class PropensityCommand:
    """Write the inverse propensities 1 / p_l (Jain et al. 2016) of all labels, from their train frequencies.

    cxml's own metrics compute them from `data.propensity_a` and `data.propensity_b`.
    """

    url: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URL")]
    """Folder or fsspec URL of the prepared data set."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """File or URL to write: one number per line in the order of the label ids, or a NumPy array if it ends in .npy."""
    a: float = 0.55
    """Constant A: 0.6 for Amazon data sets, 0.5 for Wiki-500K, 0.55 for others."""
    b: float = 1.5
    """Constant B: 2.6 for Amazon data sets, 0.4 for Wiki-500K, 1.5 for others."""


def _run(command: PropensityCommand) -> None:
    from cxml.inspection.propensities import write_inverse_propensities  # noqa: PLC0415  heavy

    weights = write_inverse_propensities(command.url, command.out, command.a, command.b)
    bounds = f"from {weights.min():.3f} to {weights.max():.3f}"
    print(f"{len(weights):,} inverse propensities {bounds} at {urls.masked(command.out)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_tool(PropensityCommand, _run, "python -m cxml.data_tools.propensity", arguments)


if __name__ == "__main__":
    sys.exit(main())
