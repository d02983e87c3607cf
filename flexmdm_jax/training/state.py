"""What a run carries from step to step, and the model it belongs to."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.core import meta
from jax.sharding import Mesh

from flexmdm_jax.attention import Call
from flexmdm_jax.attention.backends import choose_backend
from flexmdm_jax.config import Config
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.engine import Engine
from flexmdm_jax.generation.scoring import Scorer
from flexmdm_jax.models.dit import DiT, make_denoiser
from flexmdm_jax.models.llada import LLaDA
from flexmdm_jax.models.lora import Lora, join_base, split_base
from flexmdm_jax.models.xlm import Xlm
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import ExactGaps, SamplerConfig
from flexmdm_jax.sharding import num_batch_shards, state_shardings
from flexmdm_jax.training.tables import padded_size
from flexmdm_jax.types import Denoiser, SegmentKeys, Vocabulary


@flax.struct.dataclass
class TrainState:
    """Everything that decides how a run goes on, besides the position in the data.

    Fields are trees of arrays, or of shapes or shardings in their place.

    Attributes:
      step: Steps taken, an int32 scalar.
      rng: Key data [2]; noise is drawn from keys folded in from it, and it never changes.
      params: Parameters that are trained, in float32.
      ema: Their moving average; what is sampled and evaluated.
      opt_state: Of the optimizer.
      frozen: Parameters that are not trained and not saved, see load_frozen(); a DiT has none.
    """

    step: Any
    rng: Any
    params: Any
    ema: Any
    opt_state: Any
    frozen: Any = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Setup:
    """The fixed parts of a run, made from the config and the vocabulary.

    Attributes:
      model: The network.
      mesh: The devices.
      process: What it is trained on.
      base: Folder of a LLaDA's frozen parameters, or of what it begins with.
      trains_base: Whether a LLaDA is trained whole.
    """

    model: DiT | LLaDA | Xlm
    mesh: Mesh
    process: Process
    base: str = ""
    trains_base: bool = False

    @classmethod
    def of(cls, config: Config, vocabulary: Vocabulary, mesh: Mesh) -> "Setup":
        """Returns the model and process that a config describes.

        Raises:
          UserError: If the vocabulary is larger than the model's, or the mesh's devices do not run
            the attention that the config names, with its types and rows.
        """
        attention_backend(config, mesh.devices.flat[0])
        process = config.process(vocabulary)
        model = _MODELS[config.model.kind](config, process)
        llada = config.model.llada
        return cls(model, mesh, process, llada.base, llada.train_base)

    def split(self, params) -> tuple[Any, Any]:
        """Returns (trained, frozen) parameters of a whole tree of them."""
        has_frozen = isinstance(self.model, LLaDA) and not self.trains_base
        return self.parts(params) if has_frozen else (params, {})

    def parts(self, params) -> tuple[Any, Any]:
        """Returns (what is added to a LLaDA's base, the base) of a whole tree of parameters."""
        return split_base(params)

    def whole(self, trained, frozen) -> Any:
        """Returns the tree that split() took apart, as denoiser() takes it."""
        return join_base(trained, frozen) if frozen else trained

    @property
    def num_groups(self) -> int:
        """Returns over how many devices the rows of a batch are spread; see map_slots."""
        return num_batch_shards(self.mesh)

    def round_up(self, rows: int) -> int:
        """Returns the next number of rows that gives every device as many as the others."""
        return -(-rows // self.num_groups) * self.num_groups

    def denoiser(self, params, dropout_keys: SegmentKeys | None = None) -> Denoiser:
        """Returns the network with its parameters, as losses and samplers take it."""
        return make_denoiser(self.model, params, dropout_keys)

    def check_sampler(self, sampler: SamplerConfig) -> None:
        """Raises UserError if the sampler needs distributions of gaps, the network giving means."""
        has_distributions = getattr(self.model, "gap_classes", 0) > 0
        needed = self.process.inserts and isinstance(sampler.insertions, ExactGaps)
        if needed and not has_distributions:
            raise UserError(
                "insertions 'exact_gaps': the run's network gives mean gaps only; choose poisson "
                "or binomial, or train one with config.model.gap_head='distribution'"
            )

    def engine(self, batch_size: int) -> Engine:
        """Returns what grows rows; see Engine for how many of them at a time."""
        return Engine(
            self.denoiser, self.process, self.mesh, self.round_up(batch_size), self.model.max_length
        )

    def scorer(self, num_times: int, batch_size: int) -> Scorer:
        """Returns what bounds likelihoods, about batch_size rows at a time."""
        rows = self.round_up(batch_size)
        return Scorer(self.denoiser, self.process, num_times, self.mesh, rows)


def attention_backend(config: Config, device: Any) -> str:
    """Returns the name of the attention that a training takes on a device.

    Raises:
      UserError: If the config names one that does not run there, or not with its types and rows.
    """
    model, name = config.model, config.model.attention
    head_size = model.hidden_size // model.num_heads
    packed = config.data.segments > 1
    call = Call(jnp.dtype(model.compute_dtype), head_size, packed, device_kind=device.device_kind)
    try:
        return choose_backend(name or None, device.platform, call).name
    except ValueError as error:
        raise UserError(f"config.model.attention: {error}") from None


def _dit(config: Config, process: Process) -> DiT:
    return DiT(
        table_size=padded_size(process.vocabulary.size),
        mark_start=config.model.mark_start,
        **_modulated(config, process),
    )


def _llada(config: Config, process: Process) -> LLaDA:
    sizes, vocabulary = config.model.llada, process.vocabulary
    if vocabulary.size > sizes.embedding_size:
        raise UserError(
            f"the tokenizer has {vocabulary.size} ids, more than the model's "
            f"{sizes.embedding_size} rows; prepare the data with the model's own tokenizer"
        )
    lora = Lora(
        rank=sizes.lora.rank,
        alpha=sizes.lora.alpha,
        rslora=sizes.lora.rslora,
        dropout_rate=sizes.lora.dropout_rate,
        targets=tuple(sizes.lora.targets.split(",")),
    )
    return LLaDA(
        embedding_size=sizes.embedding_size,
        num_kv_heads=sizes.num_kv_heads,
        mlp_size=sizes.mlp_size,
        rope_theta=sizes.rope_theta,
        norm_epsilon=sizes.norm_epsilon,
        tied=sizes.tied,
        layers_per_group=sizes.layers_per_group if process.inserts else 0,
        causal=sizes.causal,
        told_before=sizes.told_before,
        trained_mask=vocabulary.mask if sizes.train_mask else -1,
        lora=lora if lora.rank else None,
        param_dtype=jnp.dtype("float32" if sizes.train_base else config.model.compute_dtype),
        **_common(config, process),
    )


def _xlm(config: Config, process: Process) -> Xlm:
    model, sizes = config.model, config.model.xlm
    return Xlm(
        mlp_size=sizes.mlp_size or 4 * model.hidden_size,
        rotary_size=sizes.rotary_size or model.hidden_size // model.num_heads,
        activation=sizes.activation,
        norm_epsilon=sizes.norm_epsilon,
        pad=sizes.pad,
        gap_mlp=sizes.gap_mlp and process.inserts,
        **_modulated(config, process),
    )


def _modulated(config: Config, process: Process) -> dict[str, Any]:
    """Returns the fields of networks that are conditioned on time as the DiT is."""
    return _common(config, process) | {
        "condition_size": config.model.condition_size,
        "gap_classes": config.gap_classes,
        "dropout_rate": config.model.dropout_rate,
    }


def _common(config: Config, process: Process) -> dict[str, Any]:
    model = config.model
    return {
        "vocabulary_size": process.vocabulary.size,
        "insertion_head": process.inserts,
        "max_length": config.data.max_length,
        "hidden_size": model.hidden_size,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "dtype": jnp.dtype(model.compute_dtype),
        "remat": model.remat,
        "scan_unroll": model.scan_unroll,
        "attention_implementation": model.attention or None,
    }


_MODELS = {"dit": _dit, "llada": _llada, "xlm": _xlm}


def init_state(setup: Setup, optimizer: optax.GradientTransformation, seed: int):
    """Returns (a function that makes the first state, its shardings); nothing is computed yet.

    Both cover frozen parameters, which first_state() leaves out. Take the function's eval_shape to
    restore into.
    """

    def boxed() -> TrainState:
        key = jax.random.key(seed)
        init_key, noise_key = jax.random.split(key)
        slots = jnp.zeros((1, 2), jnp.int32)
        # Attention has no parameters, and the devices that its kernels are for may not be here.
        model = setup.model.clone(attention_implementation="xla")
        whole = model.init(init_key, slots, slots + 1, jnp.zeros((1, 1)))["params"]
        params, frozen = setup.split(whole)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            rng=jax.random.key_data(noise_key),
            params=params,
            ema=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
            frozen=frozen,
        )

    shardings = state_shardings(setup.mesh, jax.eval_shape(boxed))
    return lambda: meta.unbox(boxed()), shardings


def parameter_shapes(setup: Setup) -> tuple[Any, Any]:
    """Returns shapes, types and shardings of a model's (trained, frozen) parameters."""
    state = sharded_shapes(*init_state(setup, optax.identity(), seed=0))
    return state.params, state.frozen


def first_state(make_state, shardings) -> TrainState:
    """Returns the state a run begins with, on the devices; its frozen parameters are still to load.

    No device ever holds a full copy of what is spread over several.
    """
    without = jax.jit(
        lambda: make_state().replace(frozen={}), out_shardings=shardings.replace(frozen={})
    )
    return without()


def sharded_shapes(make_state, shardings):
    """Returns the shapes, types and shardings of a state, to restore into; nothing is computed."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(make_state),
        shardings,
    )
