"""How a sequence lies in a row of a batch: padded, filled with END, or after its prompt."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexmdm_jax.data.storage.records import Sequence
from flexmdm_jax.errors import UserError
from flexmdm_jax.process import Process
from flexmdm_jax.types import Batch, Vocabulary

Row = dict[str, np.ndarray]
Arrange = Callable[[Sequence, int, Vocabulary], Row]


def padded_row(sequence: Sequence, length: int, vocabulary: Vocabulary) -> Row:
    """Returns FlexMDM's form of a sequence: END is fixed, and padding is no part of it.

    Args:
      sequence: Of at most `length` tokens.
      length: Slots of the row.
      vocabulary: Ids of MASK and END.
    """
    count = len(sequence.tokens)
    row = filled_row(sequence, length, vocabulary)
    row["segment_ids"][count:] = 0
    row["fixed"][count - 1] = True
    return row


def filled_row(sequence: Sequence, length: int, vocabulary: Vocabulary) -> Row:
    """Returns MDM's form of a sequence: END fills the row and is predicted like any token.

    Raises:
      UserError: If the sequence is longer than the row.
    """
    count = len(sequence.tokens)
    if count > length:
        raise UserError(
            f"a sequence takes {count} slots with its prompt and END, more than "
            f"config.data.max_length = {length}; raise it"
        )
    tokens, fixed = np.full(length, vocabulary.end, np.int32), np.zeros(length, bool)
    tokens[:count], fixed[:count] = sequence.tokens, sequence.fixed
    return {"tokens": tokens, "segment_ids": np.ones(length, np.int32), "fixed": fixed}


def prompted_row(sequence: Sequence, length: int, vocabulary: Vocabulary, *, separator: int) -> Row:
    """Returns MDM's form of a sequence whose fixed tokens lie anywhere in it (paper, F.2).

    MDM cannot be told where they will stand, so they are its prompt: the fixed tokens, a
    separator, then the whole sequence, which is predicted, and END up to the end of the row.
    """
    prompt = [*sequence.tokens[sequence.fixed], separator]
    fixed = np.arange(len(prompt) + len(sequence.tokens)) < len(prompt)
    tokens = np.concatenate([prompt, sequence.tokens])
    return filled_row(Sequence(tokens, fixed), length, vocabulary)


def arrange_for(process: Process, task: Mapping[str, Any] | None = None) -> Arrange:
    """Returns the layout of rows that goes with a process.

    Args:
      process: FlexMDM's or MDM's.
      task: Of the dataset; one with a `separator` fixes tokens anywhere in its sequences.
    """
    if process.inserts:
        return padded_row
    if task and "separator" in task:
        return functools.partial(prompted_row, separator=task["separator"])
    return filled_row


def stack_rows(rows: Iterable[Row]) -> Row:
    """Returns rows of one length as the fields of a batch, all but its index."""
    rows = list(rows)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _checked(number: int, sequence: Iterable[Any], length: int, vocabulary: Vocabulary):
    tokens = np.array(list(sequence))
    if len(tokens) >= length:
        raise ValueError(
            f"sequence {number} takes {len(tokens) + 1} slots with END, more than length = {length}"
        )
    special = (vocabulary.mask, vocabulary.end)
    for token in tokens.tolist():
        if not isinstance(token, int) or not 0 <= token < vocabulary.size or token in special:
            raise ValueError(
                f"sequence {number} holds {token!r}; data are ids below {vocabulary.size} that are "
                f"neither MASK = {special[0]} nor END = {special[1]}"
            )
    return tokens.astype(np.int64)


def batch_of(sequences: Iterable[Iterable[Any]], length: int, process: Process) -> Batch:
    """Returns token sequences, to which END is added here, as a batch with nothing else fixed.

    Args:
      sequences: Token ids without END, in lists or arrays.
      length: Slots of a row.
      process: FlexMDM's or MDM's; decides the layout of rows.

    Raises:
      ValueError: If there is no sequence, or one is too long for a row or holds what is no data.
    """
    arrange, vocabulary = arrange_for(process), process.vocabulary
    tokens = [
        np.append(_checked(number, sequence, length, vocabulary), vocabulary.end).astype(np.int32)
        for number, sequence in enumerate(sequences)
    ]
    if not tokens:
        raise ValueError("a batch needs at least one sequence, which may be empty")
    rows = (arrange(Sequence(x, np.zeros(len(x), bool)), length, vocabulary) for x in tokens)
    fields = {**stack_rows(rows), "index": np.arange(len(tokens), dtype=np.int32)}
    return Batch(**jax.tree.map(jnp.asarray, fields))
