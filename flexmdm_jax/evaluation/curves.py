"""Figures against what they depend on: calls of the network, and MDM's canvas."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flexmdm_jax.evaluation.request import Way
from flexmdm_jax.files import png_of

Figures = Mapping[str, float | None]


def success_curves(curves: Mapping[str, Sequence[Figures]]) -> bytes:
    """Returns a PNG of success by calls of the network, one curve a label, with 95% intervals.

    Args:
      curves: Label -> figures of its points; those without calls, of which nothing was asked, are
        left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    _prepare(axes, "calls of the network", "success (%)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 100)
    for label, points in curves.items():
        asked = [point for point in points if point.get("calls") is not None]
        _draw_by_calls(axes, asked, Panel("success", ""), label)
    _add_legend(axes)
    return png_of(figure)


# What is shown of texts, as far as it was measured.
_OF_TEXTS = {
    "length_w1": "lengths: W1 (tokens)",
    "length_tv": "lengths: TV",
    "generative_perplexity": "generative perplexity",
    "ngram_js_3": "JS of 3-grams (nats)",
    "sample_entropy": "entropy of a text (nats)",
}


def calls_curves(curves: Mapping[str, Sequence[Figures]], text: Figures) -> bytes | None:
    """Returns a PNG of figures of texts by calls of the network, with those of text as lines.

    None, if nothing that it shows was measured.

    Args:
      curves: Label -> figures at each pace.
      text: Those of the control that is text.
    """
    from matplotlib.figure import Figure

    measured = [point for points in curves.values() for point in points]
    panels = [
        Panel(name, heading, 1.0, text.get(name))
        for name, heading in _OF_TEXTS.items()
        if all(name in point for point in measured)
    ]
    if not panels:
        return None
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _prepare(axes, "calls of the network for a text", panel.heading)
        for label, points in curves.items():
            _draw_by_calls(axes, points, panel, label)
        if panel.target is not None:
            axes.axhline(panel.target, color="0.6", ls="--", label="text")
    figure.axes[0].legend(frameon=False)
    return png_of(figure)


@dataclasses.dataclass(frozen=True)
class Panel:
    """A figure that is drawn.

    Attributes:
      name: Of the figure; its interval goes from name_low to name_high, or is its name_error.
      heading: What stands beside it.
      scale: What it is multiplied by: 100 makes per cents of shares.
      target: What it should be, if that is known.
    """

    name: str
    heading: str
    scale: float = 100.0
    target: float | None = None

    def of(self, figures: Figures) -> tuple[float, float, float]:
        """Returns the figure, how far its interval goes down, and how far up; NaN of None."""
        value = self.scale * float("nan" if figures[self.name] is None else figures[self.name])
        low, high = (figures.get(f"{self.name}_{end}") for end in ("low", "high"))
        if low is None or high is None:
            error = self.scale * (figures.get(f"{self.name}_error") or 0.0)
            return value, error, error
        return value, max(value - self.scale * low, 0.0), max(self.scale * high - value, 0.0)


class Found(NamedTuple):
    """What was found of a model that was sampled in one way."""

    label: str
    way: Way
    figures: Figures


def canvas_curves(found: Sequence[Found], panels: Sequence[Panel]) -> bytes:
    """Returns a PNG of figures by the slots that MDM writes on; FlexMDM, without, is a band.

    Args:
      found: Of models with and without a canvas; figures that lack a panel's name, or have none,
        are left out of it.
      panels: What to draw, side by side.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels) + 0.8, 3.6), layout="constrained")
    canvases = sorted({x.way.canvas for x in found if x.way.canvas})
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _prepare(axes, "canvas of MDM (slots)", panel.heading)
        axes.set_xticks(canvases, [str(n) for n in canvases])
        axes.minorticks_off()
        there = [x for x in found if x.figures.get(panel.name) is not None]
        named = lambda x: f"{x.label}, {x.way.rule}, {x.way.pace}"  # noqa: E731
        for number, (label, points) in enumerate(_grouped(there, named)):
            with_canvas = sorted((x for x in points if x.way.canvas), key=lambda x: x.way.canvas)
            slots = [x.way.canvas for x in with_canvas]
            _draw(axes, slots, [x.figures for x in with_canvas], panel, label, f"C{number}")
            for x in points:
                if not x.way.canvas:
                    _band(axes, panel.of(x.figures), label, f"C{number}")
        if panel.target is not None:
            axes.axhline(panel.scale * panel.target, color="0.4", ls=":", label="data")
        _add_legend(axes)
    return png_of(figure)


def _grouped(found: Sequence[Found], named: Any) -> list[tuple[str, list[Found]]]:
    """Returns (name, what has it), in the order in which names come first."""
    order = list(dict.fromkeys(map(named, found)))
    ordered = sorted(found, key=lambda x: order.index(named(x)))
    return [(name, list(group)) for name, group in itertools.groupby(ordered, named)]


def _draw(axes, at, points: Sequence[Figures], panel: Panel, label: str, color=None) -> None:
    """Draws a curve with its intervals, unless there is no point of it."""
    if points:
        value, below, above = np.array([panel.of(point) for point in points]).T
        style = {"marker": "o", "ms": 4, "capsize": 2, "color": color}
        axes.errorbar(at, value, [below, above], label=label, **style)


def _draw_by_calls(axes, points: Sequence[Figures], panel: Panel, label: str) -> None:
    ordered = sorted(points, key=lambda point: point["calls"])
    _draw(axes, [point["calls"] for point in ordered], ordered, panel, label)


def _band(axes, point: tuple[float, float, float], label: str, color: str) -> None:
    value, below, above = point
    axes.axhspan(value - below, value + above, color=color, alpha=0.15, lw=0)
    axes.axhline(value, color=color, label=label)


def _prepare(axes, across: str, up: str) -> None:
    """Gives axes their look and names; whatever is counted doubles from mark to mark."""
    axes.set_xscale("log", base=2)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
