"""The two questions asked of every model: how likely is held-out text, and are lengths right."""

import dataclasses
from typing import Any

import numpy as np

from flexmdm_jax.config import EvaluationConfig
from flexmdm_jax.data.batches.pipeline import validation_batches
from flexmdm_jax.data.batches.rows import arrange_for
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, read_split
from flexmdm_jax.data.tasks import PROMPTED_TASKS
from flexmdm_jax.data.tasks.infilling import choose_for
from flexmdm_jax.evaluation.lengths import entropy_of_counts, length_distances, token_counts
from flexmdm_jax.evaluation.perplexity import Score, make_scorer, score_batches, unigram_score
from flexmdm_jax.generation.engine import Completions
from flexmdm_jax.sampling import SamplerConfig, start_canvas
from flexmdm_jax.sharding import spread_rows
from flexmdm_jax.training.state import Setup


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
        scorer = make_scorer(setup.denoiser, setup.process, config.num_times, setup.num_groups)
        self._scorer = spread_rows(setup.mesh, scorer)
        self._engine = setup.engine(sampler or SamplerConfig(steps=config.num_steps), rows)

    def score(self, params: Any) -> Score:
        """Returns the likelihood bound of held-out sequences."""
        batches = validation_batches(
            self._dataset,
            length=self._length,
            batch_size=self._config.batch_size,
            arrange=arrange_for(self._setup.process, self._dataset.task),
            choose=choose_for(self._dataset.task, self._setup.process, self._seed),
            limit=self._config.num_sequences,
        )
        end = self._setup.process.vocabulary.end
        return score_batches(self._scorer, params, batches, end=end, seed=self._seed)

    def generate(self, params: Any) -> Completions:
        """Returns unconditional samples."""
        canvas = start_canvas(self._engine.rows, self._length, self._setup.process)
        return self._engine.complete(
            params, lambda _: canvas, num=self._config.num_samples, seed=self._seed
        )

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


def data_figures(dataset: Dataset, limit: int, bin_width: int) -> dict[str, dict[str, float]]:
    """Returns what to compare a model with: the held-out text, and a unigram model of the rest.

    The text's own row shows the length distance between training and held-out sequences, the floor
    that sampling noise sets.
    """
    end = dataset.vocabulary.end
    size = dataset.vocabulary.size
    train = token_counts(read_split(dataset, TRAIN), size)
    held_out = list(read_split(dataset, VALIDATION))
    content = token_counts((tokens[:-1] for tokens in held_out), size)
    lengths = dataset.lengths[TRAIN]
    train_lengths = np.repeat(list(lengths), list(lengths.values()))
    reference = held_out_lengths(dataset)
    return {
        "data": {
            **length_distances(train_lengths, reference, bin_width),
            "length_mean": float(np.mean(reference)),
            "token_entropy": entropy_of_counts(content),
        },
        "unigram": unigram_score(train, held_out[:limit], end).summary(),
    }
