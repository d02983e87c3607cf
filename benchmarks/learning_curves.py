"""Held-out bounds of several trainings, by steps and by seconds.

python -m benchmarks.learning_curves --run=padded=runs/pad0 --run=packed=runs/pack0 [--plot=FILE]

Reads metrics.jsonl of each workdir; runs of one label share a colour. Seconds are those of training
steps: compiling, evaluations and saves are left out. Prints, for every run, its last bound and how
long it took to the last bound of each run of the first label.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Sequence

from absl import flags

from flexmdm_jax import cli, options
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import check_writable, png_of, write_atomically

_BOUND = "eval/nats_per_token"


@dataclasses.dataclass(frozen=True)
class Curve:
    """One training.

    Attributes:
      label: Its colour's.
      name: Of its workdir.
      steps: After which it was evaluated.
      seconds: Of training up to there.
      bounds: In nats per token.
    """

    label: str
    name: str
    steps: list[int]
    seconds: list[float]
    bounds: list[float]

    def reaches(self, bound: float) -> float | None:
        """Returns the seconds after which it is below a bound, between evaluations linearly."""
        for i, found in enumerate(self.bounds):
            if found <= bound:
                if not i:
                    return self.seconds[0]
                share = (self.bounds[i - 1] - bound) / (self.bounds[i - 1] - found)
                return self.seconds[i - 1] + share * (self.seconds[i] - self.seconds[i - 1])
        return None


def read_curve(label: str, workdir: pathlib.Path) -> Curve:
    """Returns the curve of a run.

    Raises:
      UserError: If it was not evaluated.
    """
    path = workdir / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"--run={label}={workdir}: no metrics.jsonl there; give a run's workdir")
    curve, seconds, last = Curve(label, workdir.name, [], [], []), 0.0, 0
    for line in map(json.loads, path.read_text().splitlines()):
        if "steps_per_second" in line:
            # The first step compiles.
            seconds += (line["step"] - last) / line["steps_per_second"] if line["step"] > 1 else 0
            last = line["step"]
        elif _BOUND in line:
            curve.steps.append(line["step"])
            curve.seconds.append(seconds)
            curve.bounds.append(line[_BOUND])
    if not curve.bounds:
        raise UserError(f"--run={label}={workdir}: it was never evaluated")
    return curve


def table(curves: Sequence[Curve]) -> list[str]:
    """Returns what main() prints, as Markdown."""
    aims = [curve for curve in curves if curve.label == curves[0].label]
    head = "".join(f" to {aim.bounds[-1]:.3f} ({aim.name}), s |" for aim in aims)
    lines = ["| run | steps | seconds | nats per token |" + head]
    lines.append("| --- |" + " ---: |" * (3 + len(aims)))
    for curve in curves:
        times = [curve.reaches(aim.bounds[-1]) for aim in aims]
        cells = [f"{curve.label}, {curve.name}", f"{curve.steps[-1]:,}"]
        cells += [f"{curve.seconds[-1]:.0f}", f"{curve.bounds[-1]:.3f}"]
        cells += ["–" if time is None else f"{time:.0f}" for time in times]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(curves: Sequence[Curve]) -> bytes:
    """Returns both plots as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, plots = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    labels = list(collections.Counter(curve.label for curve in curves))
    for curve in curves:
        colour = f"C{labels.index(curve.label)}"
        first = curve is next(c for c in curves if c.label == curve.label)
        label = curve.label if first else None
        plots[0].plot(curve.steps, curve.bounds, ".-", color=colour, label=label)
        plots[1].plot(curve.seconds, curve.bounds, ".-", color=colour)
    plots[0].set(xlabel="steps", ylabel="bound, nats per held-out token")
    plots[1].set(xlabel="seconds of training")
    plots[0].legend()
    for plot in plots:
        plot.grid(alpha=0.3)
    png = png_of(figure)
    plt.close(figure)
    return png


def main(_):
    """Prints the table and draws the plots."""
    path = pathlib.Path(flags.FLAGS.plot) if flags.FLAGS.plot else None
    if path:
        check_writable(path)
    curves = []
    for run in flags.FLAGS.run or []:
        label, _, workdir = run.partition("=")
        if not workdir:
            raise UserError(f"--run={run}: write LABEL=WORKDIR")
        curves.append(read_curve(label, pathlib.Path(workdir)))
    if not curves:
        raise UserError("give at least one --run=LABEL=WORKDIR")
    print("\n".join(table(curves)))
    if path:
        write_atomically(path, draw(curves))


if __name__ == "__main__":
    flags.DEFINE_multi_string("run", None, "LABEL=WORKDIR; again for each run.")
    options.define_path("plot", "", "The file to draw.")
    cli.run(main)
