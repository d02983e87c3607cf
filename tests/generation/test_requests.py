"""Requests: what JSON and Python say, and one line for everything that is wrong."""

import json

import pytest

from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.parsing import (
    SETTINGS,
    parse_json,
    parse_request,
    read_requests,
    request_json,
    sampler_of,
)
from flexmdm_jax.generation.requests import Failure, Request
from flexmdm_jax.sampling import Remask, SamplerConfig

REFUSED = {
    'not {"prompt"': ([1], "a request is an object such as"),
    "unknown": ({"promt": "a"}, "unknown field 'promt'; did you mean 'prompt'?"),
    "nothing": ({"n": 2}, "nothing is given"),
    "two ways": ({"prompt": "a", "suffix": "b"}, "prompt, suffix: say it in one way"),
    "number": ({"prompt": 3}, "prompt = 3; it must be a text or a list of token ids"),
    "mixed ids": ({"prompt": [1, "a"]}, "it must be a text or a list of token ids"),
    "true ids": ({"prompt": [True]}, "it must be a text or a list of token ids"),
    "null": ({"prefix": None}, "prefix = null"),
    "template": ({"template": 7}, "template = 7; it must be a text with <gap> in it"),
    "no gap": ({"template": "abc"}, "no <gap>"),
    "no gap in a list": ({"template": ["abc"]}, "there is no gap in it"),
    "two gaps": ({"template": ["a", None, "", None]}, "two gaps with nothing between them"),
    "id": ({"prompt": "", "id": 1.5}, "id = 1.5; it must be a text or an integer"),
    "seed": ({"prompt": "", "seed": -1}, "seed = -1; it must lie in [0, 4294967295]"),
    "seed, text": ({"prompt": "", "seed": "7"}, 'seed = "7"; it must be an integer'),
    "seed, null": ({"prompt": "", "seed": None}, "seed = null; it must be an integer"),
    "n": ({"prompt": "", "n": 0}, "n = 0; it must be at least 1"),
    "n, true": ({"prompt": "", "n": True}, "n = true; it must be an integer"),
    "temperature": ({"prompt": "", "temperature": -1}, "temperature = -1.0; it must be at least 0"),
    "temperature, text": ({"prompt": "", "temperature": "1"}, "temperature = "),
    "temperature, huge": ({"prompt": "", "temperature": 10**400}, "it must be a finite number"),
    "kappa": ({"prompt": "", "events_per_step": -0.5}, "events_per_step = -0.5; it must be"),
    "kappa, zero": ({"prompt": "", "events_per_step": 0}, "events_per_step = 0.0; it must be pos"),
    "sampler": ({"prompt": "", "sampler": "exakt"}, "unknown sampler 'exakt'; did you mean"),
    "steps": ({"prompt": "", "sampler": "exact", "steps": 4}, "takes no steps"),
    "lengths": ({"prompt": "", "min_length": 5, "max_length": 4}, "more than max_length = 4"),
    "length": ({"prompt": "", "length": 5, "max_length": 4}, "length says it all"),
    "rule": ({"prompt": "", "rule": "adaptive:confidense=margin"}, "did you mean 'confidence'?"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_gets_one_line(name):
    values, message = REFUSED[name]
    with pytest.raises(UserError) as error:
        parse_request(values, 1)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": "Once"}, 'parts = "Once"; it must be a tuple of texts and token ids'),
        ({"parts": (5,)}, "5 cannot be given; give a text or token ids"),
        ({"parts": (b"ab",)}, "cannot be given"),
        ({"parts": ((1.5,),)}, "cannot be given"),
        ({"parts": ("a",), "gaps": (2,)}, "gaps = (2,); they must ascend within 0 to 1 parts"),
        ({"parts": ("a",), "gaps": (-1,)}, "they must ascend"),
        ({"parts": ("a", "b"), "gaps": (2, 0)}, "they must ascend"),
        ({"sampler": "exact"}, 'sampler = "exact"; it must be a SamplerConfig'),
        ({"n": None}, "n = null; it must be an integer"),
    ],
)
def test_what_python_says_wrong_gets_one_line(values, message):
    with pytest.raises(UserError) as error:
        Request(**values)
    assert message in str(error.value)


