"""Several prepared datasets as one, of which training draws in given proportions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.data.storage.records import SPLITS, Dataset, Share, open_dataset
from flexmdm_jax.errors import UserError


def open_data(path: str, sets: Mapping[str, str], mixture: Mapping[str, float]) -> Dataset:
    """Returns the dataset in a directory or, if a mixture is given, the mixed datasets.

    Args:
      path: Directory of the dataset; not looked at if there is a mixture.
      sets: Directories by name.
      mixture: Shares of the examples by name, which sum to 1.

    Raises:
      UserError: If a dataset cannot be opened, or the sets cannot be mixed.
    """
    if not mixture:
        return open_dataset(path)
    if unknown := sorted(set(mixture) - set(sets)):
        raise UserError(
            f"the mixture names {', '.join(unknown)}, but the sets are {', '.join(sets) or 'none'}"
        )
    return mix_datasets([open_dataset(sets[name]) for name in mixture], list(mixture.values()))


def mix_datasets(datasets: list[Dataset], weights: list[float]) -> Dataset:
    """Returns datasets as one, of which training draws in proportion to the weights.

    Held-out sequences are those of all sets.

    Raises:
      UserError: If weights are not positive or do not sum to 1, if tokenizers differ, or what tasks
        say of their sequences does.
    """
    if not math.isclose(sum(weights), 1, abs_tol=1e-6) or min(weights) <= 0:
        raise UserError(f"mixture weights {weights} must be positive and sum to 1")
    first = datasets[0]
    for other in datasets[1:]:
        if other.tokenizer_sha256 != first.tokenizer_sha256:
            raise UserError(
                f"{other.directory} and {first.directory} were made with different tokenizers; "
                "prepare them with the same one to mix them"
            )
        if differing := _differing(first.task or {}, other.task or {}):
            raise UserError(
                f"{other.directory} and {first.directory} differ in {', '.join(differing)}, which "
                "their tasks say of all sequences; mix sets that were made alike"
            )
    lengths = {split: {} for split in SPLITS}
    for split in SPLITS:
        for dataset in datasets:
            for length, count in dataset.lengths[split].items():
                lengths[split][length] = lengths[split].get(length, 0) + count
    return dataclasses.replace(
        first,
        max_length=max(dataset.max_length for dataset in datasets),
        num_sequences={
            split: sum(dataset.num_sequences[split] for dataset in datasets) for split in SPLITS
        },
        lengths=lengths,
        mean_length=sum(
            weight * dataset.mean_length for dataset, weight in zip(datasets, weights, strict=True)
        ),
        shards={
            split: [shard for dataset in datasets for shard in dataset.shards[split]]
            for split in SPLITS
        },
        sets=[
            Share(dataset.num_sequences, weight)
            for dataset, weight in zip(datasets, weights, strict=True)
        ],
        metadata={"mixture": [dataset.metadata for dataset in datasets]},
    )


def _differing(task: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns what two tasks say differently: the marks of infilling, a maze's walls, …

    Kinds that say nothing more, such as text and GSM8K, differ in no example of training.
    """
    names = sorted((task.keys() | other.keys()) - {"kind"})
    return [name for name in names if task.get(name) != other.get(name)]
