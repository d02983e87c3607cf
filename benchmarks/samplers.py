"""Samplers against the calls of the network that they take, on laws that are known exactly.

python -m benchmarks.samplers [--plot=docs/sampler_calls.png] [--rows=20000]

Every sampler draws from an exact denoiser, so what is wrong with its samples is its own doing: the
total variation to the law, beside the floor that as many exact draws show.
"""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

from flexmdm_jax import cli, options
from flexmdm_jax.conformance import Judgement, Problem, judge, problems
from flexmdm_jax.files import check_writable, png_of, write_atomically
from flexmdm_jax.ranges import Count
from flexmdm_jax.sampling import (
    Adaptive,
    Poisson,
    Remask,
    SamplerConfig,
    Threshold,
    generate,
)
from flexmdm_jax.schedules import Linear, Sine

STEPS = (4, 8, 16, 32, 64, 128)
EVENTS = (3.0, 1.5, 0.75, 0.4, 0.2, 0.1)
CONDITIONALS = ("prefix", "infilling")


def _grid(**kinds):
    return [SamplerConfig(steps=n, **kinds) for n in STEPS]


def _events(**kinds):
    return [SamplerConfig(events_per_step=kappa, **kinds) for kappa in EVENTS]


# Label -> samplers of rising numbers of calls.
FAMILIES = {
    "paper": [SamplerConfig.paper(n) for n in STEPS],
    "equal steps, binomial": _grid(grid=Linear()),
    "sine grid": _grid(grid=Sine()),
    "power grid (--steps)": _grid(),
    "adaptive (default)": _events(),
    "adaptive, Poisson": _events(insertions=Poisson()),
    "adaptive, by confidence": _events(rule=Adaptive()),
    "one token a call": _events(rule=Threshold(1.0)),
    "adaptive, corrector": _events(corrector=Remask(0.2, 0.4)),
    "exact": [SamplerConfig(exact=True)],
    "exact, by confidence": [SamplerConfig(exact=True, rule=Adaptive())],
    "exact, corrector": [SamplerConfig(exact=True, corrector=Remask(0.2, 0.4))],
}
SHORT = ("paper", "power grid (--steps)", "adaptive (default)", "exact")


@dataclasses.dataclass(frozen=True)
class Point:
    """A sampler on a law.

    Attributes:
      sampler: It.
      judged: What was found.
    """

    sampler: SamplerConfig
    judged: Judgement

    @property
    def name(self) -> str:
        """Returns how it was told to spend its calls."""
        if self.sampler.steps:
            return f"{self.sampler.steps} steps"
        return "" if self.sampler.exact else f"κ = {self.sampler.events_per_step:g}"


@functools.cache
def _program(kinds: SamplerConfig, denoiser, process):
    """Returns generate(), jitted; samplers that differ in numbers alone share it."""
    return jax.jit(
        lambda keys, canvas, settings: generate(
            keys, denoiser, canvas, kinds, process, settings=settings
        )
    )


def measure(sampler: SamplerConfig, problem: Problem, rows: int) -> Point:
    """Returns how far a sampler's rows are from a problem's law."""

    def sample(keys, denoiser, canvas, process):
        run = _program(sampler.kinds, denoiser, process)
        found = run(keys, canvas, sampler.settings(*canvas.tokens.shape))
        return found.tokens, found.lengths, found.calls

    return Point(sampler, judge(sample, problem, num_samples=rows))


def _table(problem: str, found: dict[str, list[Point]]) -> str:
    lines = [
        "",
        f"| {problem} | | calls | total variation | of lengths | floor |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for label, points in found.items():
        for point in points:
            x = point.judged
            lines.append(
                f"| {label} | {point.name} | {x.mean_calls:.1f} | {x.total_variation:.4f} | "
                f"{x.length_total_variation:.4f} | {x.floor:.4f} |"
            )
    return "\n".join(lines)


def _plot(found: dict[str, dict[str, list[Point]]]) -> bytes:
    """Returns a PNG: a panel for each law, total variation by calls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * len(found), 4.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
    labels = list(next(iter(found.values())))
    colours = {label: f"C{i % 10}" for i, label in enumerate(labels)}
    for axes, (problem, families) in zip(panels, found.items(), strict=True):
        for label, points in families.items():
            calls = [point.judged.mean_calls for point in points]
            off = [point.judged.total_variation for point in points]
            marker = "*" if len(points) == 1 else "o"
            size = 12 if len(points) == 1 else 4
            axes.plot(calls, off, marker=marker, ms=size, lw=1.2, color=colours[label], label=label)
        floor = next(iter(families.values()))[0].judged.floor
        axes.axhline(floor, color="0.6", lw=0.8, ls="--")
        axes.annotate("exact draws", (0.02, floor), xycoords=("axes fraction", "data"), fontsize=7)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(problem.replace("_", " "), fontsize=10)
        axes.set_xlabel("calls of the network a row")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("total variation to the law")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return png_of(figure)


_PLOT = options.define_path("plot", "", "PNG to draw.")
_ROWS = options.define_number("rows", 20_000, "Samples of each sampler.", Count)


def main(_):
    """Runs the benchmark."""
    plot = pathlib.Path(_PLOT.value) if _PLOT.value else None
    if plot:
        check_writable(plot)
    laws, found = problems(), {}
    for problem in ("short_words", "long_gaps", *CONDITIONALS):
        families = FAMILIES if problem == "short_words" else {x: FAMILIES[x] for x in SHORT}
        found[problem] = {
            label: [measure(sampler, laws[problem], _ROWS.value) for sampler in samplers]
            for label, samplers in families.items()
        }
        print(_table(problem, found[problem]), flush=True)
    if plot:
        write_atomically(plot, _plot(found))
        print(f"plot: {plot}")


if __name__ == "__main__":
    cli.run(main)
