"""OpenAI's form of completions, as OpenAI's own client asks for them."""

import itertools

import openai
import pytest
import served

from flexmdm_jax.generation.requests import Request
from flexmdm_jax.generation.trace.encoding import frame_from_json
from flexmdm_jax.sampling import SamplerConfig

END, MASK = 257, 256


@pytest.fixture(scope="module")
def server():
    with served.serving(max_n=6) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="any", max_retries=0) as own:
        yield own


def complete(client, prompt="ab", model=served.NAME, **options):
    extra = {name: options.pop(name) for name in list(options) if name in ("sampler", "steps")}
    return client.completions.create(model=model, prompt=prompt, extra_body=extra, **options)


def drawn(*requests):
    """Returns what the same writer makes of requests, without a server."""
    return list(served.writer().answer(requests))


def test_a_prompt_is_continued_as_everywhere_else(client):
    answer = complete(client, "Once ", n=3, seed=7, temperature=0.5, top_p=1)
    request = Request.prompt("Once ", n=3, seed=7, sampler=SamplerConfig(temperature=0.5))
    assert [x.text for x in answer.choices] == [x.generated[0] for x in drawn(request)]
    assert [x.index for x in answer.choices] == [0, 1, 2]
    assert {x.finish_reason for x in answer.choices} <= {"stop", "length"}
    assert (answer.object, answer.model) == ("text_completion", served.NAME)
    written = sum(len(x.text) for x in answer.choices)
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, written)
    assert usage.total_tokens == 5 + written


def test_prompts_are_texts_or_ids_one_or_many(client):
    assert (
        complete(client, [97, 98], seed=1).choices[0].text
        == complete(client, "ab", seed=1).choices[0].text
    )
    texts = complete(client, ["ab", "cd", "ab"], seed=1, n=2, echo=True)
    assert [x.text[:2] for x in texts.choices] == ["ab", "ab", "cd", "cd", "ab", "ab"]
    # The same once more is another sample; what differs is what it is elsewhere.
    assert texts.choices[0].text != texts.choices[4].text
    expected = [x for p in ("ab", "cd") for x in drawn(Request.prompt(p, n=2).seeded(1))]
    assert [x.text for x in texts.choices[:4]] == [x.text for x in expected]
    ids = complete(client, [[97, 98], [99, 100], [97, 98]], seed=1, n=2, echo=True)
    assert [x.text[:2] for x in ids.choices] == [x.text[:2] for x in texts.choices]
    assert texts.usage.prompt_tokens == 6
    assert complete(client, "").usage.prompt_tokens == 0


def test_a_suffix_makes_it_infilling(client):
    answer = complete(client, "ab", suffix="!", seed=3)
    [expected] = drawn(Request.infill("ab", "!", seed=3))
    assert answer.choices[0].text == expected.generated[0]
    assert complete(client, "ab", suffix="!", seed=3, echo=True).choices[0].text == expected.text


def test_max_tokens_bounds_what_is_written_and_says_so(client):
    free = complete(client, "ab", n=6, seed=2)
    bound = max(len(x.text) for x in free.choices) - 1
    answer = complete(client, "ab", n=6, seed=2, max_tokens=bound)
    lengths = [len(x.text) for x in answer.choices]
    assert max(lengths) == bound
    for choice, length in zip(answer.choices, lengths, strict=True):
        assert choice.finish_reason == ("length" if length == bound else "stop")
    # A prompt that all but fills the buffer leaves the rest no room.
    full = complete(client, "x" * (served.LENGTH - 2), n=6, seed=2)
    assert "length" in [x.finish_reason for x in full.choices]


def test_without_a_seed_there_is_a_new_one_that_is_told(client):
    first, second = (complete(client, "ab", n=4) for _ in range(2))
    assert [x.text for x in first.choices] != [x.text for x in second.choices]
    seeds = {sample["seed"] for sample in first.flexmdm["samples"]}
    assert len(seeds) == 1
    again = complete(client, "ab", n=4, seed=seeds.pop())
    assert [x.text for x in again.choices] == [x.text for x in first.choices]