def test_the_ways_of_saying_what_is_given():
    forms = {
        '{"prompt": "a"}': (("a",), (1,)),
        '{"prompt": ""}': ((), (0,)),
        '{"prompt": [1, 2]}': (((1, 2),), (1,)),
        '{"prefix": "a", "suffix": "b"}': (("a", "b"), (1,)),
        '{"suffix": "b"}': (("b",), (0,)),
        '{"prefix": "a"}': (("a",), (1,)),
        '{"template": "a<gap>b<gap>"}': (("a", "b"), (1, 2)),
        '{"template": [null, "a", [3], null]}': (("a", (3,)), (0, 2)),
    }
    for text, expected in forms.items():
        request = parse_request(json.loads(text), 7)
        assert (request.parts, request.gaps) == expected
        assert (request.id, request.seed, request.n) == (7, None, 1)
    assert Request.template("a[..]b", mark="[..]").parts == ("a", "b")


def test_a_request_can_be_written_down():
    settings = {"steps": 8, "temperature": 0.5, "corrector": "remask:size=0.2,every=0.5"}
    for values in (
        {"prompt": ""},
        {"prompt": [3, 4], "n": 2},
        {"suffix": "b\n"},
        {"template": [None, "<gap>", [3], None, "\\"], "id": "x"},
    ):
        request = parse_request(values | settings, 7).seeded(3)
        written = json.loads(json.dumps(request_json(request, settings)))
        assert parse_request(written, 8) == request


def test_what_is_deep_or_twice_there_is_refused_at_once():
    with pytest.raises(UserError, match="prompt = lists within lists; it must be a text"):
        parse_request(parse_json(b'{"prompt": %s%s}' % (b"[" * 700, b"]" * 700)), 0)
    # Looking for the name in quadratic time would take minutes.
    fields = ",".join(f'"{n}":0' for n in range(200_000))
    with pytest.raises(UserError, match="field '199999' is given twice"):
        parse_json(f'{{{fields},"199999":0}}'.encode())


def test_own_settings_take_the_place_of_the_commands():
    command = {"steps": 8, "temperature": 0.5, "max_length": 20, "corrector": "remask:size=0.2"}
    own = parse_request({"prompt": "", "sampler": "exact", "min_length": 3}, 0, command).sampler
    remask = Remask(size=0.2)
    assert own == SamplerConfig(exact=True, temperature=0.5, min_length=3, corrector=remask)
    assert sampler_of({"length": 4}, command).steps == 8
    assert sampler_of({"length": 4}) == SamplerConfig(min_length=4, max_length=4)
    assert sampler_of({"temperature": 0}) == SamplerConfig(temperature=0.0)


def test_every_setting_is_one_of_the_samplers():
    samples = {str: "", int: 0, float: 0.5}
    for name, kind in SETTINGS.items():
        assert sampler_of({name: samples[kind]}) is not None, name


def test_seeds_follow_from_what_is_given():
    asked = [Request.prompt(x) for x in ("a", "b", "a")] + [Request.infill("a", "b")]
    seeds = [request.seeded(1).seed for request in asked]
    assert seeds[0] == seeds[2]
    assert len(set(seeds)) == 3
    assert seeds[0] != Request.prompt("a").seeded(2).seed
    assert Request.prompt("a", seed=5).seeded(1).seed == 5


LINES = b"""\xef\xbb\xbf{"prompt": "a", "id": "first"}

{"prompt": "b"
{"id": "third", "n": 0, "prompt": ""}
\xff\xfe
{"prompt": "c", "prompt": "d"}
{"prompt": "e", "temperature": NaN}
[[[[
{"id": true, "prompt": "f"}
{"prompt": "last", "seed": 1}
"""


def test_a_file_of_requests_and_failures(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(LINES)
    first, *wrong, last = read_requests(path)
    assert (first.id, first.parts) == ("first", ("a",))
    assert (last.id, last.seed) == (10, 1)
    assert all(isinstance(x, Failure) for x in wrong)
    assert [x.id for x in wrong] == [3, "third", *range(5, 10)]
    assert [x.error.split(":")[0] for x in wrong] == [f"line {n}" for n in range(3, 10)]
    assert "given twice" in wrong[3].error
    assert "NaN is no number of JSON" in wrong[4].error
    with pytest.raises(UserError, match=r"r.jsonl, line 3: no JSON"):
        list(read_requests(path, strict=True))
    with pytest.raises(UserError, match="No such file"):
        list(read_requests(tmp_path / "none.jsonl"))
    deep = tmp_path / "deep.jsonl"
    deep.write_text('{"prompt": ' + "[" * 100_000 + "\n" + '{"prompt": [' + "9" * 5000 + "]}\n")
    assert all("no JSON" in x.error for x in read_requests(deep))
