"""From a corpus to a prepared dataset: units of work, finished one by one, in any process."""

import contextlib
import dataclasses
import functools
import itertools
import json
import operator
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from flexmdm_jax.data.preparation.encoding import Encoder
from flexmdm_jax.data.preparation.splitting import SPLIT_RULES, SplitRule, paragraphs
from flexmdm_jax.data.sources.corpora import found_in, parse_source, units_of
from flexmdm_jax.data.sources.documents import Part
from flexmdm_jax.data.storage.records import (
    TOKENIZER,
    TRAIN,
    Dataset,
    open_dataset,
    save_dataset,
    split_of,
)
from flexmdm_jax.data.storage.shards import ShardWriter
from flexmdm_jax.data.tokenizers import (
    Tokenizer,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
    tokenizer_spec,
)
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text, locked, refuse_existing, write_atomically
from flexmdm_jax.ranges import Length, ProperShare, Ranged, Seed

_UNITS, _DATASET, _PLAN, _LOCK = "units", "dataset", "plan.json", "lock"
# What a finished unit says of itself; units of another version are not taken up.
_VERSION = 2
# A tokenizer learns from at most so much text, taken from all units alike.
_TRAINING_CHARACTERS = 50_000_000


@dataclasses.dataclass(frozen=True)
class Plan(Ranged):
    """All that decides what a prepared dataset holds; the workers do not.

    Attributes:
      source: Specification of the corpus.
      tokenizer: Specification of the tokenizer.
      split: A rule of SPLIT_RULES.
      max_length: Slots of the longest sequence, END included.
      validation_fraction: Share of text held out.
      split_seed: Decides which text is held out.
      unit_bytes: About how much of the corpus becomes one shard.
    """

    source: str
    tokenizer: str
    split: str = "paragraph"
    max_length: Length = 1024
    validation_fraction: ProperShare = 0.05
    split_seed: Seed = 0
    unit_bytes: int = 1 << 26

    def __post_init__(self):
        super().__post_init__()
        if self.split not in SPLIT_RULES:
            raise UserError(f"--split={self.split}: choose one of {', '.join(SPLIT_RULES)}")

    @property
    def rule(self) -> SplitRule:
        """Returns how documents become sequences."""
        return SPLIT_RULES[self.split]

    def split_of(self, text: str) -> str:
        """Returns the split a text belongs to."""
        return split_of(text, self.split_seed, self.validation_fraction)


@dataclasses.dataclass(frozen=True)
class Work:
    """A preparation under way in the folder DIR.partial, as every worker sees it.

    Attributes:
      folder: The folder.
      plan: What is prepared.
      units: Parts of the corpus by unit; a unit becomes one shard of each split.
      skip_bad: Count unusable documents instead of stopping at the first.
    """

    folder: pathlib.Path
    plan: Plan
    units: list[list[Part]]
    skip_bad: bool

    def result(self, number: int) -> pathlib.Path:
        """Returns the file that says that a unit is finished."""
        return self.folder / _UNITS / f"{number:05d}.json"

    def missing(self) -> list[int]:
        """Returns the units that are not finished."""
        return [number for number in range(len(self.units)) if not self.result(number).exists()]

    def run(self, number: int) -> dict[str, Any]:
        """Prepares a unit and returns its counts; its files appear only when it is finished."""
        tokenizer = _load_once(self.folder / _DATASET / TOKENIZER)
        encoder = Encoder(self.plan.rule, tokenizer, self.plan.max_length - 1, self.skip_bad)
        documents = found_in(parse_source(self.plan.source), self.units[number])
        with ShardWriter(
            self.folder / _DATASET, number, len(self.units), tokenizer.vocabulary.end
        ) as writer:
            for encoded in encoder.encode(documents):
                for text, pieces in itertools.groupby(encoded.pieces(), operator.itemgetter(0)):
                    split = self.plan.split_of(text)
                    for _, tokens in pieces:
                        writer.write(split, tokens)
            result = encoder.noted() | {"splits": writer.close()}
        write_atomically(self.result(number), json_text(result).encode())
        return result["counts"]


def _load_once(directory: pathlib.Path) -> Tokenizer:
    """Returns the tokenizer in a directory; a process prepares many units with the same one."""
    return _load(directory, tokenizer_spec(directory))


@functools.lru_cache(maxsize=1)
def _load(directory: pathlib.Path, spec: str) -> Tokenizer:
    del spec  # another tokenizer in the same place has another one
    return load_tokenizer(directory)


# Runs work.run() for each number, in any order and any process.
Runner = Callable[[Work, list[int]], None]