NEUTRAL = {
    "best_of": 1,
    "stop": [],
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "logprobs": None,
    "user": "me",
    "suffix": None,
}


def test_what_says_nothing_is_taken(client):
    expected = complete(client, "ab", seed=1).choices[0].text
    assert complete(client, "ab", seed=1, **NEUTRAL).choices[0].text == expected


WRONG = {
    "best_of": (3, "best_of is not served"),
    "stop": (["."], "stop is not served"),
    "logit_bias": ({"50": 1}, "logit_bias is not served"),
    "presence_penalty": (0.5, "presence_penalty is not served"),
    "frequency_penalty": (-1, "frequency_penalty is not served"),
    "logprobs": (0, "logprobs is not served"),
    "max_tokens": (0, "max_tokens = 0; it must be an integer of at least 1"),
    "n": (7, "n: that makes 7 samples, and at most 6 are served at a time"),
    "seed": (-1, r"seed = -1; it must lie in \[0, 4294967295\]"),
    "temperature": (-0.5, "temperature = -0.5; it must be at least 0"),
    "top_p": (0, "top_p = 0.0; it must lie in"),
    "prompt": ("x" * 40, "40 given tokens leave no room"),
    "sampler": ("exakt", "unknown sampler 'exakt'; did you mean 'exact'?"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_served_is_named(client, name):
    value, message = WRONG[name]
    with pytest.raises(openai.BadRequestError, match=message) as error:
        complete(client, **{name: value})
    assert error.value.body["type"] == "invalid_request_error"
    first = message.partition(" ")[0].strip(":")
    assert error.value.param == (first if first == name else None)


def test_the_model_has_a_name(client):
    [model] = client.models.list().data
    assert (model.id, model.object) == (served.NAME, "model")
    assert client.models.retrieve(served.NAME).id == served.NAME
    for ask in (lambda: complete(client, model="gpt"), lambda: client.models.retrieve("gpt")):
        with pytest.raises(openai.NotFoundError, match=f"it is called '{served.NAME}'") as error:
            ask()
        assert error.value.code == "model_not_found"


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_shows_every_call_and_then_the_text(client, n):
    options = {"n": n, "seed": 5, "sampler": "exact"}
    plain = complete(client, "ab", **options)
    chunks = list(complete(client, "ab", stream=True, **options))
    texts, frames, reasons = [""] * n, [[] for _ in range(n)], {}
    for chunk in chunks:
        [choice] = chunk.choices
        texts[choice.index] += choice.text
        change = getattr(chunk, "flexmdm", None)
        if change and "frame" in change:
            assert choice.text == ""
            assert choice.finish_reason is None
            own = frames[choice.index]
            own.append((frame_from_json(change["frame"], own[-1][0] if own else None), change))
        else:
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in plain.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in plain.choices}
    for own, sample in zip(frames, plain.flexmdm["samples"], strict=True):
        first, last = own[0][0], own[-1][0]
        assert first.tokens == (97, 98)
        assert last.tokens == tuple(sample["tokens"])
        assert (last.time, last.call) == (1, sample["calls"])
        frames_alone = [frame for frame, _ in own[:-1]]
        assert all(a.tokens != b.tokens for a, b in itertools.pairwise(frames_alone))
        for frame, change in own:
            assert len(change["text"]) == len(frame.tokens)
            assert change["text"].count("░") == frame.tokens.count(MASK)
    # Pieces come once, before they are needed, and with the last text all that a replay takes.
    pieces = [x for chunk in chunks for x in (getattr(chunk, "flexmdm", {}).get("pieces") or {})]
    assert len(pieces) == len(set(pieces))
    assert chunks[-1].flexmdm == plain.flexmdm
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_ends_with_the_count_of_tokens_if_that_is_wanted(client):
    plain = complete(client, "ab", seed=1)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = complete(client, "ab", seed=1, **options)
    assert last.choices == []
    assert last.usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks)
    with pytest.raises(openai.BadRequestError, match="stream_options are for streams"):
        complete(client, "ab", stream_options={"include_usage": True})
