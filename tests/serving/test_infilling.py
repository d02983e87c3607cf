"""Templates over HTTP: every gap's text by itself, plain and streamed."""

import json

import pytest
import served

from flexmdm_jax.generation.requests import Request
from flexmdm_jax.sampling import SamplerConfig


@pytest.fixture(scope="module")
def server():
    with served.serving() as running:
        yield running


def infill(server, **values):
    return server.post("/v1/infill", **values)


FORMS = {
    "text": ({"template": "<gap>a<gap>b"}, Request.template("<gap>a<gap>b")),
    "list": ({"template": ["a", None, [98, 99], None]}, Request(("a", (98, 99)), (1, 2))),
    "ends": ({"prefix": "a", "suffix": "b"}, Request.infill("a", "b")),
    "suffix": ({"suffix": "b"}, Request.infill("", "b")),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_gap_has_its_text(server, name):
    values, request = FORMS[name]
    answer = infill(server, **values, seed=4, n=2, temperature=0.7, max_length=9).json()
    sampler = SamplerConfig(temperature=0.7, max_length=9)
    asked = Request(request.parts, request.gaps, seed=4, n=2, sampler=sampler)
    for choice, result in zip(answer["choices"], served.writer().answer([asked]), strict=True):
        assert choice["generated"] == list(result.generated)
        assert choice["text"] == result.text
        assert len(choice["generated"]) == len(request.gaps)
    assert (answer["object"], answer["model"]) == ("infill", served.NAME)


def test_a_stream_ends_with_the_text_of_every_gap(server):
    values = {"template": "<gap>a<gap>b", "seed": 4, "sampler": "exact"}
    [choice] = infill(server, **values).json()["choices"]
    with server.client() as client:
        text = client.post("/v1/infill", json={**values, "stream": True}).text
    *events, last, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert [json.loads(last.removeprefix("data: "))["choices"]] == [[choice]]
    assert all('"finish_reason":null' in event for event in events)


WRONG = [
    ({}, 'nothing is given: say "template", or "prefix" and "suffix"'),
    ({"template": "ab"}, "the template has no <gap>"),
    ({"template": "a <GAP >"}, "'<GAP >' is no mark"),
    ({"template": ["a"]}, "template: there is no gap in it"),
    ({"template": "<gap>", "suffix": "a"}, "suffix, template: say it in one way"),
    ({"prompt": "ab", "suffix": "a"}, "unknown field 'prompt'; POST it to /v1/completions"),
    ({"template": "<gap>", "echo": True}, "unknown field 'echo'"),
    ({"template": "<gap>", "temprature": 1}, "did you mean 'temperature'?"),
    ({"template": "<gap>", "max_tokens": 3, "length": 3}, "max_tokens and length say the same"),
    ({"template": [[999], None]}, "token id 999: there are ids from 0 to 257 only"),
    ({"template": [[256], None]}, "token id 256 is MASK"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_what_is_wrong_is_said(server, values, message):
    answer = infill(server, **values)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
