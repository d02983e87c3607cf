"""Preparation: the same dataset however the work is shared out or interrupted."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import signal
import subprocess
import sys

import pytest
import tiny

from flexmdm_jax.data.preparation import units
from flexmdm_jax.data.preparation.runners import processes
from flexmdm_jax.data.preparation.splitting import paragraphs
from flexmdm_jax.data.preparation.units import Plan, prepare_dataset
from flexmdm_jax.data.storage.records import SPLITS, open_dataset, read_split, split_of
from flexmdm_jax.errors import UserError

DOCUMENTS = [f"{text}\n\n{text[::-1]}?" for text in tiny.texts()]


@pytest.fixture
def corpus(tmp_path):
    lines = "".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS)
    (tmp_path / "corpus.jsonl").write_text(lines)
    return f"jsonl:{tmp_path}/corpus.jsonl"


def _files(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def _plan(source, **values):
    values = {"max_length": 16, "validation_fraction": 0.2, "unit_bytes": 2000} | values
    return Plan(source, "bytes", **values)


def test_shards_hold_the_text_of_the_corpus(corpus, tmp_path):
    dataset = prepare_dataset(tmp_path / "d", _plan(corpus), processes(1))
    tokenizer = dataset.tokenizer()
    assert len(dataset.shards["train"]) > 3
    for split in SPLITS:
        stored = "".join(tokenizer.decode(t.tolist()) for t in read_split(dataset, split))
        parts = [part for document in DOCUMENTS for part in paragraphs(document)]
        assert stored == "".join(part for part in parts if split_of(part, 0, 0.2) == split)
    counts = dataset.metadata["counts"]
    assert counts["documents"] == len(DOCUMENTS)
    assert counts["characters"] == sum(map(len, DOCUMENTS))
    assert not (tmp_path / "d.partial").exists()


def test_a_long_text_is_hashed_once(tmp_path, monkeypatch):
    """However many pieces it is cut into: time is linear in its length."""
    (tmp_path / "long.txt").write_text("a" * 1000 + "\n\n" + "b" * 500)
    asked = []
    split_of = units.split_of
    monkeypatch.setattr(units, "split_of", lambda *x: asked.append(x[0][0]) or split_of(*x))
    plan = Plan(f"text:{tmp_path}/long.txt", "bytes", max_length=9, validation_fraction=0.7)
    # A split may stay empty.
    with contextlib.suppress(UserError):
        prepare_dataset(tmp_path / "d", plan, processes(1))
    assert asked == ["a", "b"]


def test_workers_do_not_change_the_dataset(corpus, tmp_path):
    by_one, by_two = (
        prepare_dataset(tmp_path / f"by{workers}", _plan(corpus), processes(workers))
        for workers in (1, 2)
    )
    assert _files(tmp_path / "by1") == _files(tmp_path / "by2")
    assert by_one.sha256 == by_two.sha256


def test_every_shard_has_its_hash_in_the_metadata(corpus, tmp_path):
    dataset = prepare_dataset(tmp_path / "d", _plan(corpus), processes(1))
    for split, shards in dataset.shards.items():
        expected = [hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards]
        assert dataset.metadata["splits"][split]["sha256"] == expected


def test_units_of_another_version_are_not_taken_up(corpus, tmp_path):
    def interrupted(work, numbers):
        work.run(numbers[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(tmp_path / "d", _plan(corpus), interrupted)
    plan = tmp_path / "d.partial" / "plan.json"
    before = json.loads(plan.read_text())
    del before["version"]
    plan.write_text(json.dumps(before))
    with pytest.raises(UserError, match="unfinished preparation with another version"):
        prepare_dataset(tmp_path / "d", _plan(corpus), processes(1))


KILLED_IN_THE_THIRD_UNIT = """
import os, pathlib, signal, sys
from flexmdm_jax.data.preparation import runners, units
from flexmdm_jax.data.storage import shards

written = shards.ShardWriter.write
def write(self, *sequence):
    written(self, *sequence)
    if "00002-of" in self._shards["train"].name and len(self._slots["train"]) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
