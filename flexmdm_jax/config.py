"""What an experiment consists of: frozen dataclasses, read once from a ConfigDict and checked."""

import dataclasses
import math
import pathlib
import runpy
import traceback
from typing import Any, Literal

from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import flatten, nearest, parse_strategy, read_fields
from flexmdm_jax.files import check_local
from flexmdm_jax.process import Process
from flexmdm_jax.ranges import (
    Count,
    CountOrUnset,
    CountOrZero,
    Few,
    FewOrZero,
    Length,
    OneOrMore,
    Positive,
    PositiveOrZero,
    Ranged,
    Seed,
    ShareBelowOne,
)
from flexmdm_jax.schedules import SCHEDULES
from flexmdm_jax.types import Vocabulary


def _local(*paths: str) -> None:
    for path in paths:
        check_local(path)


@dataclasses.dataclass(frozen=True)
class LoraConfig(Ranged):
    """Low-rank adapters; see models/lora.py. Rank 0: none."""

    rank: CountOrZero = 0  # 0: no adapters
    alpha: Positive = 128.0  # what an adapter adds counts alpha / rank
    rslora: bool = False  # alpha is divided by the root of the rank, not by the rank
    dropout_rate: ShareBelowOne = 0.0  # of an adapter's input
    targets: str = "q,k,v,head"  # which linear maps have one; of out, gate, up, down, too

    def __post_init__(self):
        super().__post_init__()
        known = ("q", "k", "v", "out", "gate", "up", "down", "head")
        for target in self.targets.split(","):
            if target not in known:
                raise ValueError(f"targets: {target!r}{nearest(target, known)}")


@dataclasses.dataclass(frozen=True)
class LladaConfig(Ranged):
    """What only a LLaDA has: its sizes, its base, and what is trained in the base's stead."""

    base: str = ""  # folder that `convert llada` wrote
    embedding_size: Count = 126_464  # rows of embedding and head; some may be spare
    mlp_size: Count = 12_288  # features inside a block's MLP
    num_kv_heads: Count = 32  # of keys and values; num_heads is a multiple
    rope_theta: Positive = 500_000.0  # base of the rotary frequencies
    norm_epsilon: Positive = 1e-5  # of RMSNorm
    tied: bool = False  # the head is the embedding
    layers_per_group: Count = 8  # that share time conditioning; MDM has none
    causal: bool = False  # slots see what stands before them only, as autoregressive models do
    told_before: bool = False  # tokens by the slot before, as autoregressive models tell them
    train_mask: bool = False  # MASK's embedding too
    train_base: bool = False  # all of it: a run begins with the base, and holds what comes of it
    lora: LoraConfig = LoraConfig()

    def __post_init__(self):
        super().__post_init__()
        _local(self.base)
        if self.tied and self.lora.rank and "head" in self.lora.targets.split(","):
            raise ValueError("lora.targets: a tied head is the embedding; leave out 'head'")
        if self.train_base and (self.lora.rank or self.train_mask):
            name = "lora.rank = 0" if self.lora.rank else "train_mask = False"
            raise ValueError(f"train_base: the whole base is trained already; set {name}")


@dataclasses.dataclass(frozen=True)
class XlmConfig(Ranged):
    """What only xlm-core's network has; see models/xlm.py. `convert xlm` sets it."""

    mlp_size: CountOrZero = 0  # 0: four times hidden_size
    rotary_size: CountOrZero = 0  # 0: whole heads
    activation: Literal["relu", "gelu"] = "relu"  # of the MLP
    norm_epsilon: Positive = 1e-5  # of the norms
    gap_mlp: bool = False  # before a distribution of gaps
    pad: CountOrUnset = -1  # an id that is never drawn; -1: none


