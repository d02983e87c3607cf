"""The API pages: what docs/api/ lists by name, written out from docstrings."""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

_ENTRY = re.compile(r"^\* \[`(flexmdm_jax[\w.]*)`\]\(\S+?\)(?:: .*(?:\n  .*)*)?$", re.MULTILINE)


def entries(page: str) -> list[str]:
    """Returns the dotted names that a page lists: of modules, classes and functions."""
    return [match[1] for match in _ENTRY.finditer(page)]


def resolve(name: str) -> Any:
    """Returns the module, class or function of a dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        parent, _, last = name.rpartition(".")
        return getattr(resolve(parent), last)


def public_names(module: Any) -> Iterator[tuple[str, Any]]:
    """Yields (name, object) of a module's classes and functions that are meant for others.

    These are what `__all__` names; of a module without it, what it defines itself.
    """
    listed = getattr(module, "__all__", None)
    for name, found in vars(module).items():
        own = getattr(found, "__module__", None) == module.__name__ and not name.startswith("_")
        public = name in listed if listed is not None else own
        if public and (inspect.isclass(found) or inspect.isfunction(found)):
            yield name, found


def expanded(page: str) -> str:
    """Returns a page with each name that it lists followed by its documentation, as MyST."""
    return _ENTRY.sub(lambda match: _documentation(match[1]), page)


def _documentation(name: str) -> str:
    found = resolve(name)
    directive = "autoclass" if inspect.isclass(found) else "autofunction"
    options = ""
    if inspect.ismodule(found):
        directive = "automodule"
        options = "   :imported-members:\n" if hasattr(found, "__all__") else ""
    return f"\n## `{name}`\n\n```{{eval-rst}}\n.. {directive}:: {name}\n{options}```\n"


def written(signature: str | None) -> str | None:
    """Returns a signature with array types as the source writes them."""
    if signature is None:
        return None
    short = re.sub(r"jaxlib\._jax\.|jaxtyping\.|\bnumpy\.(?=ndarray)", "", signature)
    return re.sub(r"(\w+)\[Array, ('[^']*')\] \| \1\[ndarray, \2\]", r"\1[HostOrDevice, \2]", short)


_MARKUP = re.compile(r"([*|\\]|_\b)")


def restructured(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring as reStructuredText.

    Docstrings here have one kind of markup, `code`. Stars, bars and trailing underscores mean
    themselves, and would not there.
    """
    return ["`".join(_escaped(line.split("`"))) for line in lines]


def _escaped(parts: list[str]) -> list[str]:
    """Returns the parts between back quotes, those that are not code with markup escaped."""
    bullet = re.match(r"\s*\* ", parts[0])
    first = bullet[0] if bullet else ""
    rest = [parts[0][len(first) :], *parts[1:]]
    rest[::2] = [_MARKUP.sub(r"\\\1", part) for part in rest[::2]]
    return [first + rest[0], *rest[1:]]
