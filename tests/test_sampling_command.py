"""Requests through the command: files of them, templates, traces, and what is taken up again."""

import json
import os
import re

import pytest
import tiny
from commands import kill_after_lines, refuse, succeed

REQUESTS = [
    {"id": "a", "prompt": "ab", "n": 3},
    {"prompt": 7},
    {"id": "b", "template": "<gap>c<gap>", "steps": 3, "seed": 5},
    {"id": "long", "prompt": "a" * 40},
    {"prefix": "a", "suffix": "c", "sampler": "exact"},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a tiny trained run in it."""
    folder = tmp_path_factory.mktemp("home")
    tiny.write_dataset(folder / "data", tiny.texts())
    values = tiny.config_at(folder / "data")
    values["training"] |= {"num_steps": 2, "checkpoint_every": 2, "sample_every": 2}
    (folder / "flex.py").write_text(f"def get_config():\n    return {values!r}\n")
    succeed("train", f"--config={folder}/flex.py", f"--workdir={folder}/flex")
    lines = "".join(f"{json.dumps(request)}\n" for request in REQUESTS)
    (folder / "requests.jsonl").write_text(lines)
    return folder


def _lines(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_training_has_left_texts_of_the_moment(home):
    lines = _lines(home / "flex" / "samples.jsonl")
    assert [line["step"] for line in lines] == [2] * 4


def test_a_file_of_requests_is_answered_in_its_order_and_taken_up_again(home, tmp_path):
    sample = ("sample", f"--workdir={home}/flex", f"--requests={home}/requests.jsonl")
    out = tmp_path / "s.jsonl"
    result = succeed(*sample, f"--out={out}", "--print=2")
    assert "7 results, 2 of them errors" in result.stdout
    lines = _lines(out)
    # Two of the three texts of the first request, and the only one of the others.
    printed = re.findall(r"(.+):\n\n((?:\[\d+ tokens\] .*\n\n)+)", result.stdout)
    assert [(name, texts.count("tokens]")) for name, texts in printed] == [
        *[("a", 2), ("b", 1), ("5", 1)]
    ]
    assert f"tokens] {lines[4]['text']}\n" in printed[1][1]
    assert [line["id"] for line in lines] == ["a", "a", "a", 2, "b", "long", 5]
    assert "it must be a text" in lines[3]["error"]
    assert "leave no room" in lines[5]["error"]
    written = lines[4]
    assert written["text"] == "c".join(written["generated"])
    assert written["seed"] == 5
    refuse("exists already", *sample, f"--out={out}")


def test_requests_are_taken_up_again(home, tmp_path):
    lines = [{"id": "many", "prompt": "a", "n": 200}, {"prompt": 1}, {"prompt": "b", "n": 100}]
    (tmp_path / "r.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = (f"--workdir={home}/flex", f"--requests={tmp_path}/r.jsonl", "--batch_size=8")
    partial = tmp_path / "s.jsonl.partial"
    kill_after_lines(20, partial, "sample", *command, f"--out={tmp_path}/s.jsonl")
    (tmp_path / "r.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines[::-1]))
    refuse("requests was '.*', is", "sample", *command, f"--out={tmp_path}/s.jsonl")
    (tmp_path / "r.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    succeed("sample", *command, f"--out={tmp_path}/s.jsonl")
    succeed("sample", *command, f"--out={tmp_path}/straight.jsonl")
    content = (tmp_path / "s.jsonl").read_bytes()
    assert content == (tmp_path / "straight.jsonl").read_bytes()
    assert len(content.splitlines()) == 301


def test_a_bad_line_stops_where_it_is_asked_to(home, tmp_path):
    sample = ("sample", f"--workdir={home}/flex", f"--out={tmp_path}/s.jsonl")
    requests = f"--requests={home}/requests.jsonl"
    refuse("requests.jsonl, line 2: prompt = 7", *sample, requests, "--strict")
    refuse("each request of a file has its own", *sample, requests, "--num=2")
    refuse("say what to write in one way", *sample, requests, "--prefix=a")
    refuse("holds no requests", *sample, "--requests=/dev/null")
    fits = tmp_path / "fits.jsonl"
    fits.write_text('{"prompt": "a"}\n{"id": "far", "prompt": "a", "length": 999}\n')
    refuse(
        r"fits.jsonl, request 'far': 999 .* do not fit", *sample, f"--requests={fits}", "--strict"
    )
    refuse("none.jsonl: No such file", *sample, f"--requests={tmp_path}/none.jsonl")
    refuse("no <gap>", *sample, "--template=abc")
    refuse(r"\.html.*\.gif", *sample, f"--trace={tmp_path}/trace.txt")
    (tmp_path / "old.html").write_text("precious")
    refuse("old.html exists already", *sample, f"--trace={tmp_path}/old.html")
    assert (tmp_path / "old.html").read_text() == "precious"
    assert not list(tmp_path.glob("s.jsonl*"))


def test_no_file_is_written_over_another(home, tmp_path):
    requests = tmp_path / "r.html"
    requests.write_text('{"prompt": "a"}\n')
    sample = ("sample", f"--workdir={home}/flex", "--overwrite")
    (tmp_path / "link").symlink_to(requests)
    given, out = f"--requests={requests}", f"--out={tmp_path}/s"
    refuse("--requests and --out are the same file", *sample, given, f"--out={tmp_path}/link")
    refuse("--requests and --trace are the same", *sample, given, out, f"--trace={requests}")
    refuse("longer than the file system allows", *sample, f"--out={tmp_path}/{'a' * 300}")
    both = (f"--out={tmp_path}/t.html", f"--trace={tmp_path}/t.html")
    refuse("--out and --trace are the same file", *sample, *both)
    assert requests.read_text() == '{"prompt": "a"}\n'


def test_a_pipe_of_requests_is_refused(home, tmp_path):
    os.mkfifo(tmp_path / "r")
    sample = ("sample", f"--workdir={home}/flex", f"--out={tmp_path}/s")
    refuse("is a pipe, .* write them to a file", *sample, f"--requests={tmp_path}/r")


def test_texts_are_watched_by_names_that_differ(home, tmp_path):
    (tmp_path / "r").write_text('{"id": 2, "prompt": "a"}\n{"prompt": "b"}\n')
    sample = ("sample", f"--workdir={home}/flex", f"--requests={tmp_path}/r", f"--out={tmp_path}/s")
    refuse("two requests have the id '2'", *sample, "--watch")
    refuse("two requests have the id '2'", *sample, f"--trace={tmp_path}/t.html")


def test_traces_end_with_the_samples(home, tmp_path):
    arguments = (f"--workdir={home}/flex", "--template=a<gap>c", "--num=2", "--steps=3")
    out = ("sample", *arguments, f"--out={tmp_path}/s.jsonl")
    result = succeed(*out, f"--trace={tmp_path}/t.html", "--watch")
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    for line in _lines(tmp_path / "s.jsonl"):
        seen = f"0.{line['sample']}  call {line['calls']}  t 1.000  {line['length']} tokens"
        assert seen in result.stdout
    refuse("exists already", *out)
