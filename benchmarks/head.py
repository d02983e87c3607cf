"""What the vocabulary head costs by the number of masks; python -m benchmarks.head

One step of the sampler, which draws a token at every mask, and the training loss with its gradient,
beside the same with chunks of 1,024 slots only, in turns. The network is a head on features that
are given, so that nothing else is measured. Printed are medians.
"""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from flexmdm_jax import posterior
from flexmdm_jax.chips import current_platform
from flexmdm_jax.interpolant import Interpolant, Times
from flexmdm_jax.losses import training_loss
from flexmdm_jax.posterior import executed_slots, head_chunk_sizes
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Canvas, SamplerConfig, drawing, generate
from flexmdm_jax.types import Denoiser, Encoding, Vocabulary

ROWS, LENGTH = 16, 256
COUNTS, TIMES = (10, 30, 100, 300, 1000, 3000), 5
# Vocabulary and features: the text demo's, and GPT-2's with a small model.
SIZES = ((400, 64), (50259, 256))
BEFORE = (1024,)


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program.

    Attributes:
      run: Takes the head, the features and which slots are masks.
      sizes: Of the chunks that it works off.
      compilation: Seconds that compiling it took.
    """

    run: Callable
    sizes: tuple[int, ...]
    compilation: float


def _denoiser(head, hidden) -> Denoiser:
    encoding = Encoding(hidden, jnp.zeros(hidden.shape[:2]))
    return Denoiser(encode=lambda *_: encoding, decode=lambda features: features @ head)


def _tokens(masks, vocabulary: Vocabulary):
    return jnp.where(masks, vocabulary.mask, 0)


def draw(head, hidden, masks, process: Process):
    """Returns tokens, those at masks drawn by the sampler's last step."""
    segment_ids = jnp.ones(masks.shape, jnp.int32)
    tokens, everywhere = _tokens(masks, process.vocabulary), segment_ids > 0
    canvas = Canvas(tokens, segment_ids, closed=everywhere, fixed=~masks)
    keys = jax.random.split(jax.random.key(0), ROWS)
    return generate(keys, _denoiser(head, hidden), canvas, SamplerConfig(steps=1), process).tokens


def learn(head, hidden, masks, process: Process):
    """Returns the loss and its gradient with respect to head and features."""
    ones = jnp.ones(masks.shape, jnp.int32)
    x = Interpolant(_tokens(masks, process.vocabulary), ones, ones, jnp.zeros(masks.shape))
    times = Times(jnp.full((ROWS, 1), 0.5), jnp.ones((ROWS, 1)))
    loss = lambda head, hidden: training_loss(_denoiser(head, hidden), x, times, process)[0]  # noqa: E731
    return jax.value_and_grad(loss, argnums=(0, 1))(head, hidden)


def compiled(fn, sizes: tuple[int, ...], before: bool, *arguments) -> Program:
    """Returns fn compiled; before with chunks of one size."""
    with contextlib.ExitStack() as stack:
        if before:
            patch = mock.patch.object
            stack.enter_context(patch(posterior, "chunk_sizes", return_value=BEFORE))
            stack.enter_context(patch(drawing, "draw_size", return_value=BEFORE[0]))
        lowered = jax.jit(fn).lower(*arguments)
    started = time.perf_counter()
    run = lowered.compile()
    return Program(run, BEFORE if before else sizes, time.perf_counter() - started)


def programs(vocabulary: Vocabulary, head, hidden) -> list[Program]:
    """Returns [draw before, draw, learn before, learn]."""
    process, masks = Process.mdm(vocabulary), jnp.zeros((ROWS, LENGTH), bool)
    drawn = (drawing.draw_size(current_platform()),)
    return [
        compiled(lambda *x, fn=fn: fn(*x, process), sizes, before, head, hidden, masks)
        for fn, sizes in ((draw, drawn), (learn, head_chunk_sizes(hidden.shape[-1], vocabulary)))
        for before in (True, False)
    ]


def milliseconds(programs: list[Program], *arguments) -> list[float]:
    """Returns the median of each program's runs, all of them running in turns."""
    found = [[] for _ in programs]
    for _ in range(1 + TIMES):
        for program, times in zip(programs, found, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(program.run(*arguments))
            times.append(1e3 * (time.perf_counter() - started))
    # What a first run takes for memory is left out.
    return [statistics.median(times[1:]) for times in found]


def main() -> None:
    print("| vocabulary | masks | worked off / masks: before | draw | loss ", end="")
    print("| draw before, ms | now | loss and gradient before, ms | now |")
    print("|" + " ---: |" * 9)
    seconds = {}
    for size, features in SIZES:
        vocabulary = Vocabulary(size, size - 2, size - 1)
        keys = jax.random.split(jax.random.key(1))
        head = 0.1 * jax.random.normal(keys[0], (features, size))
        hidden = jax.random.normal(keys[1], (ROWS, LENGTH, features))
        found = programs(vocabulary, head, hidden)
        seconds[size] = [program.compilation for program in found]
        order = np.random.default_rng(0).permutation(ROWS * LENGTH).reshape(ROWS, LENGTH)
        for count in COUNTS:
            cells = [
                f"{executed_slots(count, order.size, program.sizes) / count:.2f}"
                for program in (found[0], found[1], found[3])
            ]
            times = milliseconds(found, head, hidden, jnp.asarray(order < count))
            cells += [f"{ms:,.1f}" for ms in times]
            print(f"| {size:,} | {count:,} | " + " | ".join(cells) + " |", flush=True)
    print("\n| vocabulary | compiling: draw before, s | now | loss before, s | now |")
    print("|" + " ---: |" * 5)
    for size, times in seconds.items():
        print(f"| {size:,} | " + " | ".join(f"{s:.1f}" for s in times) + " |")


if __name__ == "__main__":
    main()
