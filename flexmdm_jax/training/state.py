"""What a run carries from step to step, and the model it belongs to."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.core import meta
from jax.sharding import Mesh

from flexmdm_jax.config import Config
from flexmdm_jax.models.dit import DiT, make_denoiser
from flexmdm_jax.schedules import Schedule
from flexmdm_jax.sharding import num_batch_shards, state_shardings
from flexmdm_jax.types import Denoiser, RowKeys, Vocabulary


@flax.struct.dataclass
class TrainState:
    """Everything that decides how a run goes on, besides the position in the data.

    Fields are trees of arrays, or of shapes or shardings in their place.

    Attributes:
      step: Steps taken, an int32 scalar.
      rng: Key data [2]; noise is drawn from keys folded in from it, and it never changes.
      params: float32 parameters.
      ema: Their moving average; what is sampled and evaluated.
      opt_state: Of the optimizer.
    """

    step: Any
    rng: Any
    params: Any
    ema: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Setup:
    """The fixed parts of a run, made from the config and the vocabulary.

    Attributes:
      model: The network.
      mesh: The devices.
      insertion: α.
      unmasking: β.
      vocabulary: Ids of MASK and END.
    """

    model: DiT
    mesh: Mesh
    insertion: Schedule
    unmasking: Schedule
    vocabulary: Vocabulary

    @classmethod
    def of(cls, config: Config, vocabulary: Vocabulary, mesh: Mesh) -> "Setup":
        """Returns the model and laws that a config describes."""
        model = DiT(
            vocabulary_size=vocabulary.size,
            max_length=config.data.max_length,
            hidden_size=config.model.hidden_size,
            num_layers=config.model.num_layers,
            num_heads=config.model.num_heads,
            condition_size=config.model.condition_size,
            insertion_head=config.insertion_schedule.inserts,
            dropout_rate=config.model.dropout_rate,
            dtype=jnp.dtype(config.model.compute_dtype),
            remat=config.model.remat,
            scan_unroll=config.model.scan_unroll,
            attention_implementation=config.model.attention or None,
        )
        return cls(
            model=model,
            mesh=mesh,
            insertion=config.insertion_schedule,
            unmasking=config.unmasking_schedule,
            vocabulary=vocabulary,
        )

    @property
    def laws(self) -> dict[str, Any]:
        """Returns the keyword arguments that losses and samplers share."""
        return {
            "insertion": self.insertion,
            "unmasking": self.unmasking,
            "vocabulary": self.vocabulary,
        }

    @property
    def num_groups(self) -> int:
        """Returns over how many devices the rows of a batch are spread; see map_slots."""
        return num_batch_shards(self.mesh)

    def round_up(self, rows: int) -> int:
        """Returns the next number of rows that gives every device as many as the others."""
        return -(-rows // self.num_groups) * self.num_groups

    def denoiser(self, params, dropout_keys: RowKeys | None = None) -> Denoiser:
        """Returns the network with its parameters, as losses and samplers take it."""
        return make_denoiser(self.model, params, dropout_keys)


def init_state(setup: Setup, optimizer: optax.GradientTransformation, seed: int):
    """Returns (a function that makes the first state, its shardings); nothing is computed yet.

    Jit the function with the shardings as out_shardings, so that no device ever holds a full copy,
    or take its eval_shape to restore into.
    """

    def boxed() -> TrainState:
        key = jax.random.key(seed)
        init_key, noise_key = jax.random.split(key)
        slots = jnp.zeros((1, 2), jnp.int32)
        params = setup.model.init(init_key, slots, slots + 1, jnp.zeros((1, 1)))["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            rng=jax.random.key_data(noise_key),
            params=params,
            ema=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
        )

    shardings = state_shardings(setup.mesh, jax.eval_shape(boxed))
    return lambda: meta.unbox(boxed()), shardings


def sharded_shapes(make_state, shardings):
    """Returns the shapes, types and shardings of a state, to restore into; nothing is computed."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(make_state),
        shardings,
    )
