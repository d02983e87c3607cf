"""The compiler's optimized program, read from its text: computations, instructions, loops.

The grammar is that of XLA's HLO text, https://openxla.org/xla/operation_semantics.
"""

import dataclasses
import functools
import math
import re

_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_NAMES = re.compile(r"%([\w.\-]+)")
# What hands a number on as it is.
_TRANSPARENT = frozenset({"copy", "bitcast", "convert", "copy-start", "copy-done", "reshape"})


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array's type."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Returns the number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Returns its size in memory, without padding."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            bits = int(re.sub(r"\D*(\d+).*", r"\1", self.dtype))
        return self.size * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: Of its result.
      opcode: What is done.
      shapes: Of the result; several for a tuple.
      operands: Names.
      arguments: The text between the parentheses.
      attributes: The text behind them.
      root: Whether it is the computation's result.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """Returns an attribute's value: what is in its braces, or the word after `name=`."""
        match = re.search(rf"(?:^|[ ,]){name}=(\{{[^}}]*\}}|[^ ,]+)", self.attributes)
        return match and match[1].strip("{}").lstrip("%")

    def calls(self, name: str) -> tuple[str, ...]:
        """Returns the computations an attribute names."""
        value = self.attribute(name)
        return tuple(part.strip().lstrip("%") for part in value.split(",")) if value else ()


@dataclasses.dataclass(frozen=True)
class Computation:
    """A function of the program: its instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """Returns the instruction whose result is the computation's."""
        return next(x for x in self.instructions.values() if x.root)

    def operand_shapes(self, instruction: Instruction) -> list[Shape]:
        """Returns the types of an instruction's operands, those of tuples one after the other."""
        return [s for name in instruction.operands for s in self.instructions[name].shapes]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled module."""

    entry: str
    computations: dict[str, Computation]


def parse_program(text: str) -> Program:
    """Returns the program that compiled.as_text() prints."""
    computations, entry, name = {}, None, None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, lines = header[2], {}
            entry = name if header[1] else entry
        elif line.startswith("}"):
            if name:
                computations[name] = Computation(name, lines)
            name = None
        elif name and (match := _INSTRUCTION.match(line)):
            lines[match[2]] = _instruction(bool(match[1]), match[2], match[3])
    return Program(entry, computations)


def _instruction(root: bool, name: str, rest: str) -> Instruction:
    # Types of arrays hold no spaces; those of tuples are in parentheses.
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shapes = tuple(
        Shape(kind, tuple(int(n) for n in dims.split(",") if n))
        for kind, dims in _SHAPE.findall(rest[:end])
    )
    opcode, _, tail = rest[end:].lstrip(" ").partition("(")
    close = _closing("(" + tail, 0)
    arguments, attributes = tail[: close - 2], tail[close - 1 :]
    operands = () if opcode in ("constant", "parameter") else tuple(_NAMES.findall(arguments))
    return Instruction(name, opcode, shapes, operands, arguments, attributes, root)


def _closing(text: str, start: int) -> int:
    """Returns the index behind the parenthesis that closes the one at start."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.end()
    raise ValueError(f"unbalanced parentheses: {text[:100]}")


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int:
    """Returns how often a loop's body runs.

    The compiler says so, or it follows from the condition `counter < limit`, the counter's first
    value and what the body adds to it.

    Raises:
      ValueError: If neither is there to read.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if known:
        return int(known[1])
    condition = program.computations[loop.calls("condition")[0]]
    body = program.computations[loop.calls("body")[0]]
    start = computation.instructions[loop.operands[0]]
    try:
        counter, limit, inclusive = _bound(program, condition)
        first = _number_at(computation, start, counter)
        try:
            last = _number(condition, limit)
        except ValueError:
            last = _number_at(computation, start, _element(condition, limit))
        step = _step(program, body, counter)
        return max(0, -(-(last - first + inclusive) // step))
    except (LookupError, ValueError, TypeError) as error:
        raise ValueError(f"the number of turns of loop {loop.name} is not known: {error}") from None


def _number(computation: Computation, instruction: Instruction) -> int:
    """Returns the constant behind an instruction."""
    while instruction.opcode in _TRANSPARENT:
        instruction = computation.instructions[instruction.operands[0]]
    if instruction.opcode != "constant":
        raise ValueError(f"{instruction.name} is no constant")
    return int(instruction.arguments)


def _number_at(computation: Computation, start: Instruction, index: int) -> int:
    """Returns the constant behind an element of the state that a loop starts with."""
    return _number(computation, computation.instructions[start.operands[index]])


def _element(computation: Computation, instruction: Instruction) -> int:
    """Returns which element of the loop's state an instruction hands on."""
    while instruction.opcode in _TRANSPARENT:
        instruction = computation.instructions[instruction.operands[0]]
    if instruction.opcode != "get-tuple-element":
        raise ValueError(f"{instruction.name} is no part of the loop's state")
    return int(instruction.attribute("index"))


def _bound(program: Program, condition: Computation) -> tuple[int, Instruction, bool]:
    """Returns (which element counts, what its limit is, whether the limit is reached too)."""
    compare, scope, outer = _inlined(program, condition, condition.root)
    direction = compare.attribute("direction")
    if direction not in ("LT", "LE"):
        raise ValueError(f"{compare.name} compares by {direction}")
    left, right = (outer(scope.instructions[name]) for name in compare.operands)
    return _element(condition, left), right, direction == "LE"


def _inlined(program: Program, computation: Computation, root: Instruction):
    """Returns (instruction, its computation, operand -> outer instruction), within a fusion too."""
    while root.opcode in _TRANSPARENT:
        root = computation.instructions[root.operands[0]]
    if root.opcode != "fusion":
        return root, computation, lambda x: x
    inner = program.computations[root.calls("calls")[0]]

    def outer(x: Instruction) -> Instruction:
        while x.opcode in _TRANSPARENT:
            x = inner.instructions[x.operands[0]]
        if x.opcode != "parameter":
            return x
        return computation.instructions[root.operands[int(x.arguments)]]

    return inner.root, inner, outer


def _step(program: Program, body: Computation, counter: int) -> int:
    """Returns what the body adds to the counter."""
    update = body.instructions[body.root.operands[counter]]
    add, scope, outer = _inlined(program, body, update)
    if add.opcode != "add":
        raise ValueError(f"{add.name} does not add")
    for operand in (outer(scope.instructions[name]) for name in add.operands):
        try:
            return _number(body, operand)
        except ValueError:
            continue
    raise ValueError(f"{add.name} adds no constant")
