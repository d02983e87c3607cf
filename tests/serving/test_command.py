"""The command: it serves a run at an address, stops when told, and what it gave is drawn again."""

import contextlib
import json
import os
import signal

import httpx
import pytest
import tiny
from commands import refuse, run, start, succeed
from untrained import write_run


@pytest.fixture(scope="module")
def workdir(tiny_dataset, tmp_path_factory):
    """A run that has learnt nothing."""
    path = tmp_path_factory.mktemp("run") / "w"
    write_run(tiny_dataset, tiny.LENGTH, path)
    return path


def _line(command, stream, words=""):
    """Returns the first line with some words of what a command writes, once it is there."""
    while True:
        runs = command.runs(0.02)
        for line in command.outputs[stream].read_text().splitlines(keepends=True):
            if words in line and line.endswith("\n"):
                return line
        assert runs, command.result().stderr


@contextlib.contextmanager
def started(workdir, *arguments):
    """Gives a command that serves, and its address, when it takes requests."""
    command = start("serve", f"--workdir={workdir}", "--port=0", *arguments)
    try:
        yield command, _line(command, "stdout", " serves ").split()[0]
    finally:
        if command.runs():
            command.kill()


def test_what_it_gives_is_drawn_again(workdir, tmp_path):
    values = {"model": "w", "prompt": ["ab", "c"], "n": 2, "temperature": 0.7, "max_tokens": 5}
    path = tmp_path / "response.json"
    with started(workdir, "--batch_size=4", "--nowarm_up") as (_, address):
        path.write_text(httpx.post(f"{address}/v1/completions", json=values, timeout=600).text)
    response = json.loads(path.read_text())
    assert response["flexmdm"]["circumstances"]["batch_size"] == 4
    replay = (f"--workdir={workdir}", f"--replay={path}")
    result = succeed("sample", *replay)
    assert result.stdout.endswith("\nthe same\n")
    texts = [f"[{x}] {prompt}" for x, prompt in enumerate(("ab", "ab", "c", "c"))]
    for text, choice in zip(texts, response["choices"], strict=True):
        assert f"{text}{choice['text']}\n" in result.stdout
    refuse("--seed has no say beside --replay; leave it out", "sample", *replay, "--seed=1")
    response["flexmdm"]["samples"][3]["tokens"].append(1)
    path.write_text(json.dumps(response))
    result = run("sample", *replay)
    assert result.returncode == 1
    assert "error: samples 3 of 4 differ, and nothing recorded does" in result.stderr
    response["flexmdm"]["circumstances"]["model"] = "another"
    path.write_text(json.dumps(response))
    refuse("the response was given by model another", "sample", *replay)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_finishes_what_runs_and_ends_well(workdir, number, monkeypatch):
    monkeypatch.setenv("FLEXMDM_API_KEY", "secret")
    with started(workdir) as (command, address):
        values = {"prompt": "", "n": 16, "sampler": "exact", "stream": True}
        key = {"Authorization": "Bearer secret"}
        client = httpx.Client(base_url=address, timeout=600, headers=key)
        with client, client.stream("POST", "/v1/completions", json=values) as answer:
            assert answer.status_code == 200
            os.kill(command.pid, number)
            assert _line(command, "stderr").startswith("stopping: what runs is finished")
            assert client.get("/health").status_code == 503
            lines = list(answer.iter_lines())
        assert sum('"finish_reason":"' in line for line in lines) == 16
        assert lines[-2:] == ["data: [DONE]", ""]
        assert not command.runs(60)
        assert command.result().returncode == 0


REFUSED = {
    "--multihost: a server is one process; start one on every host": ["--multihost"],
    "--port=1: .*; choose another, --port=0 for any": ["--host=192.0.2.1", "--port=1"],
    "--host=a..b --port=8000: no name of a machine; choose another": ["--host=a..b"],
    "flag --port=65536: it must lie in|--port.*65535": ["--port=65536"],
    "--api_key_file=nosuch: No such file or directory; name a file": ["--api_key_file=nosuch"],
    "--api_key_file=/dev/null is empty": ["--api_key_file=/dev/null"],
    "no run in|no such run|nosuch": ["--port=0"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_served_gets_a_line(message):
    refuse(message, "serve", "--workdir=nosuch", *REFUSED[message])


def test_a_key_that_got_lost_does_not_open_the_server(monkeypatch):
    monkeypatch.setenv("FLEXMDM_API_KEY", "\n")
    refuse("FLEXMDM_API_KEY is empty; put a key into it", "serve", "--workdir=nosuch")
