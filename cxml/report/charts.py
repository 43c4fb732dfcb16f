"""Charts of a run as SVG text in the page's colours."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK = "#010203"  # placeholder for the page's text colour
_SIZE = (6.4, 3.2)
_MOST_LEVEL_NAMES = 5  # slanted above this number


def losses_chart(steps: Sequence[Mapping[str, Any]], level_names: Sequence[str]) -> str:
    """The loss of each level over the epochs, on a logarithmic axis.

    Args:
        steps: lines of `metrics.jsonl` of kind `train`.
        level_names: one per level.
    """
    return _chart(lambda axes: _draw_losses(axes, steps, level_names))


def line_chart(steps: Sequence[Mapping[str, Any]], field: str, label: str) -> str:
    """One field of the training records over the epochs."""

    def draw(axes: Axes) -> None:
        axes.plot([step["epoch"] for step in steps], [step[field] for step in steps], linewidth=1.2)
        axes.set(xlabel="epoch", ylabel=label, ylim=(0, None))

    return _chart(draw)


def bars_chart(names: Sequence[str], series: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> str:
    """Grouped bars: one group per name, with one bar per series."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(series)
        for number, (label, values) in enumerate(series.items()):
            places = [place - 0.4 + (number + 0.5) * width for place in range(len(names))]
            bars = axes.bar(places, values, width, label=label)
            axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=1)
        rotation, place = (30, "right") if len(names) > _MOST_LEVEL_NAMES else (0, "center")
        axes.set_xticks(range(len(names)), names, rotation=rotation, ha=place)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if len(series) > 1:
            axes.legend(frameon=False)

    return _chart(draw)


def _draw_losses(axes: Axes, steps: Sequence[Mapping[str, Any]], level_names: Sequence[str]) -> None:
    epochs = [step["epoch"] for step in steps]
    for level, name in enumerate(level_names):
        axes.plot(epochs, [step["level_losses"][level] for step in steps], label=name, linewidth=1.2)
    axes.set(xlabel="epoch", ylabel="loss per text", yscale="log")
    axes.legend(frameon=False)


def _chart(draw: Callable[[Axes], None]) -> str:
    return svg_of(lambda figure: draw(figure.subplots()), _SIZE)


def svg_of(draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """Draw a figure as SVG text without a background, with text and axes in the page's colour; deterministic bytes.

    Args:
        draw: fills the empty figure.
        size: width and height in inches.
    """
    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "cxml", "font.family": "sans-serif", "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
