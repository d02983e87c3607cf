"""Turns a corpus into a prepared dataset: python -m flexmdm_jax.prepare --source=… --out=…"""

import pathlib
from collections.abc import Iterator

from absl import flags
from tqdm import tqdm

from flexmdm_jax import cli
from flexmdm_jax.config import parse_strategy
from flexmdm_jax.data.corpora import paragraphs, read_documents, split_document
from flexmdm_jax.data.records import TRAIN, Dataset, split_of, write_dataset
from flexmdm_jax.data.tasks import TASKS
from flexmdm_jax.data.tokenizers import Tokenizer, make_tokenizer
from flexmdm_jax.errors import UserError

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "stdlib, text:GLOB, jsonl:GLOB[#field], or a task: maze:size=41,num_subgoals=7 or brackets.",
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "sentencepiece:1024", "sentencepiece:SIZE, sentencepiece:FILE, gpt2 or bytes."
)
_TOKENIZER_DIR = flags.DEFINE_string("tokenizer_dir", None, "Folder of GPT-2's two files.")
_OUT = flags.DEFINE_string("out", None, "Folder to make; must not hold files yet.")
_MAX_LENGTH = flags.DEFINE_integer("max_length", 1024, "Longest sequence in slots, with END.")
_FRACTION = flags.DEFINE_float("validation_fraction", 0.05, "Share of text held out.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides which text is held out.")


def prepare() -> Dataset:
    """Returns the dataset that the flags describe, after writing it."""
    if _MAX_LENGTH.value < 2:
        raise UserError(f"--max_length={_MAX_LENGTH.value}: one token and END need at least 2")
    if not 0 < _FRACTION.value < 1:
        raise UserError(f"--validation_fraction={_FRACTION.value}: must lie between 0 and 1")
    if _SOURCE.value.partition(":")[0] in TASKS:
        return _prepare_task()
    directory = pathlib.Path(_TOKENIZER_DIR.value) if _TOKENIZER_DIR.value else None
    tokenizer = make_tokenizer(_TOKENIZER.value, _training_texts(), directory)
    return write_dataset(
        pathlib.Path(_OUT.value),
        _sequences(tokenizer),
        tokenizer,
        max_length=_MAX_LENGTH.value,
        origin={
            "source": _SOURCE.value,
            "delimiter": "\n\n",
            "validation_fraction": _FRACTION.value,
            "split_seed": _SEED.value,
        },
    )


def _prepare_task() -> Dataset:
    task = parse_strategy(_SOURCE.value, TASKS, "source")
    origin = {"source": _SOURCE.value, "validation_fraction": _FRACTION.value}
    return task.write(pathlib.Path(_OUT.value), _FRACTION.value, origin)


def _split_of(paragraph: str) -> str:
    return split_of(paragraph, _SEED.value, _FRACTION.value)


def _training_texts() -> Iterator[str]:
    """Yields the paragraphs a tokenizer may be trained on; held-out text stays unseen."""
    for document in read_documents(_SOURCE.value):
        yield from (part for part in paragraphs(document) if _split_of(part) == TRAIN)


def _sequences(tokenizer: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    for document in tqdm(read_documents(_SOURCE.value), desc="prepare", unit=" documents"):
        for text, tokens in split_document(document, tokenizer.encode, _MAX_LENGTH.value - 1):
            yield _split_of(text), tokens


def main(_):
    """Runs the command."""
    dataset = prepare()
    for split, count in dataset.num_sequences.items():
        tokens = sum(length * n for length, n in dataset.lengths[split].items())
        print(f"{split}: {count:,} sequences, {tokens:,} tokens")
    print(f"dataset: {dataset.directory}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["source", "out"])
    cli.run(main)
