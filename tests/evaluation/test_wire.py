"""What two processes tell each other: plain values come back as they were, nothing else does."""

import collections
import decimal
import enum
import fractions
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexmdm_jax.evaluation.confinement import seccomp, wire

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False)
)
_KEYS = st.recursive(_SCALARS, lambda x: st.tuples(x, x) | st.frozensets(x), max_leaves=5)
_VALUES = st.recursive(
    _KEYS,
    lambda x: st.lists(x) | st.dictionaries(_KEYS, x) | st.sets(_KEYS) | st.tuples(x, x),
    max_leaves=10,
)


def crossed(value):
    return wire.from_wire(json.loads(json.dumps(wire.to_wire(value))))


def kinds(value):
    """Returns a value with the type of everything in it; sets by what they hold."""
    if isinstance(value, dict):
        return dict, [(kinds(key), kinds(x)) for key, x in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [kinds(x) for x in value]
    if isinstance(value, set | frozenset):
        return type(value), value
    return type(value), value


@given(_VALUES)
def test_plain_values_come_back_with_their_types(value):
    assert kinds(crossed(value)) == kinds(value)


def test_numbers_that_json_does_not_know():
    assert math.isnan(crossed(math.nan))
    assert crossed([math.inf, -math.inf]) == [math.inf, -math.inf]
    assert math.copysign(1, crossed(-0.0)) == -1
    assert crossed(decimal.Decimal("0.10")) == decimal.Decimal("0.1")
    assert crossed(fractions.Fraction(1, 3)) == fractions.Fraction(1, 3)


def test_subclasses_arrive_as_what_they_extend():
    number = enum.IntEnum("Number", "ONE TWO").TWO
    colour = enum.Enum("Colour", {"RED": "red"}, type=str).RED
    point = collections.namedtuple("Point", "x y")(1, 2)
    for value, plain in (
        (number, 2),
        (colour, "red"),
        (point, (1, 2)),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
    ):
        assert kinds(crossed(value)) == kinds(plain)


@pytest.mark.parametrize(
    "iterable",
    [range(3), (x for x in range(3)), map(abs, [0, -1, 2]), collections.deque([0, 1, 2])],
)
def test_other_iterables_arrive_as_iterators(iterable):
    arrived = crossed(iterable)
    assert arrived != [0, 1, 2]
    assert list(arrived) == [0, 1, 2]


@pytest.mark.parametrize("value", [object(), len, int, math, lambda: 0])
def test_objects_do_not_leave(value):
    with pytest.raises(TypeError, match="is no plain value"):
        wire.to_wire(value)


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "{}",
        '{"list": [], "tuple": []}',
        '{"code": []}',
        '{"list": 3}',
        '{"dict": [1]}',
        '{"set": [{"list": []}]}',
        '{"bytes": "xx"}',
        '{"complex": [1, 2, 3]}',
        '{"Fraction": "1/0"}',
        '{"Decimal": "x"}',
    ],
)
def test_what_is_no_value_raises(text):
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        wire.from_wire(json.loads(text))


def test_messages_are_lines_of_limited_length(monkeypatch):
    pipe = io.BytesIO()
    for message in ({"a": "x\ny"}, [1], None):
        wire.write(pipe, message)
    pipe.seek(0)
    assert [wire.read(pipe), wire.read(pipe), wire.read(pipe), wire.read(pipe)] == [
        {"a": "x\ny"},
        [1],
        None,
        None,
    ]
    monkeypatch.setattr(wire, "LONGEST", 4)
    with pytest.raises(ValueError, match="without an end"):
        wire.read(io.BytesIO(b"12345\n"))


ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def verdict_of(program, number, architecture):
    """Returns what the kernel would: the four instructions of its machine that a filter uses."""
    place, loaded = 0, None
    while True:
        code, if_true, if_false, operand = program[place]
        if code == 0x20:
            loaded = {0: number, 4: architecture}[operand]
        elif code == 0x06:
            return operand
        else:
            holds = loaded == operand if code == 0x15 else loaded >= operand
            assert code in (0x15, 0x35)
            place += if_true if holds else if_false
        place += 1


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_refuses_what_it_lists_and_nothing_else(machine):
    architecture, column = MACHINES[machine]
    program = seccomp.program(machine)
    listed = {row[column] for row in seccomp.REFUSED.values()} - {None}
    for number in range(500):
        expected = REFUSE if number in listed else ALLOW
        assert verdict_of(program, number, architecture) == expected
    # The same calls by other numbers, and those of 32-bit programs.
    assert verdict_of(program, 0x40000000 | 56, architecture) == REFUSE
    assert verdict_of(program, 1, 0x40000003) == KILL
    with pytest.raises(OSError, match="no numbers of system calls for riscv64"):
        seccomp.program("riscv64")
