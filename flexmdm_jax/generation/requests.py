"""What a user asks for: given texts with gaps among them, and how to fill these."""

import collections
import dataclasses
import hashlib
import itertools
import json
import operator
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.fields import nearest
from flexmdm_jax.files import json_text
from flexmdm_jax.generation.templates import MARK, parse_template
from flexmdm_jax.ranges import Count, CountOrZero, Seed, range_of
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

Part = str | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Request:
    """Given texts, gaps to fill, and how.

        >>> Request.prompt("Once upon a time")
        >>> Request.infill("def f(x):", "return y")
        >>> Request.template("Dear <gap>, thank you for <gap>.")

    Attributes:
      parts: What is given, in order: texts, or token ids.
      gaps: Where something is written: 0 is before the first part, len(parts) behind the last.
      id: What its results are called by.
      seed: Decides all noise, with the number of a sample; None to have it made by seeded().
      n: Samples.
      sampler: How to sample.
      canvas: Slots that MDM writes on behind what is given; 0: all that a row has.

    Raises:
      UserError: If there are no samples, the seed has more than 32 bits, what is given is neither
        text nor token ids, the gaps are not among it, or the sampler is none.
    """

    parts: tuple[Part, ...] = ()
    gaps: tuple[int, ...] = (0,)
    id: str | int = 0
    seed: int | None = None
    n: int = 1
    sampler: SamplerConfig = SamplerConfig()
    canvas: int = 0

    def __post_init__(self):
        kept: dict[str, Any] = {"n": whole("n", self.n, Count)}
        kept["canvas"] = whole("canvas", self.canvas, CountOrZero)
        if self.seed is not None:
            kept["seed"] = whole("seed", self.seed, Seed)
        kept["parts"] = tuple(map(_checked_part, self.parts))
        kept["gaps"] = gaps = tuple(self.gaps)
        if any(a >= b for a, b in itertools.pairwise((-1, *gaps, len(self.parts) + 1))):
            raise UserError(f"gaps = {gaps}; they must ascend within 0 to {len(self.parts)} parts")
        if not isinstance(self.sampler, SamplerConfig):
            raise UserError(f"sampler = {shown(self.sampler)}; it must be a SamplerConfig")
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @classmethod
    def prompt(cls, given: Part, **others: Any) -> "Request":
        """Returns a request to continue a text, or token ids."""
        part = _checked_part(given)
        parts = (part,) if part else ()
        return cls(parts, (len(parts),), **others)

    @classmethod
    def infill(cls, prefix: Part, suffix: Part, **others: Any) -> "Request":
        """Returns a request to write what stands between two texts; either may be empty."""
        before, behind = _checked_part(prefix), _checked_part(suffix)
        return cls(tuple(x for x in (before, behind) if x), (1 if before else 0,), **others)

    @classmethod
    def template(cls, text: str, mark: str = MARK, **others: Any) -> "Request":
        """Returns a request to fill every gap of a text.

        Raises:
          UserError: If there is no mark, or two have nothing between them.
        """
        return cls(*parse_template(text, mark), **others)

    def seeded(self, seed: int) -> "Request":
        """Returns the request with a seed: its own, or one made of another and what is given.

        So requests that differ have noise of their own, wherever they stand among others.
        """
        if self.seed is not None:
            return self
        given = json_text([seed, self.parts, self.gaps]).encode()
        own = int.from_bytes(hashlib.sha256(given).digest()[:4], "big")
        return dataclasses.replace(self, seed=own)


def whole(name: str, value: Any, kind: Any) -> int:
    """Returns a number as Python's own, for NumPy and JAX have others.

    Args:
      name: What a message calls it.
      value: It.
      kind: Of the integers that it may be, such as Count.

    Raises:
      UserError: If it is another.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name} = {shown(value)}; it must be an integer") from None
    if problem := range_of(kind).problem(number):
        raise UserError(f"{name} = {number}; it {problem}")
    return number


def _checked_part(part: Any) -> Part:
    """Returns a text, or token ids as Python's integers."""
    if isinstance(part, str):
        return part
    try:
        if isinstance(part, bytes | Mapping):
            raise TypeError
        return tuple(map(operator.index, part))
    except TypeError:
        raise UserError(f"{shown(part)} cannot be given; give a text or token ids") from None


@dataclasses.dataclass(frozen=True)
class Failure:
    """A request that cannot be answered.

    Attributes:
      id: As the request has it; its line's number if that cannot be known.
      error: Why.
    """

    id: str | int
    error: str


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


def shown(value: Any) -> str:
    """Returns a value as JSON has it, cut to the length of a word in a message."""
    try:
        text = json_text(value, ensure_ascii=False)
    except RecursionError:
        text = "lists within lists"
    except TypeError:
        # From Python, not from JSON.
        text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
