"""What a step of training has to do with real data, beside what its program could do at most."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from flexmdm_jax.attention import blocks, streams, tiles
from flexmdm_jax.attention.pallas_gpu import plan_of
from flexmdm_jax.compilation.programs import Experiment
from flexmdm_jax.compilation.topology import Topology
from flexmdm_jax.data.batches.pipeline import configured_batches
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.posterior import executed_slots, head_chunk_sizes
from flexmdm_jax.training.state import attention_backend

_STEPS = 8  # looked at


@dataclasses.dataclass(frozen=True)
class Workload:
    """Of a step over all chips, on average.

    Attributes:
      sequences: Examples.
      tokens: Of x₁, END not counted.
      slots: That hold a token of x_t.
      pairs: Of slots of one sequence, which attention needs.
      masks: Slots that the vocabulary head is needed for.
      fill: Share of the rows' slots that hold a token.
      attended: Share of all pairs of a row's slots that attention visits: of our own kernels, in
        rows filled up to whole tiles, which is what they are given; all others count whole.
      decoded: Share of the slots that the vocabulary head works off.
    """

    sequences: float
    tokens: float
    slots: float
    pairs: float
    masks: float
    fill: float
    attended: float
    decoded: float


def workload(experiment: Experiment, dataset: Dataset, topology: Topology) -> Workload:
    """Returns what the first steps of an experiment do with a dataset.

    Args:
      experiment: Whose rows are filled.
      dataset: With what.
      topology: Whose devices do the work.
    """
    batches = configured_batches(experiment.config, dataset, experiment.setup.process)
    found = [_of_batch(next(batches), experiment, topology) for _ in range(_STEPS)]
    mean = np.mean([dataclasses.astuple(x) for x in found], axis=0)
    return Workload(*mean.tolist())


def _of_batch(batch: dict[str, np.ndarray], experiment: Experiment, topology) -> Workload:
    vocabulary, groups = experiment.setup.process.vocabulary, experiment.setup.num_groups
    real = batch["segment_ids"] > 0
    masked = real & (batch["tokens"] == vocabulary.mask)
    sizes = np.stack([np.bincount(row, minlength=row.size + 1)[1:] for row in batch["segment_ids"]])
    rows, length = real.shape
    # Chips wait for the one with most masks; all have as many rows.
    most = int(masked.reshape(groups, -1).sum(axis=1).max())
    slots = rows // groups * length
    features, platform = experiment.config.model.hidden_size, topology.devices[0].platform
    sizes_of_chunks = head_chunk_sizes(features, vocabulary, platform)
    return Workload(
        sequences=np.count_nonzero(sizes),
        tokens=np.count_nonzero(real & (batch["targets"] != vocabulary.end)) + batch["gaps"].sum(),
        slots=real.sum(),
        pairs=(sizes.astype(float) ** 2).sum(),
        masks=masked.sum(),
        fill=real.mean(),
        attended=_attended(batch["segment_ids"], experiment, topology),
        decoded=executed_slots(most, slots, sizes_of_chunks) / slots,
    )


def _attended(segment_ids: np.ndarray, experiment: Experiment, topology: Topology) -> float:
    count = {"pallas": _attended_on_tpu, "pallas_gpu": _attended_on_gpu}
    name = attention_backend(experiment.config, topology.devices[0])
    return count[name](segment_ids, experiment, topology.generation) if name in count else 1.0


def _attended_on_tpu(segment_ids, experiment: Experiment, generation: str) -> float:
    model, (rows, length) = experiment.config.model, segment_ids.shape
    heads = model.llada.num_kv_heads if model.kind == "llada" else model.num_heads
    layout = blocks.plan(
        1,
        length,
        model.num_heads,
        heads,
        model.hidden_size // model.num_heads,
        jnp.dtype(model.compute_dtype).itemsize,
        chip=blocks.CHIPS[generation],
    )
    bounds = _bounds(segment_ids, layout.length)
    steps = tiles.list_tiles(bounds, layout.blocks.query, layout.blocks.key)
    visited = float(steps.count) * layout.blocks.query * layout.blocks.key
    return visited / (rows * layout.length**2)


def _attended_on_gpu(segment_ids, experiment: Experiment, generation: str) -> float:
    """Returns the share of the forward kernel; those of large heads take smaller tiles backward."""
    model, (rows, length) = experiment.config.model, segment_ids.shape
    tile = plan_of(model.hidden_size // model.num_heads).forward.tile
    length = -(-length // streams.BLOCK) * streams.BLOCK
    table = streams.list_streams(_bounds(segment_ids, length), tile)
    return float(streams.visited_pairs(table, tile)) / (rows * length**2)


def _bounds(segment_ids: np.ndarray, length: int):
    more = length - segment_ids.shape[1]
    return tiles.segment_bounds(jnp.pad(jnp.asarray(segment_ids), ((0, 0), (0, more))))
