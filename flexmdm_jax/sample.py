"""Generates text: python -m flexmdm_jax.sample --workdir=runs/demo --num=64 --out=samples.jsonl."""

import collections
import contextlib
import json
import pathlib

import jax
import numpy as np
from absl import flags, logging
from tqdm import tqdm

from flexmdm_jax import cli, hosts, options
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import new_file
from flexmdm_jax.model import Model, load
from flexmdm_jax.partial import PartialResults
from flexmdm_jax.ranges import Count, CountOrZero, Positive, PositiveOrZero, PositiveShare
from flexmdm_jax.sampling import SamplerConfig, parse_sampler

_WORKDIR = options.define_path("workdir", None, "A trained run.")
_BASE = options.define_path("base", "", "A LLaDA's base folder, if not where the run had it.")
_NUM = options.define_number("num", 64, "Samples.", Count)
_STEPS = options.define_number(
    "steps", 0, "So many calls of the network for each text; 0: adaptive.", CountOrZero
)
_EVENTS = options.define_number(
    "events_per_step",
    1.0,
    "Insertions and unmaskings expected of an adaptive step: fewer are finer, and take longer.",
    Positive,
)
_SEED = options.define_seed("Decides all noise.")
_OUT = options.define_path("out", "samples.jsonl", "File to write; must not exist yet.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --out if it exists.")
_BATCH = options.define_number("batch_size", 64, "Samples at a time.", Count)
_RULE = flags.DEFINE_string(
    "rule",
    "",
    "exact_rate (unless told), tau_leaping, adaptive:confidence=top_prob,window_size=64 (top_prob, "
    "margin, entropy, leftmost), threshold:threshold=0.9 or entropy_bound:bound=0.1.",
)
_TEMPERATURE = options.define_number(
    "temperature", 1.0, "Divides logits; 0 takes the likeliest.", PositiveOrZero
)
_TOP_K = options.define_number(
    "top_k", 0, "Draw among the k likeliest tokens; 0 for all.", CountOrZero
)
_TOP_P = options.define_number(
    "top_p", 1.0, "Draw among the tokens that reach this probability.", PositiveShare
)
_BLOCK = options.define_number(
    "block_length",
    0,
    "MDM only: fill blocks of this many slots, counted from the end of the prefix.",
    CountOrZero,
)
_LENGTH = options.define_number(
    "length", 0, "FlexMDM only: exactly so many generated tokens.", CountOrZero
)
_MIN_LENGTH = options.define_number(
    "min_length", 0, "FlexMDM only: generated tokens at least.", CountOrZero
)
_MAX_LENGTH = options.define_number(
    "max_length", 0, "FlexMDM only: generated tokens at most; 0 for no limit.", CountOrZero
)
_PREFIX = flags.DEFINE_string("prefix", "", "Text to continue.")
_SUFFIX = flags.DEFINE_string("suffix", "", "FlexMDM only: text to lead up to.")
_PRINT = options.define_number(
    "print", 0, "Also print this many samples, shortest to longest.", CountOrZero
)
_sampling = options.define_sampler_flags()
_join = options.define_process_flags()


def _load() -> Model:
    model = load(_WORKDIR.value, _BASE.value)
    options.check_insertions([model.setup.process])
    return model


def _show(records: list[dict]) -> None:
    """Prints --print of the samples, at equal steps through the lengths."""
    ordered = sorted(records, key=lambda record: record["length"])
    for position in np.linspace(0, len(ordered) - 1, min(_PRINT.value, len(ordered))):
        record = ordered[round(position)]
        print(f"[{record['length']} tokens] {record['text']}\n")


def _sampler() -> SamplerConfig:
    exactly = _LENGTH.value
    if exactly and (_MIN_LENGTH.value or _MAX_LENGTH.value):
        raise UserError("--length says it all; leave out --min_length and --max_length")
    # The default is no wish: it may stand beside steps.
    events = _EVENTS.value if flags.FLAGS["events_per_step"].present else 0
    return parse_sampler(
        **_sampling(),
        rule=_RULE.value,
        steps=_STEPS.value,
        events_per_step=events,
        temperature=_TEMPERATURE.value,
        top_k=_TOP_K.value,
        top_p=_TOP_P.value,
        block_length=_BLOCK.value,
        min_length=exactly or _MIN_LENGTH.value,
        max_length=exactly or _MAX_LENGTH.value,
    )


def _open(out: pathlib.Path, model: str) -> PartialResults | None:
    """Returns where samples go as they are made: with process 0."""
    if jax.process_index() > 0:
        return None
    made_with = options.settings("out", "overwrite", "print", "workdir", "base") | {"model": model}
    results = PartialResults(out, made_with, overwrite=_OVERWRITE.value)
    if len(results.found) > _NUM.value or not all(isinstance(x, dict) for x in results.found):
        raise UserError(f"{results.path} holds something else than samples; move or delete it")
    return results


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    out = new_file(_OUT.value, _OVERWRITE.value)
    sampler = _sampler()
    _join()
    hosts.check_agreement({"the command line": options.shared_flags()})
    model = _load()
    model.setup.check_sampler(sampler)
    if sampler.exact and not model.setup.process.inserts and jax.process_index() == 0:
        print("MDM inserts nothing: exact sampling unmasks one mask a call")
    jax.set_mesh(model.setup.mesh)
    digest = model.digest()
    results = hosts.first_process_first(lambda: _open(out, digest))
    first = hosts.of_first_process(len(results.found) if results else 0)
    with results or contextlib.nullcontext():
        texts = model.generate(
            sampler,
            num=_NUM.value,
            batch_size=_BATCH.value,
            seed=_SEED.value,
            prefix=_PREFIX.value,
            suffix=_SUFFIX.value,
            first=first,
        )
        if results is None:
            collections.deque(texts, maxlen=0)
            return
        for record in tqdm(texts, "sample", _NUM.value, initial=first, unit="sample"):
            results.append(record)
        shown = [json.loads(line) for line in results.lines()] if _PRINT.value else []
        results.finish()
    _show(shown)
    print(f"{_NUM.value} samples after {model.step:,} training steps: {out}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    cli.run(main)
