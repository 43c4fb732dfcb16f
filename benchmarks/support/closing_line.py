"""Prints the last line of every benchmark: its figure against a peer or a limit, for programs that collect them."""

import json


def print_closing_line(
    name: str,
    figure: float,
    unit: str,
    peer: float,
    *,
    goal: float,
    lower_is_better: bool = False,
    provided: bool = True,
) -> None:
    """Print one line of JSON; a `ratio` above 1 means better than the peer, and `goal` is its lower bound.

    The goal is reached only if `provided` holds too, for example a quality no worse than the peer's.
    """
    ratio = peer / figure if lower_is_better else figure / peer
    line = {"name": name, "figure": figure, "unit": unit, "peer": peer, "ratio": ratio, "goal": goal}
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in line.items()}
    print(json.dumps({**rounded, "holds": ratio >= goal and provided}))
