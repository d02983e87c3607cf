"""What checksums add to saving a checkpoint; python -m benchmarks.checkpoint_cost

States of three sizes, as training has them (parameters, their average, two moments), are saved with
and without, in turns. Printed are medians: how long the loop stands still, and how long it takes
until all is on the disk.
"""

import pathlib
import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp

from flexmdm_jax.training import checkpoints
from flexmdm_jax.training.state import TrainState

WIDTHS, TIMES = (256, 512, 1024), 7


class _Nothing:
    """Stands for the experiment and the data, which take no time to save."""

    def to_json(self) -> dict:
        return {}

    def stored_shapes(self, tree):
        return tree

    def get_state(self) -> dict:
        return {"batches": 1}


def state_of(width: int) -> TrainState:
    """Returns a state whose parameters are 24 square matrices."""
    trees = [
        {f"{i}": jax.random.normal(key, (12, width, width)) for i, key in enumerate(keys)}
        for keys in jax.random.split(jax.random.key(0), (4, 2))
    ]
    state = TrainState(
        step=jnp.int32(1),
        rng=jnp.zeros(2, jnp.uint32),
        params=trees[0],
        ema=trees[1],
        opt_state=tuple(trees[2:]),
    )
    return jax.block_until_ready(state)


def seconds(state: TrainState) -> tuple[float, float]:
    """Returns (until the loop may go on, until all is saved)."""
    with tempfile.TemporaryDirectory() as folder:
        saver = checkpoints.Checkpoints(pathlib.Path(folder), _Nothing())
        started = time.perf_counter()
        saver.save(state, _Nothing())
        blocked = time.perf_counter() - started
        saver.wait()
        whole = time.perf_counter() - started
        saver.close()
    return blocked, whole


def main() -> None:
    print("| state, MB | stands still: without, s | with | until saved: without, s | with |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for width in WIDTHS:
        state = state_of(width)
        seconds(state)
        found = {True: [], False: []}
        for _ in range(TIMES):
            found[True].append(seconds(state))
            with mock.patch.object(checkpoints, "array_checksums", return_value={}):
                found[False].append(seconds(state))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
        cells = [
            statistics.median(times[part] for times in found[has])
            for part in (0, 1)
            for has in (False, True)
        ]
        print(f"| {size:,.0f} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
