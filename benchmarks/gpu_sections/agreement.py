"""A training step on the CPU and on the GPU, from the same state and the same batch."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.gpu_sections.section import Context, Row
from benchmarks.gpu_sections.sizes import Agreement
from benchmarks.random_data import random_dataset
from flexmdm_jax.config import Config, read_config
from flexmdm_jax.data.batches.pipeline import configured_batches
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.sharding import batch_sharding, make_mesh
from flexmdm_jax.training.feed import corrupted
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import Setup, first_state, init_state
from flexmdm_jax.training.step import make_loss, make_train_step

# Relative, of float32 with products in full precision.
LOSS_TOLERANCE = 1e-5
LEAST_COSINE = 0.999
_VOCABULARY, _SEQUENCES = 400, 256


def run(context: Context) -> Iterator[Row]:
    """Yields how a training step on the GPU agrees with the same step on the CPU."""
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    note = "" if device != cpu else "no GPU here: the CPU beside itself"
    sizes = context.sizes.agreement
    lengths = np.arange(2, sizes.length + 1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = random_dataset(
            pathlib.Path(folder, "data"),
            lengths,
            vocabulary=_VOCABULARY,
            max_length=sizes.length,
            count=_SEQUENCES,
        )
        for label in sizes.layouts:
            config = config_of(sizes, dataset, packed=label == "packed")
            both = Pair(Step.on(cpu, config, dataset), Step.on(device, config, dataset))
            yield dataclasses.replace(both.losses(f"{label} rows, float32"), note=note)
            yield dataclasses.replace(both.gradients(f"{label} rows, bfloat16"), note=note)


def config_of(sizes: Agreement, dataset: Dataset, *, packed: bool) -> Config:
    """Returns the experiment, without dropout."""
    return read_config(
        {
            "method": "flexmdm",
            "model": {
                "hidden_size": sizes.hidden,
                "num_layers": sizes.layers,
                "num_heads": max(1, sizes.hidden // 64),
                "dropout_rate": 0.0,
                "compute_dtype": "float32",
            },
            "data": {
                "path": str(dataset.directory),
                "max_length": sizes.length,
                "packing": packed,
            },
            "optimizer": {"learning_rate": 1e-3},
            "training": {"num_steps": 10, "batch_size": sizes.rows},
        }
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """A training at its first step on one device.

    Attributes:
      config: Its experiment, in float32.
      setup: Its model, on the device.
      dataset: Its data.
    """

    config: Config
    setup: Setup
    dataset: Dataset

    @classmethod
    def on(cls, device: Any, config: Config, dataset: Dataset) -> "Step":
        """Returns the training on a device."""
        mesh = make_mesh(config.mesh, [device])
        return cls(config, Setup.of(config, dataset.vocabulary, mesh), dataset)

    def state(self) -> Any:
        """Returns a state none of whose parameters is 0, as many are at first, on the host."""
        make_state, shardings = init_state(self.setup, self._optimizer, self.config.seed)
        with jax.set_mesh(self.setup.mesh):
            state = jax.device_get(first_state(make_state, shardings))
        rng = np.random.default_rng(1)
        drawn = lambda x: x + 0.05 * rng.standard_normal(x.shape, np.float32)  # noqa: E731
        return state.replace(params=jax.tree.map(drawn, state.params))

    def batch(self) -> Any:
        """Returns the first batch, on the host."""
        return corrupted(next(configured_batches(self.config, self.dataset, self.setup.process)))

    @property
    def _optimizer(self):
        return make_optimizer(self.config.optimizer, self.config.training.num_steps)

    def metrics(self, state: Any, batch: Any) -> dict[str, float]:
        """Returns the metrics of a step from a state, with products in full float32."""
        _, shardings = init_state(self.setup, self._optimizer, self.config.seed)
        with jax.set_mesh(self.setup.mesh), jax.default_matmul_precision("highest"):
            step = make_train_step(self.config, self.setup, self._optimizer, shardings, 1.0)
            state = jax.device_put(state, shardings)
            _, metrics = step(state, self._placed(batch))
        return {name: float(value) for name, value in jax.device_get(metrics).items()}

    def gradient(self, state: Any, batch: Any, dtype: str) -> Any:
        """Returns the gradient of the loss, computed in a type, on the host."""
        model = dataclasses.replace(self.config.model, compute_dtype=dtype)
        config = dataclasses.replace(self.config, model=model)
        setup = Setup.of(config, self.dataset.vocabulary, self.setup.mesh)
        gradient = jax.jit(jax.grad(lambda *args: make_loss(setup)(*args)[0]))
        precision = "highest" if dtype == "float32" else None
        with jax.set_mesh(setup.mesh), jax.default_matmul_precision(precision):
            where = jax.sharding.NamedSharding(setup.mesh, jax.sharding.PartitionSpec())
            params, rng = jax.device_put((state.params, state.rng), where)
            return jax.device_get(gradient(params, self._placed(batch), rng))

    def _placed(self, batch: Any) -> Any:
        return jax.device_put(batch, batch_sharding(self.setup.mesh))


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same training on two devices.

    Attributes:
      reference: On the CPU.
      other: On the GPU.
    """

    reference: Step
    other: Step

    def losses(self, name: str) -> Row:
        """Returns the row of the losses of a step in float32."""
        state, batch = self.reference.state(), self.reference.batch()
        ours, theirs = (x.metrics(state, batch) for x in (self.reference, self.other))
        apart = {key: _apart(ours[key], theirs[key]) for key in ("loss", "grad_norm")}
        figures = {"nats": ours["loss"]} | {f"relative Δ of {k}": x for k, x in apart.items()}
        return Row(name, figures, passed=apart["loss"] < LOSS_TOLERANCE)

    def gradients(self, name: str) -> Row:
        """Returns the row of the cosines of gradients, of bfloat16 and of float32 on the CPU."""
        state, batch = self.reference.state(), self.reference.batch()
        ours = self.reference.gradient(state, batch, "float32")
        theirs = self.other.gradient(state, batch, "bfloat16")
        pairs = [
            tuple(np.asarray(leaf, np.float64).ravel() for leaf in leaves)
            for leaves in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True)
        ]
        whole = _cosine(*map(np.concatenate, zip(*pairs, strict=True)))
        lowest = min(_cosine(*pair) for pair in pairs)
        return Row(name, {"cosine": whole, "lowest of an array": lowest}, whole > LEAST_COSINE)


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _apart(x: float, y: float) -> float:
    return abs(x - y) / abs(x)
