"""Answers that are drawn again: the same, or a line that says what is not."""

import dataclasses
import json

import letters
import pytest

from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.parsing import request_json, sampler_of
from flexmdm_jax.generation.replay import circumstances, read_recording, record
from flexmdm_jax.generation.requests import Request

SETTINGS = {"sampler": "exact", "temperature": 0.5}
REQUESTS = [
    Request.prompt("ab", seed=3, n=2, sampler=sampler_of(SETTINGS)),
    Request.template("<gap>c<gap>", seed=4, sampler=sampler_of(SETTINGS)),
]


@pytest.fixture(scope="module")
def here():
    return circumstances("abc", letters.writer().engine)


@pytest.fixture(scope="module")
def results():
    return list(letters.writer().answer(REQUESTS))


@pytest.fixture
def response(here, results):
    """Returns a response as a server gives it."""
    own = record([request_json(x, SETTINGS) for x in REQUESTS], results, here)
    return json.loads(json.dumps({"choices": [], "flexmdm": own}))


@pytest.fixture
def read(tmp_path):
    def read(response):
        path = tmp_path / "response.json"
        path.write_text(json.dumps(response))
        return read_recording(path)

    return read


def test_a_response_says_all_that_drawing_it_again_takes(response, read, here):
    recording = read(response)
    assert [dataclasses.replace(x, id=0) for x in recording.requests] == REQUESTS
    recording.check_model("abc")
    again = list(letters.writer(recording.batch_size).answer(recording.requests))
    verdict = recording.compare(again, here)
    assert (verdict.same, verdict.text) == (True, "the same")


def test_what_differs_is_named(response, read, results, here):
    response["flexmdm"]["samples"][1]["tokens"].append(97)
    verdict = read(response).compare(results, here)
    assert not verdict.same
    assert verdict.text.startswith("samples 1 of 3 differ, and nothing recorded does")
    response["flexmdm"]["circumstances"] |= {"jax": "0.1", "device": "abacus"}
    told = read(response).compare(results, here).text
    assert "device was 'abacus' and is 'cpu'; jax was '0.1' and is" in told
    assert "elsewhere they are the same up to rounding" in told
    del response["flexmdm"]["samples"][1]["tokens"][-1]
    verdict = read(response).compare(results, here)
    assert verdict.same
    assert verdict.text.startswith("the same, although device was 'abacus'")


def test_another_model_is_refused(response, read):
    with pytest.raises(UserError, match="given by model abc, and this one is def; name the"):
        read(response).check_model("def")


def spoilt(*path, value):
    """Returns what gives a place of a response another value, or takes it away."""

    def spoil(response):
        *way, last = path
        for key in way:
            response = response[key]
        if value is None:
            del response[last]
        else:
            response[last] = value

    return spoil


SPOILT = {
    "no response that can be replayed": spoilt("flexmdm", value=None),
    "it lacks": spoilt("flexmdm", "circumstances", value=None),
    "must be lists": spoilt("flexmdm", "samples", value={}),
    "a request without a seed": spoilt("flexmdm", "requests", 0, "seed", value=None),
    "unknown field 'x'": spoilt("flexmdm", "requests", 0, "x", value=1),
    "a list of ids": spoilt("flexmdm", "samples", 0, "tokens", value=[1.5]),
    "3 samples were asked for, and 2": spoilt("flexmdm", "samples", 0, value=None),
    "name a model and a batch_size": spoilt("flexmdm", "circumstances", "model", value=None),
    "batch_size = 0; it must be": spoilt("flexmdm", "circumstances", "batch_size", value=0),
}


@pytest.mark.parametrize("message", SPOILT)
def test_what_is_no_response_gets_a_line(response, read, message):
    SPOILT[message](response)
    with pytest.raises(UserError, match=message) as error:
        read(response)
    assert "response.json: " in str(error.value)


def test_what_cannot_be_read_gets_a_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_recording(tmp_path / "nosuch.json")
    (tmp_path / "stream").write_text('data: {"id": 1}')
    with pytest.raises(UserError, match="no JSON"):
        read_recording(tmp_path / "stream")
