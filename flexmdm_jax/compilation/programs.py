"""The programs a run consists of, compiled as they are for devices that need not be there."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flexmdm_jax.compilation.topology import Topology
from flexmdm_jax.config import Config
from flexmdm_jax.data.batches.packing import Bins
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.pools import blank_state, make_program
from flexmdm_jax.interpolant import Corrupted, Interpolant, Times
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.sharding import batch_sharding
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import Setup, TrainState, init_state, sharded_shapes
from flexmdm_jax.training.step import make_train_step
from flexmdm_jax.types import Vocabulary

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TOO_LARGE = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
_NO_ASSEMBLER = (
    "the CUDA compiler finds no ptxas, which assembles its programs; install it with: "
    "pip install nvidia-cuda-nvcc nvidia-nvvm"
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config on a mesh, as shapes only.

    Attributes:
      config: The experiment; its batch has rows_per_chip rows for every device of the batch axes.
      setup: Model and process.
      state: Shapes and shardings of the training state.
      rows_per_chip: Rows of a batch on each device.
    """

    config: Config
    setup: Setup
    state: TrainState
    rows_per_chip: int

    @classmethod
    def of(cls, config: Config, vocabulary: Vocabulary, mesh: Mesh, rows: int) -> "Experiment":
        """Returns the experiment with rows on each device and no gradient accumulation."""
        setup = Setup.of(config, vocabulary, mesh)
        training = dataclasses.replace(
            config.training, batch_size=rows * setup.num_groups, accumulation_steps=1
        )
        config = dataclasses.replace(config, training=training)
        optimizer = make_optimizer(config.optimizer, training.num_steps)
        state = sharded_shapes(*init_state(setup, optimizer, config.seed))
        return cls(config, setup, state, rows)

    @property
    def rows(self) -> int:
        """Returns the rows of a batch over all devices."""
        return self.rows_per_chip * self.setup.num_groups

    @property
    def averaged(self) -> Any:
        """Returns the shapes of the parameters that are sampled with."""
        return self.setup.whole(self.state.ema, self.state.frozen)

    @property
    def bins(self) -> Bins:
        """Returns the rows of a training step."""
        return Bins.of(self.config)

    @property
    def length(self) -> int:
        """Returns the slots of a row that is sampled."""
        return self.config.data.max_length


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program.

    Attributes:
      fits: Whether it could place everything.
      temporaries: Bytes per chip beside arguments and results; of one that does not fit, what it
        would need.
      peak: The most that is held at once; None if it does not fit.
      available: Bytes per chip the compiler has; None if it was not said.
      text: The program; empty if it does not fit.
    """

    fits: bool
    temporaries: int
    peak: int | None
    available: int | None
    text: str


def bytes_per_chip(shapes) -> int:
    """Returns what a tree of sharded shapes takes of each chip."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(shapes)
    )


def _batch_shapes(make, mesh: Mesh):
    """Returns the shapes of make(), whose arrays all have the batch as their first axis."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), jax.eval_shape(make)
    )


def lower_train_step(experiment: Experiment):
    """Returns the real training step, lowered for the experiment's mesh."""
    setup, config, state = experiment.setup, experiment.config, experiment.state
    bins = experiment.bins

    def make_batch():
        slots = jnp.zeros((bins.rows, bins.length), jnp.int32)
        segments = jnp.zeros((bins.rows, bins.segments), jnp.int32)
        x = Interpolant(slots, slots, slots, gaps=slots.astype(jnp.float32))
        time = segments.astype(jnp.float32)
        return Corrupted(x, Times(time, time), index=segments)

    batch = _batch_shapes(make_batch, setup.mesh)
    optimizer = make_optimizer(config.optimizer, config.training.num_steps)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    with jax.set_mesh(setup.mesh):
        step = make_train_step(config, setup, optimizer, shardings, expected_tokens=1.0)
        return step.lower(state, batch)


def lower_sampling(experiment: Experiment):
    """Returns the sampler on rows of full length, with the steps of the config's evaluation."""
    setup = experiment.setup
    sampler = SamplerConfig(steps=experiment.config.evaluation.num_steps)
    shape = (experiment.rows, experiment.length)
    state = blank_state(sampler.kinds, setup.process, shape, watched=False)
    number = np.zeros(experiment.rows, np.uint32)
    rows = _batch_shapes(lambda: (state, sampler.settings(*shape), number, number), setup.mesh)
    limit = np.int32(sampler.steps)
    program = make_program(setup.denoiser, setup.process, sampler.kinds, setup.mesh, grows=False)
    with jax.set_mesh(setup.mesh):
        return program.lower(experiment.averaged, *rows, limit, limit)


# Name -> what it lowers.
PROGRAMS: dict[str, Callable] = {"train": lower_train_step, "sample": lower_sampling}


def compile_program(experiment: Experiment, program: str, memory: int | None = None) -> Compiled:
    """Returns what the compiler makes of a program of PROGRAMS; not fitting is no error.

    Args:
      experiment: Its config and devices.
      program: Of PROGRAMS.
      memory: Bytes of a chip that it may take, if the compiler does not know; see Topology.
    """
    lowered = PROGRAMS[program](experiment)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = _TOO_LARGE.search(str(error))
        if "version of ptxas" in str(error):
            raise UserError(_NO_ASSEMBLER) from None
        if not found:
            raise
        needed = int(float(found[1]) * _UNITS[found[2]])
        available = int(float(found[3]) * _UNITS[found[4]])
        return Compiled(False, needed, None, available, "")
    parts = compiled.memory_analysis()
    if memory is None:
        peak = parts.peak_memory_in_bytes
        return Compiled(True, parts.temp_size_in_bytes, peak, None, compiled.as_text())
    peak = peak_on_gpu(parts)
    if peak > memory:
        return Compiled(False, peak, None, memory, "")
    return Compiled(True, parts.temp_size_in_bytes, peak, memory, compiled.as_text())


def peak_on_gpu(parts: Any) -> int:
    """Returns the most bytes of a GPU that a program holds, by what memory_analysis() says of it.

    Its temporaries are one piece of memory, which is there as a whole or not.
    """
    results = parts.output_size_in_bytes - parts.alias_size_in_bytes
    return parts.argument_size_in_bytes + results + parts.temp_size_in_bytes


def available_memory(topology: Topology) -> int:
    """Returns the bytes of a chip's memory that a program may use.

    Where the compiler knows, it is asked for too many.
    """
    if topology.memory is not None:
        return topology.memory
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    huge = jax.ShapeDtypeStruct((1 << 38,), jnp.float32, sharding=sharding)
    try:
        jax.jit(lambda x: 2 * x[::-1]).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        if found := _TOO_LARGE.search(str(error)):
            return int(float(found[3]) * _UNITS[found[4]])
    return topology.chip.hbm