@dataclasses.dataclass(frozen=True)
class ModelConfig(Ranged):
    """The network; see models/ (dit.py, llada.py, xlm.py) for what each size means."""

    hidden_size: Count  # features of a slot, a multiple of 2 * num_heads
    num_layers: Count  # blocks
    num_heads: Count  # of attention
    kind: Literal["dit", "llada", "xlm"] = "dit"  # the paper's network, LLaDA's, or xlm-core's
    condition_size: Count = 128  # features of the time embedding; of all but LLaDA
    dropout_rate: ShareBelowOne = 0.0  # after attention and MLP; of all but LLaDA
    mark_start: bool = False  # DiT only: a learned vector marks the first slot
    # What is learned of a gap: the mean number of missing tokens, or (not LLaDA) its distribution.
    gap_head: Literal["mean", "distribution"] = "mean"
    # Of a distribution: 0, 1, … missing tokens, the last that many or more; 0: data.max_length + 1.
    gap_classes: CountOrZero = 0
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of products; parameters: float32
    remat: Literal["none", "dots", "full"] = "none"  # what backward computes again
    scan_unroll: Count = 1  # blocks to an iteration of the loop over them; more compile longer
    attention: str = ""  # xla, pallas, cudnn or pallas_gpu; empty: the platform decides
    llada: LladaConfig = LladaConfig()
    xlm: XlmConfig = XlmConfig()

    def __post_init__(self):
        super().__post_init__()
        if self.kind == "llada" and self.num_heads % self.llada.num_kv_heads:
            raise ValueError(
                f"num_heads = {self.num_heads} is no multiple of llada.num_kv_heads = "
                f"{self.llada.num_kv_heads}"
            )
        if self.kind == "llada" and self.dropout_rate:
            raise ValueError("dropout_rate is the DiT's; set llada.lora.dropout_rate")
        if self.kind != "dit" and self.mark_start:
            raise ValueError("mark_start is the DiT's; public weights know no such mark")
        if self.kind == "llada" and self.gap_head == "distribution":
            raise ValueError("gap_head = 'distribution' is the DiT's; leave it out")
        if self.xlm.gap_mlp and self.gap_head == "mean":
            raise ValueError("xlm.gap_mlp is a distribution's; set gap_head = 'distribution'")
        size = self.hidden_size // self.num_heads
        if self.xlm.rotary_size % 2 or self.xlm.rotary_size > size:
            raise ValueError(
                f"xlm.rotary_size = {self.xlm.rotary_size}; an even number up to the {size} "
                "features of a head"
            )
        if self.gap_classes and self.gap_head == "mean":
            raise ValueError("gap_classes are a distribution's; set gap_head = 'distribution'")
        if self.gap_classes == 1:
            raise ValueError("gap_classes = 1 tells nothing apart; choose at least 2, or 0")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size = {self.hidden_size} does not split into {self.num_heads} heads of "
                "even size; choose a multiple of 2 * num_heads"
            )


@dataclasses.dataclass(frozen=True)
class DataConfig(Ranged):
    """The prepared dataset (or several, mixed) and how its sequences lie in rows, in slots.

    A sequence counts with its END. Packed rows are row_length slots long and hold several partial
    sequences each; training.batch_size is their number.
    """

    path: str  # the folder that prepare made; with a mixture it is not used
    max_length: Length  # slots of the longest sequence
    prepare: str = ""  # the command that makes the dataset, told to whoever lacks it
    sets: dict[str, str] = dataclasses.field(default_factory=dict)  # folders of a mixture, by name
    mixture: dict[str, Positive] = dataclasses.field(default_factory=dict)  # shares; sum: 1
    buckets: tuple[Length, ...] = ()  # shorter lengths that the rows of a batch may have
    packing: bool = False  # fill rows with several sequences each
    row_length: CountOrZero = 0  # of packed rows; 0: max_length
    max_segments: CountOrZero = 0  # sequences to a packed row; 0: one for 16 slots, 4 at least
    workers: FewOrZero = 0  # processes that read ahead; 0 reads ahead in a thread
    prefetch: Few = 4  # batches read ahead, of each worker

    def __post_init__(self):
        super().__post_init__()
        _local(self.path, *self.sets.values())
        if any(length >= self.max_length for length in self.buckets):
            raise ValueError(
                f"buckets = {self.buckets}: lengths below max_length = {self.max_length}"
            )
        self._check_packing()
        if unknown := sorted(set(self.mixture) - set(self.sets)):
            raise ValueError(
                f"mixture names {', '.join(unknown)}; sets has {', '.join(self.sets) or 'none'}"
            )
        if self.mixture and not math.isclose(sum(self.mixture.values()), 1, abs_tol=1e-6):
            raise ValueError(f"mixture = {self.mixture}: weights must sum to 1")

    def _check_packing(self) -> None:
        for name in ("row_length", "max_segments"):
            if getattr(self, name) and not self.packing:
                raise ValueError(f"{name} is that of packed rows; set packing = True as well")
        if self.packing and self.buckets:
            raise ValueError("packing leaves no room for buckets; set one of the two")
        if self.row_length and self.row_length < self.max_length:
            raise ValueError(
                f"row_length = {self.row_length} is shorter than a sequence of max_length = "
                f"{self.max_length} slots; raise it"
            )
        if self.max_segments > self.slots:
            raise ValueError(
                f"max_segments = {self.max_segments}: a row of {self.slots} slots holds at most as "
                "many sequences"
            )

    @property
    def slots(self) -> int:
        """Returns the slots of a training row."""
        return self.row_length or self.max_length

    @property
    def segments(self) -> int:
        """Returns how many sequences a training row may hold."""
        if not self.packing:
            return 1
        return self.max_segments or min(self.slots, max(4, self.slots // 16))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Ranged):
    """AdamW with linear warm-up, gradient clipping, and an exponential moving average."""

    learning_rate: Positive  # the highest
    # By patterns of parameters' paths, such as gap_head/*; the first that fits counts.
    group_learning_rates: dict[str, PositiveOrZero] = dataclasses.field(default_factory=dict)
    warmup_steps: CountOrZero = 0  # over which the learning rate rises from 0
    decay: Literal["constant", "cosine", "cosine_restarts"] = "constant"  # after that; to 0
    num_cycles: Count = 5  # of cosine_restarts
    weight_decay: PositiveOrZero = 0.0  # of matrices; vectors do not decay
    b1: ShareBelowOne = 0.9  # of the average of gradients
    b2: ShareBelowOne = 0.999  # of the average of their squares
    clip_norm: Positive = 1.0  # of the whole gradient
    ema_decay: ShareBelowOne = 0.9999  # of the averaged parameters, which samples are drawn with


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Ranged):
    """How long, in what batches, and how often to look and to save (in steps)."""

    num_steps: Count  # of the optimizer
    batch_size: Count  # rows of a step, on all devices together
    start: str = ""  # workdir of a run whose averaged parameters this one starts from
    accumulation_steps: Count = 1  # parts of a batch, one after another, to save memory
    time_warp: OneOrMore = 1.0  # see stratified_times(); 1 draws times as the paper does
    log_every: Count = 100  # a line of metrics.jsonl
    evaluate_every: CountOrZero = 10_000  # on held-out data, and once at the end; 0: never
    sample_every: CountOrZero = 0  # write a few texts of the moment; 0: none
    checkpoint_every: Count = 10_000  # what an interruption costs at most
    keep_checkpoints: Count = 3  # the newest

    def __post_init__(self):
        super().__post_init__()
        _local(self.start)
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size = {self.batch_size} does not split into "
                f"{self.accumulation_steps} accumulation_steps"
            )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Ranged):
    """What a periodic evaluation costs."""

    num_sequences: Count = 256  # held-out sequences scored with the likelihood bound
    num_times: Count = 8  # times per sequence
    num_samples: Count = 64  # generated for the length distance
    num_steps: CountOrZero = 64  # of the sampler; 0 for adaptive ones
    batch_size: Count = 64  # sequences at a time


