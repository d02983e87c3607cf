"""How a sequence stands in a batch: as it is, filled with END, or after its prompt."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexmdm_jax.data.storage.records import Sequence
from flexmdm_jax.data.tasks.closing import Close, inside_prompt
from flexmdm_jax.errors import UserError
from flexmdm_jax.process import Process
from flexmdm_jax.types import Batch, Vocabulary

Row = dict[str, np.ndarray]
Arrange = Callable[[Sequence, int, Vocabulary], Sequence]


def ended(sequence: Sequence, length: int, vocabulary: Vocabulary) -> Sequence:
    """Returns FlexMDM's form of a sequence: END is fixed, and nothing stands behind it."""
    del length, vocabulary
    fixed = sequence.fixed.copy()
    fixed[-1] = True
    return Sequence(sequence.tokens, fixed)


def filled(sequence: Sequence, length: int, vocabulary: Vocabulary) -> Sequence:
    """Returns MDM's form of a sequence: END fills `length` slots and is predicted like any token.

    Raises:
      UserError: If the sequence is longer than that.
    """
    count = len(sequence.tokens)
    if count > length:
        raise UserError(
            f"a sequence takes {count} slots with its prompt and END, more than "
            f"config.data.max_length = {length}; raise it"
        )
    tokens, fixed = np.full(length, vocabulary.end, np.int32), np.zeros(length, bool)
    tokens[:count], fixed[:count] = sequence.tokens, sequence.fixed
    return Sequence(tokens, fixed)


def prompted(
    sequence: Sequence, length: int, vocabulary: Vocabulary, *, separator: int
) -> Sequence:
    """Returns MDM's form of a sequence whose fixed tokens lie anywhere in it (paper, F.2).

    MDM cannot be told where they will stand, so they are its prompt: the fixed tokens, a
    separator, then the whole sequence, which is predicted, and END up to `length` slots.
    """
    prompt = [*sequence.tokens[sequence.fixed], separator]
    fixed = np.arange(len(prompt) + len(sequence.tokens)) < len(prompt)
    tokens = np.concatenate([prompt, sequence.tokens])
    return filled(Sequence(tokens, fixed), length, vocabulary)


def arrange_for(process: Process, task: Mapping[str, Any] | None = None) -> Arrange:
    """Returns the form of sequences that goes with a process.

    Args:
      process: FlexMDM's or MDM's.
      task: Of the dataset; one with a `separator` fixes tokens anywhere in its sequences.
    """
    if process.inserts:
        return ended
    if task and "separator" in task:
        return functools.partial(prompted, separator=task["separator"])
    return filled


def padded_row(sequence: Sequence, length: int, vocabulary: Vocabulary) -> Row:
    """Returns a clean row of `length` slots that holds a sequence, in either form, and padding."""
    count = len(sequence.tokens)
    row = {
        "tokens": np.full(length, vocabulary.end, np.int32),
        "segment_ids": np.zeros(length, np.int32),
        "fixed": np.zeros(length, bool),
    }
    row["tokens"][:count], row["fixed"][:count] = sequence.tokens, sequence.fixed
    row["segment_ids"][:count] = 1
    return row


def clean_rows(
    sequences: Iterable[Sequence],
    arrange: Arrange,
    length: int,
    vocabulary: Vocabulary,
    close: Close | None = None,
) -> Row:
    """Returns sequences, one to a row, as the fields of a Batch, all but its index.

    Args:
      sequences: As they are stored.
      arrange: From arrange_for().
      length: Slots of a row.
      vocabulary: Ids of MASK and END.
      close: From close_for(); which gaps are closed. FlexMDM only.
    """
    rows = []
    for x in sequences:
        row = padded_row(arrange(x, length, vocabulary), length, vocabulary)
        if close:
            row["closed"] = np.pad(close(x.fixed), (0, length - len(x.fixed)))
        rows.append(row)
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


def _check_given(counts: list[int], tokens: list[np.ndarray]) -> None:
    if len(counts) != len(tokens):
        raise ValueError(f"num_given has {len(counts)} numbers for {len(tokens)} sequences")
    for number, (count, x) in enumerate(zip(counts, tokens, strict=True)):
        if not 0 <= count < len(x):
            raise ValueError(
                f"num_given = {count} for sequence {number}, which has {len(x) - 1} tokens"
            )


def batch_of(
    sequences: Iterable[Iterable[Any]],
    length: int,
    process: Process,
    *,
    num_given: Iterable[int] | None = None,
) -> Batch:
    """Returns token sequences, to which END is added here, as a batch.

    Args:
      sequences: Token ids without END, in lists or arrays.
      length: Slots of a row.
      process: FlexMDM's or MDM's; decides the layout of rows.
      num_given: How many tokens at the start of each are its prompt: fixed, the gaps between them
        closed. Unless told, nothing is given.

    Raises:
      ValueError: If there is no sequence, or one is too long for a row, holds what is no data or is
        shorter than its prompt.
    """
    arrange, vocabulary = arrange_for(process), process.vocabulary
    tokens = [
        np.append(_checked(number, sequence, length, vocabulary), vocabulary.end).astype(np.int32)
        for number, sequence in enumerate(sequences)
    ]
    if not tokens:
        raise ValueError("a batch needs at least one sequence, which may be empty")
    counts = [0] * len(tokens) if num_given is None else list(num_given)
    _check_given(counts, tokens)
    stored = [Sequence(x, np.arange(len(x)) < n) for x, n in zip(tokens, counts, strict=True)]
    close = None if num_given is None or not process.inserts else inside_prompt
    fields = {
        **clean_rows(stored, arrange, length, vocabulary, close),
        "index": np.arange(len(tokens), dtype=np.int32),
    }
    return Batch(**jax.tree.map(jnp.asarray, fields))
