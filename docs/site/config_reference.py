"""Every field of a config as a Markdown page: python -m docs.site.config_reference.

Names, kinds of numbers and defaults are those of the dataclasses in flexmdm_jax/config.py, and what
is said of a field is the comment that stands behind it there, or before it.
"""

import ast
import dataclasses
import inspect
import io
import pathlib
import tokenize
import typing
from collections.abc import Iterator
from typing import Any, Literal

from flexmdm_jax import config
from flexmdm_jax.files import write_atomically
from flexmdm_jax.ranges import range_of

PAGE = pathlib.Path(__file__).parents[1] / "config_reference.md"
_HEAD = """\
# Every field of a config

Made by `make docs` from the dataclasses in [flexmdm_jax/config.py](../flexmdm_jax/config.py), which
check what a config says. Any field can be set on the command line, `--config.model.num_layers=4`;
[Write your own config](config.md) begins with the few that matter. A field without a default must
be given. Those with ↻ may change when a run is taken up again.
"""


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config, as the page says it.

    Attributes:
      path: Behind `config.`, as `model.llada.lora.rank`.
      kind: What values it takes.
      default: As Python writes it; empty if it must be given.
      comment: What it is.
    """

    path: str
    kind: str
    default: str
    comment: str


def fields(kind: type = config.Config, prefix: str = "") -> dict[str, list[Field]]:
    """Returns the fields of a dataclass and of those inside it, by the path of their group."""
    hints = typing.get_type_hints(kind, include_extras=True)
    says = comments_in(inspect.getsource(kind))
    own: list[Field] = []
    found = {prefix.rstrip("."): own}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found |= fields(hint, f"{prefix}{field.name}.")
        else:
            path = prefix + field.name
            own.append(Field(path, _kind(hint), _default(field), says.get(field.name, "")))
    return found


def comments_in(source: str) -> dict[str, str]:
    """Returns what comments say of the fields of a dataclass, by their names.

    A comment belongs to the field before it on its line, or else to the next one.

    Args:
      source: Of the class.
    """
    lines = {
        token.start[0]: token.string.removeprefix("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    [tree] = ast.parse(source).body
    found = {}
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign):
            continue
        first = node.lineno
        while first - 1 in lines and source.splitlines()[first - 2].lstrip().startswith("#"):
            first -= 1
        spoken = [lines[n] for n in range(first, node.end_lineno + 1) if n in lines]
        found[node.target.id] = " ".join(spoken)
    return found


def _kind(hint: Any) -> str:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if bounds := range_of(hint):
        number = "whole number" if hint.__origin__ is int else "number"
        return f"{number}, {bounds}"
    if origin is Literal:
        return ", ".join(f"`{choice!r}`" for choice in inside).replace("'", '"')
    if origin is dict:
        return f"by name: {_kind(inside[1])}"
    if origin is tuple:
        return f"several: {_kind(inside[0])}"
    return {str: "text", bool: "true or false"}[hint]


def _default(field: dataclasses.Field) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return "" if value is dataclasses.MISSING else repr(value).replace("'", '"')


def page() -> str:
    """Returns the page."""
    return "".join([_HEAD, *_groups()])


def _groups() -> Iterator[str]:
    kinds = {"": config.Config} | _kinds(config.Config)
    for group, found in fields().items():
        title = f"config.{group}".rstrip(".")
        yield f"\n## {title}\n\n{inspect.getdoc(kinds[group])}\n\n"
        yield "| field | | unless told | |\n| --- | --- | --- | --- |\n"
        for field in found:
            name = field.path.removeprefix(f"{group}.")
            resumes = " ↻" if field.path in config.CHANGEABLE else ""
            default = f"`{field.default}`" if field.default else ""
            yield f"| `{name}`{resumes} | {field.kind} | {default} | {field.comment} |\n"


def _kinds(kind: type, prefix: str = "") -> dict[str, type]:
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= {prefix + name: hint} | _kinds(hint, f"{prefix}{name}.")
    return found


if __name__ == "__main__":
    write_atomically(PAGE, page().encode())
