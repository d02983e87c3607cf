"""How likely sequences are: a bound on each one's nats, and how far the estimate may be off."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from flexmdm_jax.data.batches.rows import batch_of
from flexmdm_jax.data.tokenizers import Tokenizer, encode_at
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.engine import buffer_lengths
from flexmdm_jax.losses import Estimate, estimated_nll_bound
from flexmdm_jax.process import Process
from flexmdm_jax.sharding import num_batch_shards, spread_rows
from flexmdm_jax.types import Batch, Denoiser, RowKeys, fold_in_rows


@flax.struct.dataclass
class Score:
    """Negative log-likelihoods of sequences, given their prompts.

    Attributes:
      nats: Bound on each, an estimate of its own.
      errors: Standard errors of these estimates; NaN where they cannot be told.
      tokens: Tokens of each sequence that are not given, END not counted.
    """

    nats: Float[np.ndarray, "n"]
    errors: Float[np.ndarray, "n"]
    tokens: Int[np.ndarray, "n"]

    def per(self, units: Int[np.ndarray, "n"]) -> tuple[float, float]:
        """Returns (nats per unit, its standard error), that of a ratio of sums (delta method).

        Args:
          units: Of each sequence: its tokens, its bytes, or 1; both are NaN if there are none.
        """
        if not units.any():
            return math.nan, math.nan
        value = self.nats.sum() / units.sum()
        residual = self.nats - value * units
        if len(residual) < 2:
            return float(value), math.nan
        error = residual.std(ddof=1) / math.sqrt(len(residual)) / units.mean()
        return float(value), float(error)

    def summary(self) -> dict[str, float]:
        """Returns nats per sequence and per token with their standard errors, and perplexity."""
        per_sequence, sequence_error = self.per(np.ones(len(self.nats), int))
        per_token, token_error = self.per(self.tokens)
        return {
            "nats_per_sequence": per_sequence,
            "nats_per_sequence_error": sequence_error,
            "nats_per_token": per_token,
            "nats_per_token_error": token_error,
            "perplexity": float(np.exp(per_token)),
        }


class Prompted(NamedTuple):
    """A sequence to score.

    Attributes:
      tokens: Ids of the prompt and of what follows it, without END.
      num_given: How many of them are the prompt's.
    """

    tokens: Sequence[int]
    num_given: int


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Likelihood bounds from a model; compiled once a length, called with any parameters.

    Attributes:
      denoiser: Parameters -> Denoiser.
      process: What the model was trained on.
      num_times: Times per sequence; the more, the smaller the errors.
      mesh: The devices that share the rows of a batch.
      rows: Rows at a time; a multiple of these devices.
    """

    denoiser: Callable[[Any], Denoiser]
    process: Process
    num_times: int
    mesh: Mesh
    rows: int

    def of_batches(
        self, params: Any, batches: Iterable[tuple[Batch, Bool[np.ndarray, "b"]]], *, seed: int
    ) -> Score:
        """Returns the bounds of the real rows of batches, in order.

        Args:
          params: Parameters.
          batches: (batch, which of its rows are real).
          seed: Decides all noise; a row's is (seed, its index).
        """
        program = _program(self.denoiser, self.process, self.num_times, self.mesh)
        end = self.process.vocabulary.end
        nats, errors, tokens = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, int)]
        for batch, real in batches:
            keys = fold_in_rows(jax.random.key(seed), batch.index)
            found = jax.device_get(program(params, batch, keys))
            nats.append(found.nats[real])
            errors.append(found.errors[real])
            scored = (batch.segment_ids > 0) & (batch.tokens != end) & ~batch.fixed
            tokens.append(np.sum(scored, axis=1)[real])
        return Score(*(np.concatenate(x) for x in (nats, errors, tokens)))

    def of_sequences(
        self, params: Any, sequences: Sequence[Prompted], *, length: int, seed: int
    ) -> Score:
        """Returns the bounds of sequences; that of the i-th depends on (seed, i) and itself alone.

        Args:
          params: Parameters.
          sequences: What to score.
          length: Slots of the longest row.
          seed: Decides all noise.

        Raises:
          ValueError: If a sequence does not fit or holds what is no data, see batch_of().
        """
        found = [self.of_batches(params, [], seed=seed)]
        order = [np.zeros(0, int)]
        noise = np.arange(len(sequences), dtype=np.int32)
        for places, score in self.batch_by_batch(params, sequences, noise, length, seed):
            order.append(places)
            found.append(score)
        place = np.argsort(np.concatenate(order))
        return jax.tree.map(lambda *x: np.concatenate(x)[place], *found)

    def batch_by_batch(
        self,
        params: Any,
        sequences: Sequence[Prompted],
        noise: Int[np.ndarray, "_"],
        length: int,
        seed: int,
    ) -> Iterator[tuple[Int[np.ndarray, "_"], Score]]:
        """Yields (which sequences these are, their bounds), those of short rows first.

        Sequences with one number have one noise: what they differ by is then known three times
        as well, as errors that they share cancel.

        Args:
          params: Parameters.
          sequences: What to score.
          noise: A number for each; with the seed it decides its noise.
          length: Slots of the longest row.
          seed: Decides all noise.

        Raises:
          ValueError: If a sequence does not fit or holds what is no data, see batch_of().
        """
        for size, numbers in self._buckets(sequences, length).items():
            for start in range(0, len(numbers), self.rows):
                some = numbers[start : start + self.rows]
                # A batch that is not full is filled up with copies.
                index = np.resize(some, self.rows)
                tokens, num_given = zip(*(sequences[i] for i in index), strict=True)
                batch = batch_of(tokens, size, self.process, num_given=num_given)
                real = np.arange(self.rows) < len(some)
                batches = [(batch.replace(index=noise[index]), real)]
                yield some, self.of_batches(params, batches, seed=seed)

    def _buckets(
        self, sequences: Sequence[Prompted], length: int
    ) -> dict[int, Int[np.ndarray, "_"]]:
        """Returns lengths of rows, and the numbers of the sequences that need rows so long.

        A bucket's last batch may be filled up with copies. As lengths double from bucket to
        bucket, these take at most twice the slots of one batch of the longest rows.
        """
        lengths = buffer_lengths(length) if self.process.inserts else (length,)
        sizes = [min(len(x.tokens) + 1, length) for x in sequences]
        bucket = np.searchsorted(lengths, sizes)
        return {n: np.flatnonzero(bucket == i) for i, n in enumerate(lengths)}


