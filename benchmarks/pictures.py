"""What the benchmarks that draw the pictures of a page share."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from flexmdm_jax import options
from flexmdm_jax.files import write_atomically

# Of the states of a token.
COLOURS = {"absent": "0.85", "MASK": "C1", "clean": "C0"}


def axes_of(width: float, height: float) -> tuple[Figure, Any]:
    """Returns (figure, axes) of a new picture, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def drawing(pictures: Mapping[str, Callable[[], bytes]]) -> Callable[[Any], None]:
    """Returns a command that draws pictures into the folder --out.

    Args:
      pictures: Name of a file -> what returns its PNG.
    """
    out = options.define_path("out", "docs", "Folder for the pictures.")

    def main(_):
        for name, draw in pictures.items():
            path = pathlib.Path(out.value) / name
            write_atomically(path, draw())
            print(path)

    return main
