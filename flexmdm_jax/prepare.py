"""Turns a corpus into a prepared dataset: python -m flexmdm_jax.prepare --source=… --out=…

With --inspect=DIR: says what a prepared dataset holds.
"""

import dataclasses
import itertools
import os
import pathlib
import time

from absl import flags, logging

from flexmdm_jax import cli, hosts, options
from flexmdm_jax.data.preparation import runners
from flexmdm_jax.data.preparation.units import Plan, prepare_dataset
from flexmdm_jax.data.sources.corpora import SOURCES
from flexmdm_jax.data.storage import inspection
from flexmdm_jax.data.storage.records import Dataset, open_dataset
from flexmdm_jax.data.tasks import SYMBOL_TASKS, TASKS
from flexmdm_jax.data.tokenizers import make_tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import nearest, parse_strategy
from flexmdm_jax.files import refuse_existing
from flexmdm_jax.ranges import Count, CountOrZero, Few, Length, ProperShare

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "stdlib, text:GLOB, jsonl:GLOB[#field], parquet:GLOB[#field], hf:DIR[#field], "
    "tfds:NAME[/config][:split][#field], openwebtext[:DIR], or a task: numbers, "
    "brackets, maze:size=41,num_subgoals=7, gsm8k:data=DIR, infilling:source=jsonl:GLOB#FIELD.",
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "sentencepiece:1024",
    "sentencepiece:SIZE (trained here), sentencepiece:FILE, gpt2, hf:DIR[,mask=ID][,end=ID] "
    "or bytes.",
)
_TOKENIZER_DIR = options.define_path("tokenizer_dir", None, "Folder of GPT-2's two files.")
_OUT = options.define_path("out", None, "Folder to make; must not hold files yet.")
_MAX_LENGTH = options.define_number(
    "max_length", 1024, "Longest sequence in slots, with END.", Length
)
_SPLIT = flags.DEFINE_string("split", "paragraph", "What a sequence is: paragraph or document.")
_FRACTION = options.define_number(
    "validation_fraction", 0.05, "Share of text held out.", ProperShare
)
_SEED = options.define_seed("Decides which text is held out.")
_SHARD_MB = options.define_number("shard_mb", 64, "About how much text becomes one shard.", Count)
_SKIP_BAD = flags.DEFINE_bool("skip_bad", False, "Count unusable documents instead of stopping.")
_WORKERS = options.define_number("workers", os.cpu_count(), "Processes that prepare shards.", Few)
_RUNNER = flags.DEFINE_enum("runner", "local", ["local", "beam"], "Who prepares the shards.")
_BEAM = flags.DEFINE_multi_string("beam_option", [], "Of the Beam pipeline: --runner=…")
_INSPECT = options.define_path("inspect", None, "Prepared dataset to describe.")
_PRINT = options.define_number("print", 5, "Random examples that --inspect prints.", CountOrZero)


def prepare() -> Dataset:
    """Returns the dataset that the flags describe, after writing it."""
    for flag in (_SOURCE, _OUT):
        if not flag.value:
            raise UserError(f"--{flag.name} must have a value, unless there is --inspect=DIR")
    hosts.check_workers("--workers", _WORKERS.value)
    beam = _RUNNER.value == "beam"
    if _BEAM.value and not beam:
        raise UserError("--beam_option goes with --runner=beam; give it or leave this out")
    tokenizer_dir = pathlib.Path(_TOKENIZER_DIR.value) if _TOKENIZER_DIR.value else None
    kind = _SOURCE.value.partition(":")[0]
    if kind in TASKS:
        return _prepare_task(tokenizer_dir)
    if kind not in SOURCES:
        raise UserError(f"unknown --source {kind!r}{nearest(kind, [*SOURCES, *TASKS])}")
    plan = Plan(
        source=_SOURCE.value,
        tokenizer=_TOKENIZER.value,
        split=_SPLIT.value,
        max_length=_MAX_LENGTH.value,
        validation_fraction=_FRACTION.value,
        split_seed=_SEED.value,
        unit_bytes=_SHARD_MB.value << 20,
    )
    return prepare_dataset(
        pathlib.Path(_OUT.value),
        plan,
        runners.beam(_BEAM.value) if beam else runners.processes(_WORKERS.value),
        tokenizer_dir=tokenizer_dir,
        skip_bad=_SKIP_BAD.value,
    )


# What of a corpus decides how it becomes a dataset; tasks have arguments of their own.
_OF_A_CORPUS = ("max_length", "split", "validation_fraction", "seed", "shard_mb", "skip_bad")


def _prepare_task(tokenizer_dir: pathlib.Path | None) -> Dataset:
    task = parse_strategy(_SOURCE.value, TASKS, "source")
    out = pathlib.Path(_OUT.value)
    makes_symbols = type(task) in SYMBOL_TASKS.values()
    refused = (*_OF_A_CORPUS, "tokenizer") if makes_symbols else _OF_A_CORPUS
    for name in refused:
        if flags.FLAGS[name].present:
            known = ", ".join(field.name for field in dataclasses.fields(task))
            raise UserError(f"--{name}: a task takes arguments behind its name instead: {known}")
    if makes_symbols:
        return task.write(out)
    refuse_existing(out)
    texts = task.training_texts()
    # What is wrong with the files shows before what is wrong with the tokenizer.
    texts = itertools.chain(list(itertools.islice(texts, 1)), texts)
    return task.write(out, make_tokenizer(_TOKENIZER.value, texts, tokenizer_dir))


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    if _INSPECT.value:
        if _SOURCE.value or _OUT.value:
            raise UserError("--inspect describes a dataset and makes none: no --source, no --out")
        dataset = open_dataset(_INSPECT.value)
        print(inspection.report(dataset, examples=_PRINT.value))
        picture = inspection.save_picture(dataset, dataset.directory / "lengths.png")
        print(f"picture: {picture}")
        return
    started = time.monotonic()
    dataset = prepare()
    print(inspection.summary(dataset))
    print(f"dataset: {dataset.directory} ({time.monotonic() - started:.1f} s)")


if __name__ == "__main__":
    cli.run(main)
