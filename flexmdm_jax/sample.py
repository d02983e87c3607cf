"""Generates text: python -m flexmdm_jax.sample --workdir=runs/demo --num=64 --out=samples.jsonl."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from flexmdm_jax import cli, hosts, options
from flexmdm_jax.data.tokenizers import piece_behind
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import new_file
from flexmdm_jax.generation.parsing import read_requests, sampler_of
from flexmdm_jax.generation.replay import circumstances, read_recording
from flexmdm_jax.generation.requests import Failure, Request
from flexmdm_jax.generation.results import Result
from flexmdm_jax.generation.templates import MARK
from flexmdm_jax.generation.trace.gathering import Gathering
from flexmdm_jax.generation.trace.terminal import watch
from flexmdm_jax.generation.trace.writing import renderer, write_trace
from flexmdm_jax.generation.writer import Writer
from flexmdm_jax.model import Model, load
from flexmdm_jax.partial import PartialResults
from flexmdm_jax.progress import progress_bar
from flexmdm_jax.ranges import Count, CountOrZero, Positive, PositiveOrZero, PositiveShare

_WORKDIR = options.define_path("workdir", None, "A trained run.")
_BASE = options.define_path("base", "", "A LLaDA's base folder, if not where the run had it.")
_mesh = options.define_mesh()
_PROMPT = flags.DEFINE_string("prefix", "", "Text to continue.")
_SUFFIX = flags.DEFINE_string("suffix", "", "FlexMDM only: text to lead up to.")
_TEMPLATE = flags.DEFINE_string(
    "template", "", f"FlexMDM only: a text with {MARK} wherever something is to be written."
)
_REQUESTS = options.define_path(
    "requests", "", 'JSON lines instead: {"prompt": "Once", "n": 4, "temperature": 0.8}.'
)
_REPLAY = options.define_path(
    "replay", "", "A response of the server: draw its samples again, and say whether they are them."
)
_MARK = flags.DEFINE_string("gap_mark", MARK, "What templates write for a gap.")
_STRICT = flags.DEFINE_bool(
    "strict", False, "Stop at a request that cannot be answered; otherwise it gets an error."
)
_NUM = options.define_number("num", 64, "Samples; requests of a file have their own n.", Count)
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
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --out and --trace if they exist.")
_BATCH = options.define_number(
    "batch_size", 64, "Samples at a time while they are short; of longer ones fewer.", Count
)
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
_PRINT = options.define_number(
    "print", 0, "Also print this many samples of each request, shortest to longest.", CountOrZero
)
_WATCH = flags.DEFINE_bool("watch", False, "Show the texts in the terminal as they come about.")
_TRACE = options.define_path(
    "trace", "", "A page (.html) or an animation (.gif) of how the texts came about."
)
_sampling = options.define_sampler_flags()
_keep_programs = options.define_compilation_cache()
_join = options.define_process_flags()

# Flags that say nothing about what is written.
_ASIDE = ("out", "overwrite", "print", "workdir", "base", "watch", "trace", "requests", "strict")


def _settings() -> dict[str, Any]:
    """Returns the settings of the sampler that the command line gives."""
    holders = (_RULE, _STEPS, _EVENTS, _TEMPERATURE, _TOP_K, _TOP_P, _BLOCK)
    holders += (_LENGTH, _MIN_LENGTH, _MAX_LENGTH)
    values = {holder.name: holder.value for holder in holders} | _sampling()
    # What is not given is no wish, and makes way for what a request says.
    return {name: value for name, value in values.items() if flags.FLAGS[name].present}


def _check_flags() -> None:
    """Raises UserError where flags say what to write in several ways."""
    if _REPLAY.value:
        options.refuse_besides("replay", "workdir", "base", "mesh")
    given = [holder.name for holder in (_PROMPT, _SUFFIX, _TEMPLATE, _REQUESTS) if holder.value]
    if _REQUESTS.value and flags.FLAGS["num"].present:
        raise UserError('--num: each request of a file has its own, "n"; leave it out')
    if len(given) > 1 and given != ["prefix", "suffix"]:
        raise UserError(f"--{', --'.join(given)}: say what to write in one way")
    if _TRACE.value:
        renderer(pathlib.Path(_TRACE.value))
    _check_files()


def _check_files() -> None:
    """Raises UserError where one file would be written over another, or cannot be read twice."""
    files = {
        f"--{name}": pathlib.Path(flags.FLAGS[name].value)
        for name in ("requests", "out", "trace")
        if flags.FLAGS[name].value
    }
    for (first, path), (second, other) in itertools.combinations(files.items(), 2):
        if path.resolve() == other.resolve():
            raise UserError(f"{first} and {second} are the same file, {path}; name two")
    requests = files.get("--requests")
    if requests and (requests.is_fifo() or requests.is_socket()):
        raise UserError(
            f"--requests={requests} is a pipe, and requests are read more than once; write them to "
            "a file and name that"
        )


def _check_names() -> None:
    """Raises UserError where two texts that are to be shown have one name."""
    requests = (x for x in _requests() if isinstance(x, Request))
    counts = collections.Counter(str(request.id) for request in requests)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(
            f"{_REQUESTS.value}: two requests have the id {twice[0]!r} (the line's number unless "
            "told), by which --trace and --watch tell them apart; give each its own"
        )


def _requests() -> Iterator[Request | Failure]:
    """Returns the requests of the file or of the flags, with seeds."""
    settings, seed = _settings(), _SEED.value
    if _REQUESTS.value:
        path = pathlib.Path(_REQUESTS.value)
        found = read_requests(path, settings, mark=_MARK.value, strict=_STRICT.value)
        return (x if isinstance(x, Failure) else x.seeded(seed) for x in found)
    others = {"seed": seed, "n": _NUM.value, "sampler": sampler_of(settings)}
    if _TEMPLATE.value:
        return iter([Request.template(_TEMPLATE.value, _MARK.value, **others)])
    return iter([Request.infill(_PROMPT.value, _SUFFIX.value, **others)])


def _open(out: pathlib.Path, model: str) -> PartialResults | None:
    """Returns where samples go as they are made: with process 0."""
    if jax.process_index() > 0:
        return None
    made_with = options.settings(*_ASIDE) | {"model": model}
    if _REQUESTS.value:
        with open(_REQUESTS.value, "rb") as file:
            made_with["requests"] = hashlib.file_digest(file, "sha256").hexdigest()
    results = PartialResults(out, made_with, overwrite=_OVERWRITE.value)
    if not all(isinstance(x, dict) for x in results.found):
        raise UserError(f"{results.path} holds something else than samples; move or delete it")
    return results


class _Progress:
    """What becomes of results: lines of the file, a bar, and a count of errors."""

    def __init__(self, results: PartialResults | None, total: int, done: int):
        quiet = results is None or _WATCH.value
        self._results = results
        self._bar = progress_bar(
            total=total, initial=done, desc="sample", unit="sample", disable=quiet
        )
        self._started, self._tokens, self._calls, self._samples = time.monotonic(), 0, 0, 0
        self.failures = sum("error" in line for line in results.found) if results else 0

    def take(self, result: Result | Failure) -> None:
        """Writes a result and counts it."""
        self._bar.update()
        if isinstance(result, Failure):
            self.failures += 1
            line = dataclasses.asdict(result)
        else:
            line = result.json()
            self._samples += 1
            self._calls += result.calls
            self._tokens += result.inserted
            seconds = time.monotonic() - self._started
            self._bar.set_postfix_str(
                f"{self._tokens / seconds:,.0f} tokens/s, "
                f"{self._calls / self._samples:.1f} calls each"
            )
        if self._results:
            self._results.append(line)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def _show(records: list[dict]) -> None:
    """Prints --print of each request's samples, at equal steps through the lengths."""
    written = (record for record in records if "text" in record)
    for name, samples in itertools.groupby(written, key=lambda record: record["id"]):
        if _REQUESTS.value:
            print(f"{name}:\n")
        ordered = sorted(samples, key=lambda record: record["length"])
        for position in np.linspace(0, len(ordered) - 1, min(_PRINT.value, len(ordered))):
            record = ordered[round(position)]
            print(f"[{record['length']} tokens] {record['text']}\n")


