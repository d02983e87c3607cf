"""The examples of docs/serving.md, as printed, against a server."""

import json
import pathlib
import re
import shlex

import letters
import pytest
import served

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "serving.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def server():
    with served.serving(letters.writer(4, 64), name="demo_text") as running:
        yield running


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_python_examples_run_one_after_the_other(server, capsys):
    names, printed = {}, []
    for code in blocks("python"):
        exec(compile(code.replace(ADDRESS, server.address), "serving.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    texts, watched = printed
    assert len(json.loads(texts.replace("'", '"'))) == 2
    first, *_, last = watched.splitlines()
    assert first == "A class"
    assert "░" in watched
    assert "░" not in last


def test_what_is_asked_by_curl_is_answered(server):
    lines = [x for block in blocks("sh") for x in block.replace("\\\n", " ").splitlines()]
    asked = [shlex.split(line) for line in lines if line.startswith("curl")]
    assert len(asked) == 2
    for _, address, _, header, _, body in asked:
        kind = dict([header.split(": ")])
        with server.client(headers=kind) as client:
            answer = client.post(address.removeprefix(ADDRESS), content=body)
        assert answer.status_code == 200
        assert len(answer.json()["choices"]) == json.loads(body).get("n", 1)


def test_events_look_as_they_are_described(server):
    [example] = blocks("json")
    described = json.loads(example.replace("…", ""))
    values = {"prompt": "A class", "stream": True, "seed": 1, "min_length": 3}
    with server.client() as client:
        events = client.post("/v1/completions", json=values).text.split("\n\n")
    found = [json.loads(x.removeprefix("data: ")) for x in events[:-2]]
    for event in found[:-1]:
        assert set(event) == set(described)
        assert set(event["flexmdm"]) == set(described["flexmdm"])
        assert set(event["choices"][0]) == set(described["choices"][0])
    keys = {key for event in found[:-1] for key in event["flexmdm"]["frame"]}
    assert set(described["flexmdm"]["frame"]) <= keys


def test_every_flag_and_address_that_is_named_is_there():
    source = "".join(
        path.read_text()
        for path in (pathlib.Path(served.__file__).parents[1] / "flexmdm_jax").rglob("ser*/*.py")
    )
    for path in set(re.findall(r"`(?:GET|POST) (/\S*)`", PAGE)):
        assert f'"{path}"' in source
