"""Speed of the input pipeline, alone and under training; python -m benchmarks.data_input

Needs the text demo's dataset (make data/demo_text). The first figure is examples per second of
nothing but reading; then steps of the text demo's model are timed with the time that each waited
for its batch.
"""

import itertools
import pathlib
import time

import jax

from flexmdm_jax import cli
from flexmdm_jax.config import load_config_file, read_config
from flexmdm_jax.data.batches.pipeline import TrainBatches, configured_batches
from flexmdm_jax.data.storage.records import open_dataset
from flexmdm_jax.sharding import batch_sharding, make_mesh
from flexmdm_jax.training.feed import DeviceBatches
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import Setup, init_state
from flexmdm_jax.training.step import make_train_step

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "demo_text.py"
ALONE, STEPS = 300, 100  # batches


def main(_):
    config = read_config(load_config_file(str(CONFIG)))
    dataset = open_dataset(config.data.path)
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))

    def batches() -> TrainBatches:
        return configured_batches(config, dataset, setup.process)

    stream = batches()
    next(stream)
    started = time.monotonic()
    taken = stream.get_state()["examples"]
    for _ in itertools.islice(stream, ALONE):
        pass
    rate = (stream.get_state()["examples"] - taken) / (time.monotonic() - started)
    print(f"alone: {rate:,.0f} examples/s")

    optimizer = make_optimizer(config.optimizer, config.training.num_steps)
    make_state, shardings = init_state(setup, optimizer, config.seed)
    state = jax.jit(make_state, out_shardings=shardings)()
    step = make_train_step(
        config, setup, optimizer, shardings, stream.expected * dataset.mean_length
    )
    feed = DeviceBatches(batches(), batch_sharding(setup.mesh))
    state, metrics = step(state, next(feed))
    jax.block_until_ready(metrics)
    waited, started = 0.0, time.monotonic()
    for _ in range(STEPS):
        asked = time.monotonic()
        batch = next(feed)
        waited += time.monotonic() - asked
        state, metrics = step(state, batch)
        # Else the wait would hide behind the step before.
        jax.block_until_ready(metrics)
    total = time.monotonic() - started
    print(
        f"training: {total / STEPS * 1e3:.1f} ms/step, of which {waited / STEPS * 1e3:.2f} ms "
        f"({waited / total:.1%}) waiting for input"
    )


if __name__ == "__main__":
    cli.run(main)
