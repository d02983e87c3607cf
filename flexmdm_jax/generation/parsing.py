"""Requests as JSON has them, and the settings of a sampler that they may name."""

import collections
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.fields import nearest
from flexmdm_jax.generation.requests import Failure, Part, Request, shown
from flexmdm_jax.generation.templates import MARK, parse_template
from flexmdm_jax.sampling import SamplerConfig, parse_sampler

# Settings of a sampler that a request may have, and what they are in JSON.
SETTINGS: dict[str, type] = {
    **dict.fromkeys(("sampler", "rule", "grid", "insertions", "corrector"), str),
    **dict.fromkeys(("events_per_step", "temperature", "top_p", "finish_below"), float),
    **dict.fromkeys(("steps", "top_k", "max_calls", "block_length"), int),
    **dict.fromkeys(("length", "min_length", "max_length"), int),
}
# Of each, one says what the others would: a request that has one has none of the command's.
_TOGETHER = (("sampler", "steps", "events_per_step"), ("length", "min_length", "max_length"))
# What is given may be said in one of these ways.
_FORMS = (("prompt",), ("prefix", "suffix"), ("template",))
_OWN = ("id", "seed", "n")


def sampler_of(
    settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> SamplerConfig:
    """Returns the sampler of a request's settings, see SETTINGS.

    Args:
      settings: What the request says.
      defaults: What holds where it says nothing.

    Raises:
      UserError: If a setting has another type, or what parse_sampler() raises.
    """
    settings = {name: _setting(name, value) for name, value in settings.items()}
    merged = {k: v for k, v in (defaults or {}).items() if not _replaced(k, settings)}
    merged |= settings
    exactly = merged.pop("length", 0)
    if exactly and (merged.get("min_length") or merged.get("max_length")):
        raise UserError("length says it all; leave out min_length and max_length")
    if exactly:
        merged |= {"min_length": exactly, "max_length": exactly}
    return parse_sampler(**merged)


def _setting(name: str, value: Any) -> Any:
    _check_type(name, value, SETTINGS[name])
    try:
        return SETTINGS[name](value)
    except OverflowError:
        raise UserError(f"{name} = {shown(value)}; it must be a finite number") from None


def _replaced(name: str, settings: Mapping[str, Any]) -> bool:
    """Returns whether a default says what one of the settings says."""
    return any(name in names and not settings.keys().isdisjoint(names) for names in _TOGETHER)


def parse_request(
    values: Any, number: int | str, defaults: Mapping[str, Any] | None = None, mark: str = MARK
) -> Request:
    """Returns the request that a JSON object is.

        >>> parse_request({"prompt": "Once", "n": 2, "temperature": 0.7}, 0)

    Args:
      values: One of prompt; prefix and suffix; template. Besides id, seed, n and SETTINGS.
      number: What it is called by if it has no id.
      defaults: Settings that hold where it says nothing.
      mark: What a template's gaps are written as.

    Raises:
      UserError: If something is unknown, missing, or of another type or range.
    """
    if not isinstance(values, dict):
        raise UserError(f'a request is an object such as {{"prompt": "Once"}}, not {shown(values)}')
    known = (*(name for form in _FORMS for name in form), *_OWN, *SETTINGS)
    for name in values:
        if name not in known:
            raise UserError(f"unknown field {name!r}{nearest(name, known)}")
    if not _is_name(values.get("id", 0)):
        raise UserError(f"id = {shown(values['id'])}; it must be a text or an integer")
    settings = {name: values[name] for name in SETTINGS if name in values}
    parts, gaps = _given(values, mark)
    return Request(
        parts=parts,
        gaps=gaps,
        id=values.get("id", number),
        seed=_whole(values, "seed", None),
        n=_whole(values, "n", 1),
        sampler=sampler_of(settings, defaults),
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def request_json(request: Request, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a request as an object that parse_request() makes the very same of.

    >>> request_json(Request.prompt("Once", seed=7), {"steps": 8})
    {'template': ['Once', None], 'id': 0, 'seed': 7, 'n': 1, 'steps': 8}

    Args:
      request: With a seed.
      settings: What its sampler was made of by sampler_of().
    """
    template: list[Any] = []
    for place in range(len(request.parts) + 1):
        template += [None] * (place in request.gaps) + list(request.parts[place : place + 1])
    own = {name: getattr(request, name) for name in _OWN}
    return {"template": template} | own | dict(settings)


def read_requests(
    path: pathlib.Path,
    defaults: Mapping[str, Any] | None = None,
    *,
    mark: str = MARK,
    strict: bool = False,
) -> Iterator[Request | Failure]:
    """Yields the requests of a file, an object a line; empty lines are passed over.

    Args:
      path: JSON lines.
      defaults: Settings that hold where a request says nothing.
      mark: What a template's gaps are written as.
      strict: Raise where a line is no request, instead of yielding a Failure.

    Raises:
      UserError: If the file cannot be read; where a line is no request, if strict.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _read_line(line, path, number, defaults, mark, strict)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _read_line(line: bytes, path, number: int, defaults, mark, strict) -> Request | Failure:
    name: str | int = number
    try:
        values = parse_json(line)
        if isinstance(values, dict) and _is_name(values.get("id")):
            name = values["id"]
        return parse_request(values, number, defaults, mark)
    except UserError as error:
        if strict:
            raise UserError(f"{path}, line {number}: {error}") from None
        return Failure(name, f"line {number}: {error}")


def parse_json(data: bytes) -> Any:
    """Returns what JSON from elsewhere says.

    Raises:
      UserError: If it is none, or gives a field twice.
    """
    try:
        text = data.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_no_double, parse_constant=_no_constant)
    except UserError:
        raise
    # Numbers of thousands of digits and deep nesting raise kinds of their own.
    except (ValueError, RecursionError) as error:
        raise UserError(f"no JSON ({first_line(error)})") from None


def _no_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise UserError(f"field {twice!r} is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise UserError(f"{name} is no number of JSON")


def _given(values: Mapping[str, Any], mark: str) -> tuple[tuple[Part, ...], tuple[int, ...]]:
    """Returns what is given and the gaps."""
    forms = [form for form in _FORMS if any(name in values for name in form)]
    if len(forms) > 1:
        names = ", ".join(name for form in forms for name in form if name in values)
        raise UserError(f"{names}: say it in one way: prompt; prefix and suffix; or template")
    if not forms:
        raise UserError('nothing is given: say "prompt" (it may be ""), "prefix" or "template"')
    if "template" in values:
        return _template(values["template"], mark)
    parts = {name: _part(name, values[name]) for name in forms[0] if name in values}
    if "prompt" in parts:
        request = Request.prompt(parts["prompt"])
    else:
        request = Request.infill(parts.get("prefix", ""), parts.get("suffix", ""))
    return request.parts, request.gaps


def _template(value: Any, mark: str) -> tuple[tuple[Part, ...], tuple[int, ...]]:
    """Returns the parts and gaps of a text with marks, or of a list in which null is a gap."""
    if isinstance(value, str):
        return parse_template(value, mark)
    if not isinstance(value, list):
        raise UserError(
            f"template = {shown(value)}; it must be a text with {mark} in it, or a list of texts, "
            "lists of token ids, and null for each gap"
        )
    parts, gaps = [], []
    for item in value:
        if item is not None:
            if part := _part("template", item):
                parts.append(part)
        elif gaps[-1:] == [len(parts)]:
            raise UserError("template: two gaps with nothing between them are one; leave one out")
        else:
            gaps.append(len(parts))
    if not gaps:
        raise UserError("template: there is no gap in it (null)")
    return tuple(parts), tuple(gaps)


def _part(name: str, value: Any) -> Part:
    """Returns a text, or token ids; what ids there are the model has to say."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(type(x) is int for x in value):
        return tuple(value)
    raise UserError(f"{name} = {shown(value)}; it must be a text or a list of token ids")


def _whole(values: Mapping[str, Any], name: str, default: int | None) -> int | None:
    if name not in values:
        return default
    _check_type(name, values[name], int)
    return values[name]


_WORDS = {str: "a text", int: "an integer", float: "a number"}


def _check_type(name: str, value: Any, kind: type) -> None:
    fits = (kind, int) if kind is float else kind
    if not isinstance(value, fits) or isinstance(value, bool):
        raise UserError(f"{name} = {shown(value)}; it must be {_WORDS[kind]}")
