"""Values between the process of a test and that of a program: plain ones, as JSON.

    (1, {"a": {2.5}}, None)  <->  {"tuple": [1, {"dict": [["a", {"set": [2.5]}]]}, null]}

Unlike pickle and marshal, nothing that arrives can run or become an object with an opinion of its
own on what it equals: this is why a program cannot answer with one that equals everything.
"""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

# What kind a value becomes: the first that it is an instance of. Subclasses (Counter, IntEnum,
# named tuples) arrive as what they extend, with which they compare alike, whatever they make of
# themselves as a text or a number: str() of an Enum of texts is its name.
_SCALARS = {str: str.__str__, int: int.__int__, float: float.__float__}
_CONTAINERS = (tuple, list, set, frozenset)
_TEXTUAL = ("Decimal", "Fraction")
LONGEST = 16 << 20


def _fraction(text: str) -> Any:
    from fractions import Fraction

    return Fraction(text)


def _decimal(text: str) -> Any:
    from decimal import Decimal

    return Decimal(text)


_MAKERS: dict[str, Callable[[Any], Any]] = {
    **{kind.__name__: kind for kind in _CONTAINERS},
    "dict": dict,
    "iterator": iter,
    "complex": lambda parts: complex(*parts),
}
_TEXT_MAKERS = {"bytes": bytes.fromhex, "Decimal": _decimal, "Fraction": _fraction}


def to_wire(value: Any) -> Any:
    """Returns what JSON can hold of a value; other iterables arrive as an iterator.

    Raises:
      TypeError: If it is neither plain nor iterable.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind, plain in _SCALARS.items():
        if isinstance(value, kind):
            return plain(value)
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, dict):
        return {"dict": [[to_wire(key), to_wire(x)] for key, x in value.items()]}
    for kind in _CONTAINERS:
        if isinstance(value, kind):
            return {kind.__name__: [to_wire(x) for x in value]}
    if type(value).__name__ in _TEXTUAL:
        return {type(value).__name__: str(value)}
    if isinstance(value, Iterable):
        return {"iterator": [to_wire(x) for x in value]}
    raise TypeError(f"{type(value).__name__} is no plain value and cannot leave its process")


def from_wire(value: Any) -> Any:
    """Returns the value.

    Raises:
      ValueError: If it is none of to_wire()'s.
      TypeError: If a set or a key holds what cannot be hashed.
    """
    if isinstance(value, list) or (isinstance(value, dict) and len(value) != 1):
        raise ValueError("not a value")
    if not isinstance(value, dict):
        return value
    [(kind, held)] = value.items()
    if kind in _TEXT_MAKERS and isinstance(held, str):
        return _TEXT_MAKERS[kind](held)
    if kind not in _MAKERS or not isinstance(held, list):
        raise ValueError("not a value")
    if kind == "dict":
        return {from_wire(key): from_wire(x) for key, x in held}
    return _MAKERS[kind]([from_wire(x) for x in held])


def write(file: Any, message: Any) -> None:
    """Writes a message as a line."""
    file.write(json.dumps(message).encode() + b"\n")
    file.flush()


def read(file: Any) -> Any:
    """Returns the next message, or None at the end.

    Raises:
      ValueError: If it is no JSON, or longer than LONGEST bytes.
      RecursionError: If it is nested too deeply.
    """
    line = file.readline(LONGEST)
    if line and not line.endswith(b"\n"):
        raise ValueError(f"an answer without an end within {LONGEST >> 20} MiB")
    return json.loads(line) if line else None


def allow_long_numbers() -> None:
    """Lets integers of any length be written and read, as between two functions of one process."""
    sys.set_int_max_str_digits(0)