def prepare_dataset(
    directory: pathlib.Path,
    plan: Plan,
    run_units: Runner,
    *,
    tokenizer_dir: pathlib.Path | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Returns a prepared dataset after writing it; one that was interrupted is taken up again.

    Work goes on in DIRECTORY.partial, which becomes the directory at the end. What is written does
    not depend on the runner. After an error, finished units are kept there if there are any.

    Args:
      directory: Must not exist yet, or be empty.
      plan: What to prepare.
      run_units: Runs the units that are missing; see runners.py.
      tokenizer_dir: Where encoder.json and vocab.bpe of GPT-2 lie.
      skip_bad: Count unusable documents instead of stopping at the first.

    Raises:
      UserError: If the directory holds files, the partial one belongs to another preparation, the
        corpus is unusable, or a split stays empty.
    """
    refuse_existing(directory)
    units = units_of(parse_source(plan.source).parts(plan.unit_bytes), plan.unit_bytes)
    if not units:
        raise UserError(f"--source={plan.source}: the corpus is empty; give it some text")
    work = Work(directory.with_name(f"{directory.name}.partial"), plan, units, skip_bad)
    with _claimed(work):
        try:
            _make_tokenizer(work, tokenizer_dir)
            run_units(work, work.missing())
            _save_metadata(work)
            (work.folder / _DATASET).replace(directory)
        except BaseException as error:
            missing = len(work.missing())
            # Nothing is finished, or all is and the same command would find a split empty again.
            if missing == len(units) or (not missing and isinstance(error, UserError)):
                shutil.rmtree(work.folder)
            else:
                logging.warning(
                    "finished shards stay in %s; the same command goes on from there", work.folder
                )
            raise
        shutil.rmtree(work.folder)
    return open_dataset(directory)


@contextlib.contextmanager
def _claimed(work: Work) -> Iterator[None]:
    """Makes the folder of a preparation, or takes up the one that is there; one process only."""
    names = {path.name for path in work.folder.glob("[!.]*")}
    if names - {_UNITS, _DATASET, _PLAN, _LOCK}:
        raise UserError(f"{work.folder} holds other files; choose another --out or move them")
    (work.folder / _UNITS).mkdir(parents=True, exist_ok=True)
    (work.folder / _DATASET).mkdir(exist_ok=True)
    with locked(work.folder / _LOCK, f"another process prepares {work.folder}; wait for it"):
        units = [[dataclasses.astuple(part) for part in unit] for unit in work.units]
        # As it comes back from the file.
        ours = {"version": _VERSION, **dataclasses.asdict(work.plan), "units": units}
        ours = json.loads(json_text(ours))
        path = work.folder / _PLAN
        theirs = json.loads(path.read_text()) if path.exists() else None
        if theirs is None:
            write_atomically(path, json_text(ours).encode())
        elif changed := [name for name in ours if theirs.get(name) != ours[name]]:
            raise UserError(
                f"{work.folder} holds an unfinished preparation with another "
                f"{', '.join(changed)}; finish it with its own options or delete it"
            )
        yield


def _make_tokenizer(work: Work, tokenizer_dir: pathlib.Path | None) -> None:
    """Saves the tokenizer, unless an interrupted run has done so."""
    target = work.folder / _DATASET / TOKENIZER
    if target.exists():
        return
    tokenizer = make_tokenizer(work.plan.tokenizer, _training_texts(work), tokenizer_dir)
    partial = target.with_name(f".{TOKENIZER}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_tokenizer(tokenizer, partial)
    partial.replace(target)


def _training_texts(work: Work) -> Iterator[str]:
    """Yields the text a tokenizer may be trained on; held-out text stays unseen."""
    source, quota = parse_source(work.plan.source), _TRAINING_CHARACTERS // len(work.units)
    for unit in work.units:
        left = quota
        documents = itertools.chain.from_iterable(source.documents(part) for part in unit)
        for document in documents:
            if isinstance(document, UserError):
                if not work.skip_bad:
                    raise document
                continue
            if left <= 0:
                break
            left -= len(document)
            for text in work.plan.rule.texts(document):
                if work.plan.split_of(text) == TRAIN:
                    yield from paragraphs(text)


def _save_metadata(work: Work) -> None:
    """Writes dataset.json once all shards are there."""
    results = [json.loads(work.result(number).read_text()) for number in range(len(work.units))]
    names = results[0]["counts"]
    changed = (result["first_changed_text"] for result in results)
    tokenizer = _load_once(work.folder / _DATASET / TOKENIZER)
    save_dataset(
        work.folder / _DATASET,
        [result["splits"] for result in results],
        tokenizer,
        max_length=work.plan.max_length,
        origin={
            "source": work.plan.source,
            "split": work.plan.split,
            "delimiter": "\n\n",
            "validation_fraction": work.plan.validation_fraction,
            "split_seed": work.plan.split_seed,
            "counts": {name: sum(result["counts"][name] for result in results) for name in names},
            "first_changed_text": next(filter(None, changed), None),
        },
    )
