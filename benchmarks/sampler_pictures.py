"""The pictures of docs/samplers.md: one idea each, from exact denoisers.

python -m benchmarks.sampler_pictures [--out=docs]
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.pictures import COLOURS, axes_of, drawing
from flexmdm_jax import cli
from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle, problems
from flexmdm_jax.files import png_of
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Remask, SamplerConfig, generate
from flexmdm_jax.schedules import Linear, Power, Sine

PROCESS = Process(VOCABULARY)
WIDTH = 6.4


def _shares(t):
    """Returns the shares of tokens that are absent, masked and clean at times t."""
    t = jnp.asarray(t, jnp.float32)
    return {"absent": PROCESS.absent(t), "MASK": PROCESS.masked(t), "clean": PROCESS.clean(t)}


def grids() -> bytes:
    """Returns a PNG: what a token is at each time, and where 16 steps of three grids lie."""
    figure, axes = axes_of(WIDTH, 3.4)
    t = np.linspace(0, 1, 400)
    axes.stackplot(t, *_shares(t).values(), labels=COLOURS, colors=COLOURS.values(), alpha=0.6)
    rows = {"equal (the paper's)": Linear(), "sine": Sine(), "power, the default": Power()}
    for row, (label, grid) in enumerate(rows.items()):
        times = np.asarray(grid.at(jnp.arange(17) / 16.0))
        height = -0.12 - 0.14 * row
        axes.plot(times, np.full(17, height), "|", color="k", ms=9)
        axes.annotate(label, (1.02, height), va="center", fontsize=8, annotation_clip=False)
    axes.set(xlim=(0, 1), ylim=(-0.5, 1), yticks=[0, 0.5, 1], xlabel="time")
    axes.set_ylabel("share of tokens")
    axes.legend(loc="upper left", fontsize=8, framealpha=0.9)
    return png_of(figure)


def calls_by_length() -> bytes:
    """Returns a PNG: calls of the network by the length of what was written."""
    problem = problems()["hidden_words"]
    num = 2_000
    keys, canvas = jax.random.split(jax.random.key(0), num), problem.canvas(num)
    figure, axes = axes_of(WIDTH, 3.2)
    samplers = {
        "--sampler=exact": SamplerConfig(exact=True),
        "--events_per_step=0.5": SamplerConfig(events_per_step=0.5),
        "adaptive, the default": SamplerConfig(),
        "--steps=16": SamplerConfig(steps=16),
    }
    for label, sampler in samplers.items():
        run = jax.jit(
            lambda keys, canvas, sampler=sampler: generate(
                keys, problem.denoiser, canvas, sampler, problem.process
            )
        )
        found = run(keys, canvas)
        lengths, calls = np.asarray(found.lengths), np.asarray(found.calls)
        shown = [n for n in range(lengths.max() + 1) if (lengths == n).sum() >= 10]
        means = [calls[lengths == n].mean() for n in shown]
        axes.plot(shown, means, "o-", ms=4, label=label)
    axes.set(xlabel="tokens of the text", ylabel="calls of the network", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    return png_of(figure)


def thinning() -> bytes:
    """Returns a PNG: proposals for the first event of an empty row, until one is accepted."""
    denoiser = flexmdm_oracle(P1)
    t = np.linspace(0, 0.995, 400)
    tokens = jnp.full((len(t), 1), VOCABULARY.end)
    alpha = jnp.asarray(t, jnp.float32)[:, None]
    missing = np.asarray(denoiser.encode(tokens, jnp.ones_like(tokens), alpha).gaps)[:, 0]
    # The first of many stories with two rejections before the end.
    stories = (_proposals(t, missing, np.random.default_rng(seed)) for seed in range(1000))
    story = next(x for x in stories if len(x) == 3 and x[-1].height < x[-1].rate)
    figure, axes = axes_of(WIDTH, 3.2)
    axes.plot(t, missing, color="C0", label="tokens expected to be missing, G")
    for x in story:
        axes.hlines(x.bound, x.start, x.time, color="C3", lw=1.5)
        axes.plot(x.time, x.height, "o" if x.height < x.rate else "x", color="k", ms=7)
    axes.plot([], [], color="C3", lw=1.5, label="bound, from the last call")
    axes.plot([], [], "kx", label="rejected: only the bound falls")
    axes.plot([], [], "ko", label="accepted: a token is inserted")
    axes.set(xlabel="time", ylim=(0, 1.5 * missing[0]), xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    return png_of(figure)


class _Proposal(NamedTuple):
    """A proposal: when, at what height under the bound since start, and the rate there."""

    start: float
    bound: float
    time: float
    height: float
    rate: float


def _proposals(t, missing, rng) -> list[_Proposal]:
    """Returns the proposals up to the first that is accepted, under linear schedules."""
    found, now, bound = [], 0.0, missing[0]
    while now < t[-1]:
        time = 1 - (1 - now) * rng.random() ** (1 / bound)
        rate = np.interp(time, t, missing)
        found.append(_Proposal(now, bound, time, rng.random() * bound, rate))
        if found[-1].height < rate:
            break
        now, bound = time, rate
    return found


def going_back() -> bytes:
    """Returns a PNG: what becomes of a row's tokens that a corrector takes back in time."""
    t, s = 0.7, 0.4
    figure, axes = axes_of(WIDTH, 2.4)
    bars = {
        f"at time {t}": {name: float(x[0]) for name, x in _shares([t]).items()},
        f"taken back to {s}": _after(t, s),
        f"at time {s}": {name: float(x[0]) for name, x in _shares([s]).items()},
    }
    for row, shares in enumerate(bars.values()):
        left = 0.0
        for name, share in shares.items():
            axes.barh(-row, share, left=left, color=COLOURS[name], alpha=0.7)
            middle = (left + share / 2, -row)
            text = f"{name}\n{share:.2f}"
            axes.annotate(text, middle, ha="center", va="center", fontsize=8)
            left += share
    axes.set(xlim=(0, 1), xlabel="share of a text's tokens")
    axes.set_yticks(-np.arange(len(bars)), list(bars))
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    return png_of(figure)


