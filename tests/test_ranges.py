"""Every number that a user can set has a range: fields, settings of samplers, flags."""

import copy
import dataclasses
import re
import runpy
import typing

import pytest
import tiny
from absl import flags

from flexmdm_jax.config import Config, read_config
from flexmdm_jax.data.sources.corpora import parse_source
from flexmdm_jax.data.sources.documents import find_files
from flexmdm_jax.data.tasks import TASKS
from flexmdm_jax.data.tokenizers import make_tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import check_local
from flexmdm_jax.ranges import Count, Length, Positive, Ranged, Share, ShareBelowOne, range_of
from flexmdm_jax.sampling import CORRECTORS, INSERTION_RULES, RULES, SamplerConfig
from flexmdm_jax.schedules import SCHEDULES

NAN, INFINITY = float("nan"), float("inf")
WRONG = {
    int: (-(2**63), 2**63, 10**400),
    float: (NAN, INFINITY, -INFINITY, -1e300, 1e300),
}
COMMANDS = ("prepare", "train", "sample", "evaluate", "convert", "aot")


def numbers_of(kind):
    """Returns the types of the numbers that a field holds, alone or in a dict or a tuple."""
    if typing.get_origin(kind) is typing.Annotated:
        return numbers_of(kind.__origin__)
    if kind in WRONG:
        return {kind}
    if typing.get_origin(kind) in (dict, tuple):
        return set().union(*(numbers_of(inner) for inner in typing.get_args(kind)))
    return set()


def put(kind, number):
    """Returns the value of a field of this kind that holds the number."""
    origin = typing.get_origin(kind)
    return {"a": number} if origin is dict else (number,) if origin is tuple else number


def leaves(kind, prefix=""):
    """Yields (path, type) of the fields of nested dataclasses."""
    for name, inner in typing.get_type_hints(kind, include_extras=True).items():
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, inner


def numbers_in(kind):
    """Returns [(path, type)] of the fields that hold numbers."""
    return [pytest.param(*leaf, id=leaf[0]) for leaf in leaves(kind) if numbers_of(leaf[1])]


def wrong_values(kind):
    """Returns values of a field of this kind, each with a number that lies in no range."""
    return [put(kind, wrong) for number in numbers_of(kind) for wrong in WRONG[number]]


@pytest.mark.parametrize(("path", "kind"), numbers_in(Config))
def test_every_number_of_a_config_has_a_range(path, kind):
    *groups, name = path.split(".")
    for value in wrong_values(kind):
        values = copy.deepcopy(tiny.config_at("nowhere"))
        group = values
        for part in groups:
            group = group.setdefault(part, {})
        group[name] = value
        with pytest.raises(UserError, match=rf"^config.*\b{name}\b") as raised:
            read_config(values)
        assert "\n" not in str(raised.value)


# What a user writes as text, or passes to the library.
STRATEGIES = [
    *(SamplerConfig, *RULES.values(), *INSERTION_RULES.values()),
    *(*CORRECTORS.values(), *SCHEDULES.values()),
    *TASKS.values(),
]


@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
def test_every_number_of_a_strategy_has_a_range(kind):
    for path, inner in leaves(kind):
        for value in wrong_values(inner):
            with pytest.raises(ValueError, match=rf"^(each of )?{path} = .*; it must"):
                kind(**_needed(kind) | {path: value})


def _needed(kind):
    """Returns the fields without a default: a file, a folder."""
    fields = [x for x in dataclasses.fields(kind) if x.default is dataclasses.MISSING]
    return {x.name: "nowhere" for x in fields if x.default_factory is dataclasses.MISSING}


@pytest.fixture(scope="module")
def flags_of():
    """The flags that each command defines, by command."""
    found = {}
    for command in COMMANDS:
        # Not imported, and not left behind: the commands' flags have the same names.
        runpy.run_module(f"flexmdm_jax.{command}", run_name=command, alter_sys=True)
        modules = flags.FLAGS.flags_by_module_dict()
        # What options.py defines for a command seems to come from the checks of types.
        found[command] = modules[command] + modules.get("jaxtyping._decorator", [])
        for flag in found[command]:
            delattr(flags.FLAGS, flag.name)
    return found


def is_number(flag):
    return flag.flag_type().split()[-1] in ("int", "float")


