"""What an experiment consists of: frozen dataclasses, read once from a ConfigDict and checked."""

import dataclasses
import math
import pathlib
import runpy
import traceback
from typing import Any, Literal

from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import flatten, nearest, parse_strategy, read_fields
from flexmdm_jax.process import Process
from flexmdm_jax.schedules import SCHEDULES
from flexmdm_jax.types import SEEDS, Vocabulary


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}; it must be at least 1")


def _fraction(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}; it must lie in [0, 1)")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters; see models/lora.py. Rank 0: none."""

    rank: int = 0
    alpha: float = 128.0
    rslora: bool = False  # alpha is divided by the root of the rank, not by the rank
    dropout_rate: float = 0.0
    targets: str = "q,k,v,head"

    def __post_init__(self):
        _fraction(self, "dropout_rate")
        if self.rank < 0:
            raise ValueError(f"rank = {self.rank}; it must not be negative")
        known = ("q", "k", "v", "out", "gate", "up", "down", "head")
        for target in self.targets.split(","):
            if target not in known:
                raise ValueError(f"targets: {target!r}{nearest(target, known)}")


@dataclasses.dataclass(frozen=True)
class LladaConfig:
    """What only a LLaDA has: its sizes, its frozen base, and what is trained in its stead."""

    base: str = ""  # folder that `convert llada` wrote
    embedding_size: int = 126_464
    mlp_size: int = 12_288
    num_kv_heads: int = 32
    rope_theta: float = 500_000.0
    norm_epsilon: float = 1e-5
    tied: bool = False
    layers_per_group: int = 8  # that share time conditioning; MDM has none
    lora: LoraConfig = LoraConfig()

    def __post_init__(self):
        _positive(self, "embedding_size", "mlp_size", "num_kv_heads", "layers_per_group")
        if self.rope_theta <= 0 or self.norm_epsilon <= 0:
            raise ValueError("rope_theta and norm_epsilon must be positive")
        if self.tied and self.lora.rank and "head" in self.lora.targets.split(","):
            raise ValueError("lora.targets: a tied head is the embedding; leave out 'head'")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network; see models/dit.py and models/llada.py for what each size means."""

    hidden_size: int
    num_layers: int
    num_heads: int
    kind: Literal["dit", "llada"] = "dit"
    condition_size: int = 128  # DiT only
    dropout_rate: float = 0.0  # DiT only
    mark_start: bool = False  # DiT only
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: Literal["none", "dots", "full"] = "none"  # what backward computes again
    scan_unroll: int = 1
    attention: str = ""  # empty: the platform decides
    llada: LladaConfig = LladaConfig()

    def __post_init__(self):
        _positive(self, "hidden_size", "num_layers", "num_heads", "condition_size", "scan_unroll")
        _fraction(self, "dropout_rate")
        if self.kind == "llada" and self.num_heads % self.llada.num_kv_heads:
            raise ValueError(
                f"num_heads = {self.num_heads} is no multiple of llada.num_kv_heads = "
                f"{self.llada.num_kv_heads}"
            )
        if self.kind == "llada" and self.dropout_rate:
            raise ValueError("dropout_rate is the DiT's; set llada.lora.dropout_rate")
        if self.kind == "llada" and self.mark_start:
            raise ValueError("mark_start is the DiT's; LLaDA's weights know no such mark")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size = {self.hidden_size} does not split into {self.num_heads} heads of "
                "even size; choose a multiple of 2 * num_heads"
            )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The prepared dataset (or several, mixed) and the length of a row in slots, END included."""

    path: str
    max_length: int
    prepare: str = ""  # the command that makes the dataset, told to whoever lacks it
    sets: dict[str, str] = dataclasses.field(default_factory=dict)  # folders of a mixture, by name
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)  # their shares
    buckets: tuple[int, ...] = ()  # shorter lengths that the rows of a batch may have
    workers: int = 0  # processes that read ahead; 0 reads ahead in a thread
    prefetch: int = 4  # batches read ahead, of each worker

    def __post_init__(self):
        if self.max_length < 2:
            raise ValueError(f"max_length = {self.max_length}; a token and END need at least 2")
        if any(not 2 <= length < self.max_length for length in self.buckets):
            raise ValueError(
                f"buckets = {self.buckets}: lengths from 2 to below max_length = {self.max_length}"
            )
        _positive(self, "prefetch")
        if self.workers < 0:
            raise ValueError(f"workers = {self.workers}; it must not be negative")
        if unknown := sorted(set(self.mixture) - set(self.sets)):
            raise ValueError(
                f"mixture names {', '.join(unknown)}; sets has {', '.join(self.sets) or 'none'}"
            )
        weights = self.mixture.values()
        if self.mixture and (min(weights) <= 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6)):
            raise ValueError(f"mixture = {self.mixture}: weights must be positive and sum to 1")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, gradient clipping, and an exponential moving average."""

    learning_rate: float
    group_learning_rates: dict[str, float] = dataclasses.field(default_factory=dict)  # by path
    warmup_steps: int = 0
    decay: Literal["constant", "cosine", "cosine_restarts"] = "constant"
    num_cycles: int = 5  # of cosine_restarts
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0
    ema_decay: float = 0.9999

    def __post_init__(self):
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ValueError("learning_rate and clip_norm must be positive")
        if any(rate < 0 for rate in self.group_learning_rates.values()):
            raise ValueError("group_learning_rates must not be negative")
        _positive(self, "num_cycles")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError("warmup_steps and weight_decay must not be negative")
        _fraction(self, "b1", "b2", "ema_decay")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, in what batches, and how often to look and to save (in steps)."""

    num_steps: int
    batch_size: int
    start: str = ""  # workdir of a run whose averaged parameters this one starts from
    accumulation_steps: int = 1
    time_warp: float = 1.0  # see stratified_times(); 1 draws times as the paper does
    log_every: int = 100
    evaluate_every: int = 10_000
    checkpoint_every: int = 10_000
    keep_checkpoints: int = 3

    def __post_init__(self):
        names = (field.name for field in dataclasses.fields(self) if field.name != "start")
        _positive(self, *names)
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size = {self.batch_size} does not split into "
                f"{self.accumulation_steps} accumulation_steps"
            )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What a periodic evaluation costs."""

    num_sequences: int = 256  # held-out sequences scored with the likelihood bound
    num_times: int = 8  # times per sequence
    num_samples: int = 64  # generated for the length distance
    num_steps: int = 64  # of the sampler
    batch_size: int = 64

    def __post_init__(self):
        _positive(self, *(field.name for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; -1 takes what the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = dataclasses.astuple(self)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(f"{sizes}: sizes are positive, and one of them may be -1")


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment."""

    method: Literal["flexmdm", "mdm"]
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    mesh: MeshConfig = MeshConfig()
    insertion: str = "linear"  # α; not used by MDM
    unmasking: str = "linear"  # β
    seed: int = 0

    def __post_init__(self):
        if self.seed not in SEEDS:
            raise ValueError(f"seed = {self.seed}; it must lie between 0 and {SEEDS[-1]}")
        for schedule in (self.insertion, self.unmasking):
            parse_strategy(schedule, SCHEDULES, "schedule")

    def process(self, vocabulary: Vocabulary) -> Process:
        """Returns what a model is trained on: MDM has every token in place from the start."""
        unmasking = parse_strategy(self.unmasking, SCHEDULES, "schedule")
        if self.method == "mdm":
            return Process.mdm(vocabulary, unmasking)
        return Process(vocabulary, parse_strategy(self.insertion, SCHEDULES, "schedule"), unmasking)


