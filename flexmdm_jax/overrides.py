"""The fields that --config.path=value sets: their types, and room for them in a config file's."""

import dataclasses
import keyword
import re
import typing
from collections.abc import Collection, Sequence
from typing import Any, Literal

from absl import flags
from ml_collections import ConfigDict

from flexmdm_jax.config import Config
from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import check_group, nearest


def overridden_paths(argv: Sequence[str]) -> list[str]:
    """Returns the paths, as `model.hidden_size`, of the fields that a command line sets.

    Raises:
      UserError: If a --flagfile on it cannot be read.
    """
    try:
        argv = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
    except (flags.Error, UnicodeDecodeError) as error:
        cause = error.__context__
        if isinstance(cause, OSError):
            raise UserError(f"--flagfile={cause.filename}: {cause.strerror}") from None
        raise UserError(f"--flagfile: {error}; it must be text, a flag a line") from None
    found = (re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in argv)
    return [match[1] for match in found if match]


def check_overrides(paths: Collection[str]) -> None:
    """Raises UserError unless every path names a field, and none a field within another's."""
    for path in paths:
        field_type(path)
        for group in paths:
            if path.startswith(f"{group}."):
                raise UserError(f"--config.{group} replaces --config.{path}; give one of the two")


def field_type(path: str) -> Any:
    """Returns the type of the field that a path such as `model.hidden_size` names.

    Raises:
      UserError: If there is none (naming the nearest one), or none that a flag can set.
    """
    kind, known = Config, "config"
    for name in path.split("."):
        if typing.get_origin(kind) is dict:
            _check_key(name, known)
            kind = typing.get_args(kind)[1]
        else:
            types = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
            if name not in types:
                raise UserError(f"unknown config field {known}.{name}{nearest(name, types)}")
            kind = types[name]
        known = f"{known}.{name}"
    return kind


def _check_key(name: str, group: str) -> None:
    # config_flags reads a path as Python does, and finds a ConfigDict's methods before its keys.
    taken = name.startswith("_") or keyword.iskeyword(name) or hasattr(ConfigDict, name)
    if taken or not name.isidentifier():
        raise UserError(
            f"{group}: {name!r} cannot be set by itself; set the whole, as in "
            f'--{group}="{{{name!r}: …}}"'
        )


def make_room(values: Any, path: str) -> None:
    """Puts an empty value where a config file's values have none, or one of another type.

    config_flags sets fields that are there, and reads their texts as what is there. An int may
    stand where the field is a float.

    Raises:
      UserError: If the values, or what should be a group of them, are none.
    """
    _put(values, path.split("."), _empty(field_type(path)), "config")


def _put(values: Any, names: Sequence[str], empty: Any, known: str) -> None:
    check_group(values, known)
    name, *rest = names
    if rest:
        if name not in values:
            values[name] = ConfigDict()
        _put(values[name], rest, empty, f"{known}.{name}")
        return
    # A ConfigDict keeps the type of a field that it has.
    if name in values and type(values[name]) is not type(empty):
        del values[name]
    if name not in values:
        values[name] = empty


def _empty(kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) or origin is dict:
        return ConfigDict()
    if origin is Literal:
        return type(typing.get_args(kind)[0])()
    return (origin or kind)()