# Their default says that they are not given.
MAY_BE_MINUS_ONE = {"process_id"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_that_is_a_number_has_a_range(flags_of, command):
    wrong = ("nan", "inf", "-inf", "-1e300", "1e300", str(2**63), str(-(2**63)))
    numbers = [flag for flag in flags_of[command] if is_number(flag)]
    assert numbers
    for flag in numbers:
        texts = wrong if flag.name in MAY_BE_MINUS_ONE else (*wrong, "-1")
        for text in texts:
            with pytest.raises(flags.IllegalFlagValueError) as raised:
                flag.parse(text)
            assert str(raised.value).startswith(f"flag --{flag.name}={text}: ")
            assert "\n" not in str(raised.value)


# Flags that hold texts which are no paths, or hold paths in them that their readers check.
TEXTS = {
    *("source", "tokenizer", "split", "runner", "beam_option", "config", "profile", "coordinator"),
    *("compilation_cache", "prefix", "suffix", "rule", "insertions", "grid", "topology"),
    *("programs", "sampler", "corrector", "template", "gap_mark", "mask", "mesh"),
    "allow_missing",
    "metrics",
}
ADDRESSES = ("gs://bucket/x", "s3://b", "https://host/a")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_that_is_a_path_refuses_an_address(flags_of, command):
    rest = [x for x in flags_of[command] if not is_number(x) and "bool" not in x.flag_type()]
    for flag in rest:
        if flag.name in TEXTS:
            continue
        for address in ADDRESSES:
            with pytest.raises(flags.IllegalFlagValueError, match="an address, not a path; mount"):
                flag.parse(address)
        flag.parse("folder/a:b//c")


@pytest.mark.parametrize("text", ["~", "~/runs/x"])
def test_homes_that_the_shell_has_left_are_refused(text):
    with pytest.raises(UserError, match=r"the shell leaves this ~ as it is; write \$HOME"):
        check_local(text)
    assert check_local("a~/b") == "a~/b"


@pytest.mark.parametrize("path", ["data.path", "data.sets", "model.llada.base", "training.start"])
def test_every_path_of_a_config_refuses_an_address(path):
    values = tiny.config_at("data")
    *groups, name = path.split(".")
    group = values
    for part in groups:
        group = group.setdefault(part, {})
    group[name] = {"a": "gs://bucket/x"} if name == "sets" else "gs://bucket/x"
    with pytest.raises(UserError, match="gs://bucket/x is an address, not a path"):
        read_config(values)


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet", "hf", "openwebtext"])
def test_sources_and_tokenizers_refuse_an_address(kind):
    with pytest.raises(UserError, match="an address, not a path"):
        parse_source(f"{kind}:gs://bucket/*")
    with pytest.raises(UserError, match="an address, not a path"):
        find_files("gs://bucket/*")
    with pytest.raises(UserError, match="an address, not a path"):
        make_tokenizer("sentencepiece:gs://bucket/model", ())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_the_range(flags_of, command):
    for flag in flags_of[command]:
        if is_number(flag):
            assert re.search(
                ", (in .*[])]|at least -?[0-9]+|positive)$", flag.parser.syntactic_help
            ), flag


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Count, (1, 2**31 - 1), {0: "must be at least 1", 2**31: "must be at most 2147483647"}),
        (Length, (2,), {1: "must be at least 2"}),
        (Positive, (1e-30, 1e12), {0: "must be positive", 1e13: "must be at most 1e+12"}),
        (Share, (0, 0.5, 1), {-0.1: "must lie in [0, 1]", 1.1: "must lie in [0, 1]"}),
        (ShareBelowOne, (0, 0.999), {1: "must lie in [0, 1)", NAN: "must be a finite number"}),
    ],
)
def test_a_range_says_what_is_outside(kind, inside, outside):
    bounds = range_of(kind)
    assert [bounds.problem(number) for number in inside] == [None] * len(inside)
    assert {number: bounds.problem(number) for number in outside} == outside


def test_a_type_without_a_range_has_none():
    assert range_of(int) is None
    assert range_of(dict[str, Positive]) is None

    @dataclasses.dataclass
    class Sizes(Ranged):
        plain: int
        counts: dict[str, Count]

    assert Sizes(-1, {"a": 1}).plain == -1
    with pytest.raises(ValueError, match=r"^counts\.b = 0; it must be at least 1"):
        Sizes(1, {"a": 1, "b": 0})