shards.ShardWriter.write = write
plan = units.Plan(**eval(sys.argv[2]))
units.prepare_dataset(pathlib.Path(sys.argv[1]), plan, runners.processes(1))
"""


def test_a_killed_preparation_goes_on_where_it_was(corpus, tmp_path, monkeypatch):
    plan = _plan(corpus)
    whole = prepare_dataset(tmp_path / "whole", plan, processes(1))
    command = [sys.executable, "-c", KILLED_IN_THE_THIRD_UNIT, str(tmp_path / "d")]
    killed = subprocess.run([*command, repr(dataclasses.asdict(plan))], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "d").exists()
    ran = []

    def recording(work, numbers):
        ran.extend(numbers)
        processes(1)(work, numbers)

    with pytest.raises(UserError, match="unfinished preparation with another max_length"):
        prepare_dataset(tmp_path / "d", _plan(corpus, max_length=8), recording)
    prepare_dataset(tmp_path / "d", plan, recording)
    assert ran == list(range(2, len(whole.shards["train"]))), "two units were finished"
    assert _files(tmp_path / "d") == _files(tmp_path / "whole")


def _bad_corpus(tmp_path):
    lines = [json.dumps({"text": document}) for document in [*DOCUMENTS, "", " \n\n "]]
    lines[150:150] = ["{}", '{"text": 3}']
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    return f"jsonl:{tmp_path}/bad.jsonl"


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_documents_stop_unless_they_may_be_skipped(tmp_path, workers):
    plan = _plan(_bad_corpus(tmp_path))
    with pytest.raises(UserError, match=r"bad\.jsonl, line 151: no field 'text'"):
        prepare_dataset(tmp_path / "d", plan, processes(workers))
    assert not (tmp_path / "d").exists()
    assert list((tmp_path / "d.partial" / "units").iterdir()), "finished shards are kept"
    dataset = prepare_dataset(tmp_path / "d", plan, processes(1), skip_bad=True)
    counts = dataset.metadata["counts"]
    assert counts["bad_documents"] == 2
    assert counts["empty_documents"] == 2
    assert counts["documents"] == len(DOCUMENTS) + 2


def test_nothing_is_left_if_nothing_was_finished(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    before = sorted(tmp_path.iterdir())
    for source, message in [
        (f"text:{tmp_path}/empty.txt", "leaves the train split empty"),
        (f"text:{tmp_path}/nothing", "no file matches"),
        (f"jsonl:{tmp_path}/empty.txt", "leaves the train split empty"),
    ]:
        with pytest.raises(UserError, match=message):
            prepare_dataset(tmp_path / "d", _plan(source), processes(1))
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_that_is_full_at_the_very_end_costs_no_shard(corpus, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    ran = []

    def recording(work, numbers):
        ran.append(len(numbers))
        processes(1)(work, numbers)

    with monkeypatch.context() as patched:
        patched.setattr(units, "save_dataset", full)
        with pytest.raises(OSError, match="No space left"):
            prepare_dataset(tmp_path / "d", _plan(corpus), recording)
    prepare_dataset(tmp_path / "d", _plan(corpus), recording)
    assert ran[0] > 0 == ran[1], "all shards were finished"
    prepare_dataset(tmp_path / "whole", _plan(corpus), processes(1))
    assert _files(tmp_path / "d") == _files(tmp_path / "whole")
    assert not (tmp_path / "d.partial").exists()


def test_folders_of_others_are_left_alone(corpus, tmp_path):
    (tmp_path / "d.partial").mkdir()
    (tmp_path / "d.partial" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"d\.partial holds other files"):
        prepare_dataset(tmp_path / "d", _plan(corpus), processes(1))
    assert (tmp_path / "d.partial" / "thesis.txt").read_text() == "precious"


def test_two_preparations_do_not_share_a_folder(corpus, tmp_path):
    plan = _plan(corpus)

    def meddling(work, numbers):
        with pytest.raises(UserError, match="another process prepares"):
            prepare_dataset(tmp_path / "d", plan, processes(1))
        processes(1)(work, numbers)

    prepare_dataset(tmp_path / "d", plan, meddling)
    assert open_dataset(tmp_path / "d").num_sequences["train"] > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_length": 1}, "max_length = 1; it must be at least 2"),
        ({"validation_fraction": 1.0}, r"validation_fraction = 1\.0; it must lie in \(0, 1\)"),
        ({"split": "sentence"}, "choose one of paragraph, document"),
    ],
)
def test_unusable_plans(values, message):
    with pytest.raises(ValueError, match=message):
        _plan("stdlib", **values)


@pytest.mark.parametrize("split", ["paragraph", "document"])
def test_a_tokenizer_is_trained_on_training_text_alone(tmp_path, split):
    """A character that only held-out text has is no token of its own."""
    texts = [f"training text {number}" for number in range(300)]
    held_out = next(t for n in range(99) if split_of(t := f"東{n}", 0, 0.2) == "validation")
    (tmp_path / "c.jsonl").write_text(
        "\n".join(json.dumps({"text": t}) for t in [*texts, held_out])
    )
    plan = dataclasses.replace(
        _plan(f"jsonl:{tmp_path}/c.jsonl", split=split, max_length=64),
        tokenizer="sentencepiece:290",
    )
    tokenizer = prepare_dataset(tmp_path / "d", plan, processes(1)).tokenizer()
    assert len(tokenizer.encode("東")) == 3, "three bytes"


@pytest.mark.parametrize("tokenizer", ["bytes", "sentencepiece:300"])
def test_an_empty_corpus_is_named(tmp_path, tokenizer):
    (tmp_path / "empty.jsonl").write_text("")
    plan = Plan(source=f"jsonl:{tmp_path}/empty.jsonl", tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"empty\.jsonl: the corpus is empty"):
        prepare_dataset(tmp_path / "d", plan, processes(1))
    assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]
