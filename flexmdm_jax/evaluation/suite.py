"""The two questions asked of every model: how likely is held-out text, and are lengths right."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flexmdm_jax.config import EvaluationConfig
from flexmdm_jax.data.batches.pipeline import validation_batches
from flexmdm_jax.data.batches.rows import arrange_for
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, read_split
from flexmdm_jax.data.tasks import PROMPTED_TASKS
from flexmdm_jax.data.tasks.closing import close_for
from flexmdm_jax.data.tasks.infilling import choose_for
from flexmdm_jax.evaluation.lengths import entropy_of_counts, length_distances, token_counts
from flexmdm_jax.evaluation.ngrams import ngram_distances
from flexmdm_jax.evaluation.unigram import unigram_score
from flexmdm_jax.generation.engine import Completions
from flexmdm_jax.generation.pools import Job
from flexmdm_jax.generation.scoring import Score
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.training.state import Setup
from flexmdm_jax.types import Batch


def held_out_lengths(dataset: Dataset) -> np.ndarray:
    """Returns the length of every held-out sequence, END not counted."""
    counts = dataset.lengths[VALIDATION]
    return np.repeat(list(counts), list(counts.values()))


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

    def _held_out(self, num: int, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]:
        """Returns the first held-out sequences, and which of them are given in part."""
        process, task = self._setup.process, self._dataset.task
        return validation_batches(
            self._dataset,
            length=self._length,
            batch_size=batch_size,
            arrange=arrange_for(process, task),
            choose=choose_for(task, process, self._seed),
            close=close_for(task, process),
            limit=num,
        )

    def score(self, params: Any) -> Score:
        """Returns the likelihood bound of held-out sequences, given what the sampler is given."""
        batches = self._held_out(self._config.num_sequences, self._config.batch_size)
        return self._scorer.of_batches(params, batches, seed=self._seed)

    def samples(self, params: Any, num: int = 4) -> list[dict[str, Any]]:
        """Returns a few texts with their figures, as JSON has them.

        They grow from what is given of the first held-out sequences: nothing, where no prompts are.
        """
        process, decode = self._setup.process, self._dataset.tokenizer().decode
        [(batch, real)] = self._held_out(num, num)
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

    def generate(self, params: Any) -> Completions:
        """Returns unconditional samples."""
        start = Start.of([], [0], self._setup.process, self._length)
        jobs = [Job(start, self._sampler, self._seed, n) for n in range(self._config.num_samples)]
        return Completions.of(self._engine.complete(params, jobs))

    def metrics(self, params: Any, bin_width: int = 8) -> dict[str, float]:
        """Returns the figures of both questions under one name each.

        Where the dataset gives prompts, samples from nothing would answer a question nobody asked,
        and only the first is put.
        """
        if self._dataset.task and self._dataset.task["kind"] in PROMPTED_TASKS:
            return self.score(params).summary()
        figures, _ = self.report(params, bin_width)
        return figures

    def report(self, params: Any, bin_width: int) -> tuple[dict[str, float], Completions]:
        """Returns (figures, the samples behind them)."""
        generated = self.generate(params)
        counts = token_counts(generated.tokens, self._setup.process.vocabulary.size)
        reference = held_out_lengths(self._dataset)
        figures = {
            **self.score(params).summary(),
            **length_distances(generated.lengths, reference, bin_width),
            "length_mean": float(np.mean(generated.lengths)),
            "token_entropy": entropy_of_counts(counts),
            **generated.figures(),
        }
        return figures, generated


def _counts_and_some(dataset: Dataset, size: int, num: int, rng) -> tuple[np.ndarray, list]:
    """Returns token counts of the training split, and some of its texts, in one go through it."""
    total = sum(dataset.lengths[TRAIN].values())
    chosen = set(rng.choice(total, min(num, total), replace=False).tolist())
    some = []

    def sequences():
        for number, tokens in enumerate(read_split(dataset, TRAIN)):
            if number in chosen:
                some.append(tokens[:-1])
            yield tokens

    return token_counts(sequences(), size), some


def data_figures(
    dataset: Dataset, held_out: Sequence[np.ndarray], limit: int, bin_width: int, num: int
) -> dict[str, dict[str, float]]:
    """Returns what to compare a model with: text, shuffled text, and a unigram model.

    The text's own row shows how far training sequences are from held-out ones, the floor that
    sampling noise sets. What is generated is to be told from text whose tokens are shuffled.

    Args:
      dataset: Its training split is compared with the held-out one.
      held_out: Every held-out sequence with its END.
      limit: Held-out sequences that the unigram model scores.
      bin_width: Lengths to a bin.
      num: As many texts as are generated: divergences of n-grams depend on it.
    """
    end = dataset.vocabulary.end
    size = dataset.vocabulary.size
    rng = np.random.default_rng(0)
    train, some = _counts_and_some(dataset, size, num, rng)
    texts = [tokens[:-1] for tokens in held_out]
    content = token_counts(texts, size)
    shuffled = [rng.permutation(tokens) for tokens in some]
    lengths = dataset.lengths[TRAIN]
    train_lengths = np.repeat(list(lengths), list(lengths.values()))
    reference = held_out_lengths(dataset)
    return {
        "data": {
            **length_distances(train_lengths, reference, bin_width),
            "length_mean": float(np.mean(reference)),
            "token_entropy": entropy_of_counts(content),
            **ngram_distances(some, texts),
        },
        "shuffled": ngram_distances(shuffled, texts),
        "unigram": unigram_score(train, held_out[:limit], end).summary(),
    }