def _load() -> Model:
    model = load(_WORKDIR.value, _BASE.value, _mesh())
    process = model.setup.process
    options.check_insertions([process])
    exact = flags.FLAGS["sampler"].value == "exact"
    if exact and not process.inserts and jax.process_index() == 0:
        print("MDM inserts nothing: exact sampling unmasks one mask a call")
    return model


def _is_strict() -> bool:
    return _STRICT.value or not _REQUESTS.value


def _check(writer: Writer) -> None:
    """Raises UserError for a request that cannot be answered, if no other result will do."""
    for request in _requests() if _is_strict() else ():
        try:
            writer.encode(request)
        except UserError as error:
            if not _REQUESTS.value:
                raise
            raise UserError(f"{_REQUESTS.value}, request {request.id!r}: {error}") from None


def _write(writer: Writer, results: PartialResults | None, total: int, done: int) -> int:
    """Returns how many requests failed, after writing what is left of the results."""
    gathering, progress = Gathering(), _Progress(results, total, done)
    watched = bool(_TRACE.value or _WATCH.value)
    events = writer.answer(_requests(), strict=_is_strict(), watched=watched, skip=done)
    calls = gathering.calls(events, progress.take)
    # Asked of every token after every call.
    piece = functools.cache(functools.partial(piece_behind, writer.tokenizer))
    mask = writer.engine.process.vocabulary.mask
    if _WATCH.value and jax.process_index() == 0:
        watch(calls, piece, mask)
    else:
        collections.deque(calls, maxlen=0)
    progress.close()
    if _TRACE.value and results is not None:
        write_trace(pathlib.Path(_TRACE.value), gathering.traces(), piece, mask)
    return progress.failures


