"""The pictures of docs/concepts.md: a text in time, its gaps, and what the bound bounds.

python -m benchmarks.concept_pictures [--out=docs]
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import to_rgb

from benchmarks.pictures import COLOURS, axes_of, drawing
from flexmdm_jax import cli
from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle
from flexmdm_jax.files import png_of
from flexmdm_jax.losses import nll_bound
from flexmdm_jax.process import Process
from flexmdm_jax.types import Denoiser

WORDS = ("The", "cat", "sat", "on", "the", "mat", ".")
TIMES = (0.25, 0.55, 0.85)
ABSENT, MASKED, CLEAN = COLOURS.values()
# As the story of the page wants them: T₁ and T₂ of each word, T₂ behind T₁.
INSERTED = (0.10, 0.42, 0.20, 0.66, 0.31, 0.74, 0.05)
UNMASKED = (0.48, 0.93, 0.40, 0.80, 0.97, 0.90, 0.16)


def partial_text(t: float) -> list[tuple[int, bool]]:
    """Returns (number of a word, whether it is MASK) of the words that are present at time t."""
    return [
        (number, t < unmasked)
        for number, (inserted, unmasked) in enumerate(zip(INSERTED, UNMASKED, strict=True))
        if inserted <= t
    ]


def in_time() -> bytes:
    """Returns a PNG: each word of a text absent, masked and clean, and the text at three times."""
    figure, axes = axes_of(6.8, 3.4)
    for row, (inserted, unmasked) in enumerate(zip(INSERTED, UNMASKED, strict=True)):
        parts = ((0.0, inserted, ABSENT), (inserted, unmasked, MASKED), (unmasked, 1.0, CLEAN))
        for start, stop, colour in parts:
            axes.barh(-row, stop - start, left=start, height=0.62, color=colour, alpha=0.75)
    for row, t in enumerate(TIMES):
        axes.plot([t, t], [0.5, 0.3 - len(WORDS)], color="k", lw=1, ls=":")
        text = " ".join("▒▒" if mask else WORDS[n] for n, mask in partial_text(t))
        place = (0.33, -len(WORDS) - 0.4 - row)
        axes.annotate(f"at {t}:   {text}", place, va="center", fontsize=9)
    for label, colour in COLOURS.items():
        axes.bar(0, 0, color=colour, alpha=0.75, label=label)
    axes.set_yticks(-np.arange(len(WORDS)), WORDS)
    axes.set(xlim=(0, 1), ylim=(-len(WORDS) - 3.0, 0.6), xticks=(0, *TIMES, 1))
    axes.xaxis.set_ticks_position("top")
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False, top=False)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, -0.02), frameon=False, fontsize=8)
    return png_of(figure)


def gaps() -> bytes:
    """Returns a PNG: the slots of a partial text, and how many words are missing before each."""
    t = 0.55
    present = partial_text(t)
    figure, axes = axes_of(6.8, 2.3)
    whole = [*WORDS, "END"]
    slots = [number for number, _ in present] + [len(WORDS)]
    masks = {number for number, mask in present if mask}
    left = (len(whole) - len(slots)) / 2
    for number, word in enumerate(whole):
        missing = number not in slots
        _box(axes, number, 2.0, word, "white", "0.6" if missing else "k")
        slot = next(k for k, other in enumerate(slots) if other >= number)
        style = {"arrowstyle": "->", "color": "C3", "ls": "--"} if missing else None
        target = (left + slot - (0.5 if missing else 0.0), 0.38)
        axes.annotate(
            "", target, (number, 1.62), arrowprops=style or {"arrowstyle": "-", "color": "0.7"}
        )
    before = -1
    for slot, number in enumerate(slots):
        mask = number in masks
        _box(axes, left + slot, 0.0, "▒▒" if mask else whole[number], MASKED if mask else CLEAN)
        gap = number - before - 1
        axes.annotate(
            str(gap),
            (left + slot, -0.85),
            ha="center",
            color="C3" if gap else "0.5",
            fontweight="bold" if gap else "normal",
        )
        before = number
    for height, label in ((2.0, "x₁"), (0.0, "$x_t$"), (-0.75, "gap")):
        axes.annotate(label, (-1.3, height), va="center", ha="center")
    axes.set(xlim=(-1.7, len(whole) - 0.3), ylim=(-1.1, 2.6))
    axes.axis("off")
    return png_of(figure)


def _box(axes, x: float, y: float, text: str, colour: str, ink: str = "k") -> None:
    box = {"boxstyle": "round,pad=0.35", "fc": colour, "ec": ink, "alpha": 0.75}
    if colour != "white":
        box["fc"] = (*to_rgb(colour), 0.35)
    axes.annotate(text, (x, y), ha="center", va="center", fontsize=9, bbox=box, color=ink)


def worse(denoiser: Denoiser, unsure: float, generous: float) -> Denoiser:
    """Returns a denoiser that knows less: f mixed with any token, g too large.

    Args:
      denoiser: An exact one.
      unsure: The share of the mixture that is any data token, each as likely.
      generous: By which share too many tokens are expected.
    """
    data = np.ones(VOCABULARY.size)
    data[[VOCABULARY.mask, VOCABULARY.end]] = 0
    anything = jnp.asarray(data / data.sum(), jnp.float32)

    def encode(tokens, segment_ids, alpha):
        encoding = denoiser.encode(tokens, segment_ids, alpha)
        return encoding.replace(gaps=encoding.gaps * (1 + generous))

    def decode(hidden):
        posterior = jax.nn.softmax(denoiser.decode(hidden), axis=-1)
        return jnp.log((1 - unsure) * posterior + unsure * anything)

    return dataclasses.replace(denoiser, encode=encode, decode=decode)


def bound() -> bytes:
    """Returns a PNG: the bound of a known law under denoisers that are more and more wrong."""
    process, exact = Process(VOCABULARY), flexmdm_oracle(P1)
    copies = 256
    batch = P1.rows(np.tile(np.arange(len(P1.sequences)), copies), P1.max_length + 1)
    keys = jax.random.split(jax.random.key(0), len(batch.tokens))
    shares = jnp.asarray(P1.probs, jnp.float32)

    @jax.jit
    def found(unsure, generous):
        nats = nll_bound(keys, worse(exact, unsure, generous), batch, process, num_times=128)
        means = nats.reshape(copies, -1) @ shares
        return means.mean(), means.std() / np.sqrt(copies - 1)

    figure, axes = axes_of(6.4, 3.2)
    wrong = np.linspace(0, 1, 9)
    lines = {
        "f mixed with any token": [found(x, 0.0) for x in wrong],
        "g too large": [found(0.0, x) for x in wrong],
    }
    for label, points in lines.items():
        means, errors = np.array(points).T
        axes.errorbar(100 * wrong, means, 2 * errors, fmt="o-", ms=4, capsize=2, label=label)
    axes.axhline(P1.entropy(), color="k", lw=1, ls=":", label="entropy of the law")
    axes.set(xlabel="how wrong the network is, %", ylabel="bound, nats a text")
    axes.set_ylim(P1.entropy() - 0.1)
    axes.legend(frameon=False, fontsize=8)
    return png_of(figure)


PICTURES = {
    "concept_time.png": in_time,
    "concept_gaps.png": gaps,
    "concept_bound.png": bound,
}

if __name__ == "__main__":
    cli.run(drawing(PICTURES))