# What may change when a run is taken up again: nothing that the parameters or the data depend on.
CHANGEABLE = frozenset(
    {
        "training.num_steps",
        "training.log_every",
        "training.evaluate_every",
        "training.checkpoint_every",
        "training.keep_checkpoints",
        "data.path",
        "data.prepare",
        "data.sets",
        "data.workers",
        "data.prefetch",
        "model.attention",
        "model.llada.base",
        "model.remat",
        "model.scan_unroll",
    }
    | {f"evaluation.{field.name}" for field in dataclasses.fields(EvaluationConfig)}
    | {f"mesh.{field.name}" for field in dataclasses.fields(MeshConfig)}
)


def read_config(values: Any) -> Config:
    """Returns the checked config.

    Args:
      values: A ConfigDict or the dict that config_to_dict() made.

    Raises:
      UserError: Naming the field that is unknown (and the nearest known one), missing, of the
        wrong type or out of range.
    """
    return read_fields(Config, values, "config")


def load_config_file(path: str, neighbour: str = "", **arguments: Any) -> Any:
    """Returns get_config(**arguments) of a config file, or of its neighbour of the given name.

    Configs that vary another one load it as their neighbour, wherever they are installed.

    Raises:
      UserError: Naming the place of whatever the file's Python raises.
    """
    path = str(pathlib.Path(path).with_name(neighbour)) if neighbour else path
    try:
        get_config = runpy.run_path(path).get("get_config")
        if not callable(get_config):
            raise UserError(f"{path}: no function get_config(), as the shipped configs have it")
        return get_config(**arguments)
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        place = f"{path}, line {lines[-1]}" if lines else path
        raise UserError(f"{place}: {type(error).__name__}: {error}") from error


def config_to_dict(config: Config) -> dict[str, Any]:
    """Returns the config as nested dicts that read_config() and JSON understand."""
    return dataclasses.asdict(config)


def changed_fields(old: Config, new: Config) -> list[str]:
    """Returns descriptions of the fields that differ and may not change within a run.

    The number of steps may change only where the learning rate does not depend on it.
    """
    changeable = CHANGEABLE
    if old.optimizer.decay != "constant":
        changeable = CHANGEABLE - {"training.num_steps"}
    before, after = flatten(old), flatten(new)
    return [
        f"{name} was {before[name]!r}, is {after[name]!r}"
        for name in before
        if before[name] != after[name] and name not in changeable
    ]