def _after(t: float, s: float) -> dict[str, float]:
    """Returns the shares found in rows of time t that the kernel took back to s."""
    num, length = 4_000, 5
    rng = np.random.default_rng(0)
    shares = [float(x[0]) for x in _shares([t]).values()]
    state = rng.choice(3, (num, length - 1), p=np.array(shares) / sum(shares))
    problem = problems()["short_words"]
    canvas = problem.canvas(num)
    rows = [[VOCABULARY.mask if x == 1 else 0 for x in row if x] for row in state]
    tokens = np.full((num, length), VOCABULARY.end, np.int32)
    for row, found in zip(tokens, rows, strict=True):
        row[: len(found)] = found
    sizes = np.array([len(found) for found in rows])
    slots = np.arange(length)[None, :]
    canvas = canvas.replace(
        tokens=jnp.asarray(tokens),
        segment_ids=jnp.asarray(slots <= sizes[:, None], jnp.int32),
        closed=jnp.zeros((num, length), bool),
        fixed=jnp.asarray(slots == sizes[:, None]),
    )
    keys = jax.random.split(jax.random.key(0), num)
    times = (jnp.full(num, t), jnp.full(num, s))
    back = Remask().go_back(keys, canvas, *times, PROCESS, keeps_split=True)
    total = num * (length - 1)
    masked = int(jnp.sum(back.masks(VOCABULARY))) / total
    there = int(jnp.sum(back.real & ~back.fixed)) / total
    return {"absent": 1 - there, "MASK": masked, "clean": there - masked}


PICTURES = {
    "sampler_grids.png": grids,
    "sampler_lengths.png": calls_by_length,
    "sampler_thinning.png": thinning,
    "sampler_corrector.png": going_back,
}

if __name__ == "__main__":
    cli.run(drawing(PICTURES))