def _replay() -> None:
    """Draws the samples of a response again; ends with 1 unless they are the same."""
    recording = read_recording(pathlib.Path(_REPLAY.value))
    _join()
    _keep_programs()
    model = _load()
    jax.set_mesh(model.setup.mesh)
    digest = model.digest()
    recording.check_model(digest)
    writer = model.writer(recording.batch_size)
    results = list(writer.answer(recording.requests))
    if jax.process_index() == 0:
        for place, result in enumerate(results):
            print(f"[{place}] {result.text}\n")
    verdict = recording.compare(results, circumstances(digest, writer.engine))
    if not verdict.same:
        cli.exit_with(verdict.text, 1)
    if jax.process_index() == 0:
        print(verdict.text)


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    _check_flags()
    if _REPLAY.value:
        _replay()
        return
    out = new_file(_OUT.value, _OVERWRITE.value)
    if _TRACE.value:
        new_file(_TRACE.value, _OVERWRITE.value)
    # Reads the whole file: what is wrong in it is said before anything is done.
    total = sum(1 if isinstance(x, Failure) else x.n for x in _requests())
    if not total:
        raise UserError(f"{_REQUESTS.value} holds no requests")
    if _TRACE.value or _WATCH.value:
        _check_names()
    _join()
    _keep_programs()
    hosts.check_agreement({"the command line": options.shared_flags()})
    model = _load()
    jax.set_mesh(model.setup.mesh)
    writer = model.writer(min(_BATCH.value, total))
    _check(writer)
    digest = model.digest()
    results = hosts.first_process_first(lambda: _open(out, digest))
    done = hosts.of_first_process(len(results.found) if results else 0)
    if done and _TRACE.value:
        raise UserError(
            f"--trace: {out}.partial holds {done} samples already, whose calls nobody has seen; "
            "finish it without --trace, or pass --overwrite after deleting it"
        )
    with results or contextlib.nullcontext():
        failed = _write(writer, results, total, done)
        if results is None:
            return
        shown = [json.loads(line) for line in results.lines()] if _PRINT.value else []
        results.finish()
    _show(shown)
    what = f"{total} results, {failed} of them errors," if failed else f"{total} samples"
    print(f"{what} after {model.step:,} training steps: {out}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    cli.run(main)