@functools.lru_cache(maxsize=32)
def _program(
    denoiser, process: Process, num_times: int, mesh: Mesh
) -> Callable[[Any, Batch, RowKeys], Estimate]:
    """Returns the bounds of a batch as a jitted function of (parameters, batch, keys)."""
    settings = {"num_times": num_times, "num_groups": num_batch_shards(mesh)}

    def run(params, batch: Batch, keys: RowKeys) -> Estimate:
        return estimated_nll_bound(keys, denoiser(params), batch, process, **settings)

    return spread_rows(mesh, run)


def encode_prompted(
    tokenizer: Tokenizer, texts: Sequence[str], prompts: Sequence[str] | None, length: int
) -> list[Prompted]:
    """Returns texts behind their prompts, as tokens.

    Args:
      tokenizer: The model's.
      texts: What follows the prompts.
      prompts: One for each text; None: nothing is given.
      length: Slots of a row, END included.

    Raises:
      UserError: If there are more or fewer prompts than texts, or a text cannot be encoded or is
        too long.
    """
    if isinstance(texts, str) or isinstance(prompts, str):
        raise UserError("texts and prompts are lists with a string for each text to score")
    prompts = [""] * len(texts) if prompts is None else prompts
    if len(prompts) != len(texts):
        raise UserError(f"{len(texts)} texts, but {len(prompts)} prompts; give each text its own")
    found = []
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        given = encode_at(tokenizer, prompt, lambda n=number: f"prompts[{n}]")
        # Only what opens the whole gets what the tokenizer puts before a text.
        following = encode_at(tokenizer, text, lambda n=number: f"texts[{n}]", first=not prompt)
        slots = len(given) + len(following) + 1
        if slots > length:
            raise UserError(
                f"texts[{number}] takes {slots} slots with its prompt and END, more than the "
                f"model's max_length = {length}; shorten it"
            )
        found.append(Prompted([*given, *following], len(given)))
    return found
