"""Frozen dataclasses read from nested dicts or short texts; what does not fit gets one line."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from flexmdm_jax.errors import UserError


def read_fields(kind: type, values: Any, path: str) -> Any:
    """Returns a dataclass, its fields read from a dict; dataclasses inside it likewise.

    Args:
      kind: The dataclass; its own checks raise ValueError.
      values: Its fields by name: a dict or a ConfigDict.
      path: What messages call it.

    Raises:
      UserError: Naming the field that is unknown (and the nearest known one), missing, of the
        wrong type or out of range.
    """
    check_group(values, path)
    types = typing.get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        if name not in types:
            raise UserError(f"unknown config field {path}.{name}{nearest(name, types)}")
        arguments[name] = _convert(types[name], value, f"{path}.{name}")
    for name in _required(kind):
        if name not in arguments:
            raise UserError(f"config field {path}.{name} is missing")
    try:
        return kind(**arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def check_group(values: Any, path: str) -> None:
    """Raises UserError unless values are fields by name: a dict or a ConfigDict."""
    # A ConfigDict has items but is no Mapping.
    if not hasattr(values, "items"):
        raise UserError(f"{path} = {values!r}: expected a group of fields")


def _convert(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return read_fields(kind, value, path)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise UserError(f"{path} = {value!r}{nearest(str(value), typing.get_args(kind))}")
        return value
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(typing.get_args(kind)[0], item, path) for item in value)
    if typing.get_origin(kind) is dict and hasattr(value, "items"):
        kind = typing.get_args(kind)[1]
        return {name: _convert(kind, item, f"{path}.{name}") for name, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{path} = {value!r}: expected {getattr(kind, '__name__', kind)}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{path} = {value!r}: expected a finite number")
    return value


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dataclasses by their paths, as `model.hidden_size`."""
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def parse_strategy(text: str, kinds: Mapping[str, type], what: str) -> Any:
    """Returns the strategy written as `kind` or `kind:name=value,name=value`.

    A value that is text, a path, may hold commas; what follows one must not look like `name=`.

    Args:
      text: For example `polynomial:power=3`.
      kinds: Frozen dataclasses by name.
      what: The word for them in messages.

    Raises:
      UserError: If the kind or an argument is unknown, missing or given twice, or a value does not
        fit.
    """
    name, _, rest = text.partition(":")
    if name not in kinds:
        raise UserError(f"unknown {what} {name!r}{nearest(name, kinds)}")
    values = {}
    types = typing.get_type_hints(kinds[name])
    fields = {field.name: types[field.name] for field in dataclasses.fields(kinds[name])}
    for part in _arguments(rest, fields):
        key, _, value = part.partition("=")
        if key not in fields:
            raise UserError(f"{what} {name!r} has no argument {key!r}{nearest(key, fields)}")
        if key in values:
            raise UserError(f"{what} {text!r}: {key} is given twice; leave one out")
        try:
            values[key] = fields[key](value)
            if fields[key] is float and not math.isfinite(values[key]):
                raise ValueError
        except ValueError:
            raise UserError(f"{what} {text!r}: {value!r} is no {fields[key].__name__}") from None
    if missing := [key for key in _required(kinds[name]) if key not in values]:
        arguments = ",".join(f"{key}=…" for key in missing)
        raise UserError(f"{what} {text!r} needs {', '.join(missing)}: {name}:{arguments}")
    try:
        return kinds[name](**values)
    except ValueError as error:
        raise UserError(f"{what} {text!r}: {error}") from None


def _arguments(rest: str, fields: Mapping[str, type]) -> list[str]:
    """Returns the parts `name=value` of a text; a comma may belong to a value that is text."""
    parts = []
    for part in rest.split(","):
        if parts and "=" not in part and fields.get(parts[-1].partition("=")[0]) is str:
            parts[-1] += f",{part}"
        elif part:
            parts.append(part)
    return parts


def _required(kind: type) -> list[str]:
    """Returns the fields of a dataclass that have no default."""
    nothing = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    return [x.name for x in fields if x.default is nothing and x.default_factory is nothing]


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; choose one of {', '.join(known)}" if known else "; it has no fields"