@dataclasses.dataclass(frozen=True)
class MeshConfig(Ranged):
    """Devices along each axis of the mesh; -1 takes what the others leave."""

    data: CountOrUnset = -1  # rows alone are spread over it
    fsdp: CountOrUnset = 1  # rows and parameters
    tensor: CountOrUnset = 1  # heads and features of matrices, and the vocabulary

    def __post_init__(self):
        super().__post_init__()
        sizes = dataclasses.astuple(self)
        if sizes.count(-1) > 1 or 0 in sizes:
            raise ValueError(f"{sizes}: sizes are positive, and one of them may be -1")


@dataclasses.dataclass(frozen=True)
class Config(Ranged):
    """An experiment."""

    method: Literal["flexmdm", "mdm"]  # of variable length, or the baseline of fixed length
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    mesh: MeshConfig = MeshConfig()
    # α, when tokens come in as masks: linear, polynomial:power=2, power, sine, cosine, geometric.
    insertion: str = "linear"
    unmasking: str = "linear"  # β, when masks become tokens
    seed: Seed = 0  # of parameters, order and noise

    def __post_init__(self):
        super().__post_init__()
        for schedule in (self.insertion, self.unmasking):
            parse_strategy(schedule, SCHEDULES, "schedule")
        if self.method == "mdm" and self.data.packing:
            raise ValueError(
                "data.packing: MDM fills every row with END and learns to predict it, so no slot "
                "is left over; leave packing, row_length and max_segments out"
            )
        if self.method == "mdm" and self.model.gap_head == "distribution":
            raise ValueError("model.gap_head: MDM inserts nothing and has no gaps; leave it out")
        if self.data.packing and self.model.attention == "cudnn":
            raise ValueError(
                "data.packing: cuDNN's attention knows one sequence to a row; leave out "
                "model.attention, or choose 'xla'"
            )

    @property
    def gap_classes(self) -> int:
        """Returns the classes of a gap's distribution, 0 where its mean alone is learned."""
        if self.model.gap_head == "mean":
            return 0
        return self.model.gap_classes or self.data.max_length + 1

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
        "training.sample_every",
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
        if b"\0" in pathlib.Path(path).read_bytes():
            raise UserError(f"{path}: not a config: Python with a function get_config()")
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
