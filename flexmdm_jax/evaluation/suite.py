"""The two questions asked of every model: how likely is held-out text, and are lengths right."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from flexmdm_jax.config import EvaluationConfig
from flexmdm_jax.data.batches.pipeline import validation_batches, validation_order
from flexmdm_jax.data.batches.rows import arrange_for
from flexmdm_jax.data.storage.records import VALIDATION, Dataset
from flexmdm_jax.data.storage.shards import RecordReader
from flexmdm_jax.data.tasks import PROMPTED_TASKS
from flexmdm_jax.data.tasks.closing import close_for
from flexmdm_jax.data.tasks.infilling import choose_for
from flexmdm_jax.evaluation.diversity import entropy_of_counts, token_counts
from flexmdm_jax.evaluation.lengths import length_distances
from flexmdm_jax.generation.engine import Completions
from flexmdm_jax.generation.pools import Job, Row
from flexmdm_jax.generation.scoring import Score
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.training.state import Setup
from flexmdm_jax.types import Batch


def held_out_lengths(dataset: Dataset) -> np.ndarray:
    """Returns the length of every held-out sequence, END not counted."""
    counts = dataset.lengths[VALIDATION]
    return np.repeat(list(counts), list(counts.values()))


def held_out_texts(dataset: Dataset, limit: int) -> list[np.ndarray]:
    """Returns the tokens of the first held-out sequences, without END, as Evaluator has them."""
    reader = RecordReader(dataset.shards[VALIDATION])
    return [x.tokens[:-1] for x in reader.read(validation_order(dataset)[:limit].tolist())]


class Evaluator:
    """Scores and samples a model; compiled once, called with the parameters of the moment."""

    def __init__(
        self,
        setup: Setup,
        dataset: Dataset,
        config: EvaluationConfig,
        max_length: int,
        seed: int,
        sampler: SamplerConfig | None = None,
    ):
        """Prepares an evaluation of a model against the held-out split of a dataset.

        Without a sampler, the default one takes config.num_steps steps.
        """
        self._setup = setup
        self._dataset = dataset
        self._length = max_length
        self._seed = seed
        rows = setup.round_up(config.batch_size)
        self._config = dataclasses.replace(config, batch_size=rows)
        self._scorer = setup.scorer(config.num_times, rows)
        self._sampler = sampler or SamplerConfig(steps=config.num_steps)
        setup.check_sampler(self._sampler)
        self._engine = setup.engine(rows)

    @property
    def batch_size(self) -> int:
        """Returns the rows of a batch: those asked for, rounded up to a multiple of the devices."""
        return self._config.batch_size

    def held_out(
        self, num: int | None = None, batch_size: int | None = None
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yields (batch of the first held-out sequences, which of its rows are real)."""
        process, task = self._setup.process, self._dataset.task
        return validation_batches(
            self._dataset,
            length=self._length,
            batch_size=batch_size or self.batch_size,
            arrange=arrange_for(process, task),
            choose=choose_for(task, process, self._seed),
            close=close_for(task, process),
            limit=num or self._config.num_sequences,
        )

    def score(
        self, params: Any, batches: Iterable[tuple[Batch, np.ndarray]] | None = None
    ) -> Score:
        """Returns the likelihood bound of sequences, given what the sampler is given.

        Args:
          params: Parameters.
          batches: From held_out(); all of it unless told.
        """
        batches = self.held_out() if batches is None else batches
        return self._scorer.of_batches(params, batches, seed=self._seed)

    def samples(self, params: Any, num: int = 4) -> list[dict[str, Any]]:
        """Returns a few texts with their figures, as JSON has them.

        They grow from what is given of the first held-out sequences: nothing, where no prompts are.
        """
        process, decode = self._setup.process, self._dataset.tokenizer().decode
        [(batch, real)] = self.held_out(num, num)
        jobs = [
            Job(Start.of_clean(batch, row, process), self._sampler, self._seed, row)
            for row in np.flatnonzero(real).tolist()
        ]
        return [
            {
                "text": decode(row.tokens.tolist()),
                "length": len(row.tokens),
                "calls": row.calls,
                "truncated": row.truncated,
            }
            for row in self._setup.engine(num).complete(params, jobs)
        ]

    def _jobs(self, numbers: Iterable[int], canvas: int = 0) -> list[Job]:
        start = Start.of([], [0], self._setup.process, self._length, canvas)
        return [Job(start, self._sampler, self._seed, number) for number in numbers]

    def grow(
        self, params: Any, numbers: Sequence[int], canvas: int = 0
    ) -> Iterator[tuple[int, Row]]:
        """Yields (number of an unconditional sample, it) when finished; MDM's are on a canvas."""
        jobs = self._jobs(numbers, canvas)
        return ((numbers[n], row) for n, row in self._engine.run(params, jobs))

    def generate(self, params: Any) -> Completions:
        """Returns unconditional samples."""
        jobs = self._jobs(range(self._config.num_samples))
        return Completions.of(self._engine.complete(params, jobs))

    def metrics(self, params: Any, bin_width: int = 8) -> dict[str, float]:
        """Returns the figures of both questions under one name each.

        Where the dataset gives prompts, samples from nothing would answer a question nobody asked,
        and only the first is put.
        """
        if self._dataset.task and self._dataset.task["kind"] in PROMPTED_TASKS:
            return self.score(params).summary()
        generated = self.generate(params)
        counts = token_counts(generated.tokens, self._setup.process.vocabulary.size)
        reference = held_out_lengths(self._dataset)
        return {
            **self.score(params).summary(),
            **length_distances(generated.lengths, reference, bin_width),
            "length_mean": float(np.mean(generated.lengths)),
            "token_entropy": entropy_of_counts(counts),
            **generated.figures(),
        }
