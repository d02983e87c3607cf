"""Infilling: what stands before and after a span is given, the span is generated (paper, 5.2).

The span is chosen anew for every example and epoch, when a row is made.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from flexmdm_jax.data.sources.corpora import placed_documents, read_documents
from flexmdm_jax.data.storage.records import TRAIN, Dataset, Sequence, split_of, write_dataset
from flexmdm_jax.data.tokenizers import RoundTrip, Tokenizer, encode_at
from flexmdm_jax.errors import UserError
from flexmdm_jax.process import Process
from flexmdm_jax.ranges import Length, ProperShare, Ranged

NAME = "infilling"
# (sequence, its number in the global order of examples) -> the sequence with its span chosen.
Choose = Callable[[Sequence, int], Sequence]
# MDM cannot know where a suffix will stand: it is told of both sides first.
_MARKS = ("<prefix>", "</prefix><suffix>", "</suffix>")


@dataclasses.dataclass(frozen=True)
class InfillingConfig(Ranged):
    """Texts, code for example, of which spans are to be filled in.

    Attributes:
      source: Where they come from, as prepare --source has it; `jsonl:GLOB#code` for example.
      max_length: Slots of the longest sequence, END included; longer texts are left out
        and counted.
      validation_fraction: Share of texts held out.
    """

    source: str
    max_length: Length = 1024
    validation_fraction: ProperShare = 0.01

    def write(self, directory: pathlib.Path, tokenizer: Tokenizer) -> Dataset:
        """Returns the dataset of whole texts, after writing it; spans are chosen in training.

        Raises:
          UserError: If the source is unusable, or no text fits.
        """
        marks = [tokenizer.encode(mark) for mark in _MARKS]
        origin = {"source": self.source, "validation_fraction": self.validation_fraction}
        return write_dataset(
            directory,
            self._sequences(tokenizer, origin),
            tokenizer,
            max_length=self.max_length,
            origin=origin,
            task={"kind": NAME, "marks": marks},
        )

    def training_texts(self) -> Iterator[str]:
        """Yields the texts that a tokenizer may be trained on; held-out ones stay unseen."""
        for text in read_documents(self.source):
            if self._split_of(text) == TRAIN:
                yield text

    def _split_of(self, text: str) -> str:
        return split_of(text, 0, self.validation_fraction)

    def _sequences(
        self, tokenizer: Tokenizer, origin: dict[str, Any]
    ) -> Iterator[tuple[str, list[int]]]:
        """Yields (split, tokens) of the texts that fit; what became of all ends up in origin."""
        counts = dict.fromkeys(("documents", "empty_documents", "overlong_documents"), 0)
        round_trip, longest = RoundTrip(tokenizer), 0
        for text, place in placed_documents(self.source):
            tokens = encode_at(tokenizer, text, place)
            round_trip.sample([text], [tokens], lambda _, place=place: place())
            longest = max(longest, len(tokens) + 1)
            counts["documents"] += 1
            counts["empty_documents"] += not tokens
            counts["overlong_documents"] += len(tokens) >= self.max_length
            if 0 < len(tokens) < self.max_length:
                yield self._split_of(text), tokens
        kept = counts["documents"] - counts["empty_documents"] - counts["overlong_documents"]
        if counts["overlong_documents"] and not kept:
            raise UserError(
                f"{self.source}: no text fits into max_length = {self.max_length} slots; "
                f"max_length={longest} would hold all of them"
            )
        origin["longest_document"] = longest
        origin |= round_trip.noted(counts | {"texts": counts["documents"]})


def fix_around_span(sequence: Sequence, index: int, *, seed: int) -> Sequence:
    """Returns the sequence with all but a random span fixed.

    The span holds at least one token; all spans are equally likely.

    Args:
      sequence: Ends in END, which is no part of the span.
      index: Number of the row in the global order of examples, which differs between epochs.
      seed: Of the run.
    """
    start, stop = _span(len(sequence.tokens) - 1, index, seed)
    slots = np.arange(len(sequence.tokens))
    fixed = (slots < start) | ((slots >= stop) & (slots < len(slots) - 1))
    return Sequence(sequence.tokens, fixed)


def span_after_both_sides(
    sequence: Sequence, index: int, *, seed: int, marks: tuple[tuple[int, ...], ...]
) -> Sequence:
    """Returns the same choice as MDM learns it: prefix and suffix between marks, then the span."""
    start, stop = _span(len(sequence.tokens) - 1, index, seed)
    tokens = sequence.tokens.tolist()
    before, span, after = tokens[:start], tokens[start:stop], tokens[stop:-1]
    given = [*marks[0], *before, *marks[1], *after, *marks[2]]
    tokens = np.asarray([*given, *span, tokens[-1]], sequence.tokens.dtype)
    return Sequence(tokens, np.arange(len(tokens)) < len(given))


def _span(length: int, index: int, seed: int) -> tuple[int, int]:
    """Returns two different cuts of a text of some length, the lower one first."""
    rng = np.random.default_rng((seed, index))
    start, stop = sorted(rng.choice(length + 1, size=2, replace=False).tolist())
    return start, stop


def choose_for(task: Mapping[str, Any] | None, process: Process, seed: int) -> Choose | None:
    """Returns what chooses spans of a dataset's sequences; None if its task has none to choose."""
    if not task or task.get("kind") != NAME:
        return None
    if process.inserts:
        return functools.partial(fix_around_span, seed=seed)
    marks = tuple(tuple(mark) for mark in task["marks"])
    return functools.partial(span_after_both_sides, seed=seed, marks=marks)
