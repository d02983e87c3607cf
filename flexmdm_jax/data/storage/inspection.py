"""What a prepared dataset holds, for people: counts, lengths, examples."""

import pathlib
import time
from typing import Any

import numpy as np

from flexmdm_jax.data.storage.records import TRAIN, Dataset, read_sequences
from flexmdm_jax.data.storage.shards import SPLITS, RecordReader
from flexmdm_jax.files import png_of, write_atomically

_BAR = 40  # characters of the longest bar


def report(dataset: Dataset, *, examples: int = 5, seed: int = 0) -> str:
    """Returns summary(), a histogram of lengths, random training examples and the reading speed.

    Args:
      dataset: From open_dataset().
      examples: How many to show.
      seed: Decides which.
    """
    parts = [summary(dataset), histogram(dataset), _reading_speed(dataset)]
    return "\n\n".join([*parts, *_examples(dataset, examples, seed)])


def summary(dataset: Dataset) -> str:
    """Returns source, counts and lengths of a dataset as text."""
    metadata = dataset.metadata
    origin = f"source: {metadata.get('source')} (split: {metadata.get('split')})"
    lines = [
        f"task: {dataset.task}" if dataset.task else origin,
        f"tokenizer: {metadata['tokenizer']['kind']} {dataset.tokenizer_sha256[:16]}, "
        f"{dataset.vocabulary.size:,} ids",
    ]
    lines += _counted(metadata)
    for split in SPLITS:
        lengths = dataset.lengths[split]
        tokens = sum(length * count for length, count in lengths.items())
        median, ninetieth = quantiles(lengths, (0.5, 0.9))
        lines.append(
            f"{split}: {dataset.num_sequences[split]:,} sequences, {tokens:,} tokens in "
            f"{len(dataset.shards[split])} shards; length {median} median, {ninetieth} 90th "
            f"percentile, {max(lengths)} longest"
        )
    return "\n".join(lines)


# What the counts of dataset.json are called; others, of other versions, go by their own names.
_WORDS = {
    "bad_documents": "bad documents left out",
    "empty_documents": "empty documents left out",
    "split_texts": "texts split because they are longer than max_length",
    "lost_texts": "texts left out because they become no token",
}


def _counted(metadata: dict[str, Any]) -> list[str]:
    """Returns what a preparation counted and what it left out or changed, in lines."""
    counts = dict(metadata.get("counts") or {})
    overlong, checked, changed = (
        counts.pop(name, 0) for name in ("overlong_documents", "checked_texts", "changed_texts")
    )
    words = [
        f"{count:,} {_WORDS.get(name, name.replace('_', ' '))}"
        for name, count in counts.items()
        if count
    ]
    lines = [", ".join(words)] if words else []
    if overlong:
        lines.append(
            f"left out: {overlong:,} of {counts['documents']:,} documents take more than "
            f"max_length = {metadata['max_length']} slots; "
            f"max_length={metadata['longest_document']} would hold all of them"
        )
    if checked:
        lines.append(_round_trip(metadata, counts.get("texts"), checked, changed))
    return lines


def _round_trip(metadata: dict[str, Any], texts: int | None, checked: int, changed: int) -> str:
    """Returns how many texts do not come back from the tokenizer as they were."""
    of_all = "" if texts in (None, checked) else f"a sample of all {texts:,}"
    if not changed:
        sample = of_all and f" ({of_all})"
        return f"tokenizer: {checked:,} checked texts{sample} come back as they were"
    sample = of_all and f"; {of_all}"
    return (
        f"tokenizer: {changed:,} of {checked:,} checked texts ({100 * changed / checked:.1f} %"
        f"{sample}) do not come back as they were (first: {metadata['first_changed_text']})"
    )


def quantiles(lengths: dict[int, int], levels: tuple[float, ...]) -> list[int]:
    """Returns the smallest length that a share of at least each level does not exceed."""
    values = np.array(sorted(lengths))
    shares = np.cumsum([lengths[int(value)] for value in values]) / sum(lengths.values())
    # Shares are rounded: one that is equal to the level but for that has reached it.
    return [int(values[np.searchsorted(shares, level - 1e-12)]) for level in levels]


def histogram(dataset: Dataset, bins: int = 16) -> str:
    """Returns the lengths of the training split as bars of text, one for each bin of lengths."""
    edges, counts = _bins(dataset.lengths[TRAIN], bins)
    rows = zip(edges[:-1], edges[1:], counts, strict=True)
    return "\n".join(
        f"{start:>6}-{stop - 1:<6} {count:>12,} {'#' * round(_BAR * count / max(counts))}"
        for start, stop, count in rows
    )


def _bins(lengths: dict[int, int], bins: int) -> tuple[list[int], list[int]]:
    width = -(-(max(lengths) + 1) // bins)
    counts = [0] * bins
    for length, count in lengths.items():
        counts[length // width] += count
    return [width * number for number in range(bins + 1)], counts


def save_picture(dataset: Dataset, path: pathlib.Path) -> pathlib.Path:
    """Returns the path of a PNG with the lengths of both splits, after writing it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for split in SPLITS:
        edges, counts = _bins(dataset.lengths[split], 64)
        axes.stairs(np.array(counts) / sum(counts), edges, label=split)
    axes.set(xlabel="tokens, END not counted", ylabel="share of sequences")
    axes.legend()
    write_atomically(path, png_of(figure))
    return path


def _reading_speed(dataset: Dataset, limit: int = 20_000) -> str:
    started, tokens = time.monotonic(), 0
    for number, sequence in enumerate(read_sequences(dataset, TRAIN), start=1):
        tokens += len(sequence.tokens)
        if number == limit:
            break
    rate = tokens / max(time.monotonic() - started, 1e-9)
    return f"read in stored order: {rate:,.0f} tokens/s"


def _examples(dataset: Dataset, count: int, seed: int) -> list[str]:
    reader, tokenizer = RecordReader(dataset.shards[TRAIN]), dataset.tokenizer()
    numbers = np.random.default_rng(seed).permutation(len(reader))[:count]
    return [
        f"--- training example {number}, {len(sequence.tokens)} slots\n"
        f"{tokenizer.decode(sequence.tokens.tolist())}"
        for number, sequence in zip(numbers, reader.read(numbers.tolist()), strict=True)
    ]
