"""Requests in, results out: order, company, errors, and texts that join without a seam."""

import functools
import itertools

import pytest
from letters import writer

from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.requests import Failure, Request
from flexmdm_jax.generation.results import Result
from flexmdm_jax.generation.writer import Seen
from flexmdm_jax.sampling import SamplerConfig

EXACT = SamplerConfig(exact=True)
REQUESTS = [
    Request.prompt("Once ", id="p", n=3, seed=4),
    Request.infill("é(", ")\n", id="i", n=2, seed=4, sampler=EXACT),
    Request.template("<gap>, and <gap>!", id="t", seed=9, sampler=EXACT),
    Request(id="nothing", seed=0, sampler=SamplerConfig(steps=6)),
    Request((tuple("ñ".encode()[:1]), "x"), (1, 2), id="ids", seed=3),
]


@functools.cache
def answers(batch_size=3):
    return list(writer(batch_size).answer(REQUESTS))


def test_results_come_in_the_order_of_requests_with_what_was_given_in_place():
    found = answers()
    assert [(x.id, x.sample) for x in found] == [
        *(("p", n) for n in range(3)),
        *(("i", n) for n in range(2)),
        ("t", 0),
        ("nothing", 0),
        ("ids", 0),
    ]
    for request, group in itertools.groupby(found, lambda x: x.id):
        [asked] = [x for x in REQUESTS if x.id == request]
        for result in group:
            assert result.length == len(result.tokens)
            assert result.text == bytes(result.tokens).decode(errors="replace")
            if request != "ids":
                assert result.text == _joined(asked, result.generated)
                assert all(text.isalpha() or not text for text in result.generated)
    assert len({x.text for x in found if x.id == "p"}) > 1
    assert any(x.generated[0] for x in found)


def _joined(request, generated):
    """Returns given and generated texts one after the other."""
    parts, texts = list(request.parts), iter(generated)
    pieces = []
    for place in range(len(parts) + 1):
        pieces += [next(texts)] if place in request.gaps else []
        pieces += parts[place : place + 1]
    return "".join(pieces)


def test_order_company_and_batch_size_change_nothing():
    alone = [x for request in REQUESTS for x in writer().answer([request])]
    backwards = list(writer().answer(REQUESTS[::-1]))
    assert alone == answers()
    assert sorted(backwards, key=answers().index) == answers()
    assert answers(batch_size=16) == answers()


@pytest.mark.parametrize("done", [0, 1, 2, 3, 5, 8, 9])
def test_results_that_are_there_are_left_out(done):
    assert list(writer().answer(REQUESTS, skip=done)) == answers()[done:]


WRONG = {
    "too long": (Request.prompt("x" * 40), "40 given tokens leave no room"),
    "no such id": (Request.prompt((1, 300)), "token id 300: there are ids from 0 to 257 only"),
    "MASK": (Request.prompt((1, 256)), "token id 256 is MASK, which cannot be given"),
    "END": (Request.prompt((257,)), "token id 257 is END"),
    "length": (
        Request.prompt("abc", sampler=SamplerConfig(min_length=37)),
        "37 generated tokens do not fit",
    ),
    "half a character": (Request.prompt("\ud800"), "surrogate"),
    "blocks": (Request.prompt("", sampler=SamplerConfig(steps=4, block_length=2)), "for MDM only"),
    "canvas": (Request.prompt("", canvas=4), "a canvas is for MDM only"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_request_that_cannot_be_answered_is_an_error_or_a_failure(name):
    request, message = WRONG[name]
    request = request.seeded(0)
    with pytest.raises(UserError) as error:
        list(writer().answer([REQUESTS[0], request]))
    assert message in str(error.value)
    bad = Failure("line", "of no use")
    mixed = [bad, REQUESTS[2], request, REQUESTS[3]]
    first, second, third, fourth = writer().answer(mixed, strict=False)
    assert first is bad
    assert [second, fourth] == [x for x in answers() if x.id in ("t", "nothing")]
    assert isinstance(third, Failure)
    assert message in third.error
    # Failures are results, too, and are left out as such.
    rest = list(writer().answer(mixed, strict=False, skip=3))
    assert rest == [fourth]


def test_mask_and_end_may_be_spelled():
    [result] = writer().answer([Request.infill("<mask>", "<end>", seed=1)])
    assert result.text.startswith("<mask>")
    assert result.text.endswith("<end>")


def test_frames_lead_to_the_result():
    frames, results = {}, []
    for event in writer().answer(REQUESTS[:3], watched=True):
        if isinstance(event, Seen):
            frames.setdefault((event.request.id, event.sample), []).append(event.frame)
        else:
            results.append(event)
    for result in results:
        own = frames[result.id, result.sample]
        assert isinstance(result, Result)
        assert own[-1].tokens == result.tokens
        assert [frame.call for frame in own] == list(range(result.calls + 1))
