"""What a client asks for, and what all answers have in common."""

import collections
import dataclasses
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import nearest
from flexmdm_jax.generation.engine import Engine
from flexmdm_jax.generation.parsing import SETTINGS, parse_request, request_json
from flexmdm_jax.generation.replay import record
from flexmdm_jax.generation.requests import Request, shown
from flexmdm_jax.generation.results import Result
from flexmdm_jax.generation.writer import Encoded
from flexmdm_jax.ranges import Count, range_of
from flexmdm_jax.serving.errors import ApiError

# Fields that every kind of request may have, besides the sampler's settings.
COMMON = ("model", "n", "seed", "max_tokens", "stream", "stream_options", "user")


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request of a client.

    Attributes:
      requests: What is to be written, with seeds.
      settings: What their sampler was made of.
      stream: Whether the client wants to watch.
      include_usage: Whether a stream ends with a count of tokens.
      echo: Whether what was given is repeated.
    """

    requests: tuple[Request, ...]
    settings: Mapping[str, Any]
    stream: bool = False
    include_usage: bool = False
    echo: bool = False


def read_ask(
    values: Any,
    forms: Sequence[Mapping[str, Any]],
    fields: Collection[str],
    model: str,
    max_n: int,
    *,
    advice: Mapping[str, str],
) -> Ask:
    """Returns what a body asks for.

    Args:
      values: The body's fields, without those that are null.
      forms: What is given, for each request, as parse_request() takes it.
      fields: Other fields that this kind of request has.
      model: The name of the model that is served.
      max_n: Samples at most.
      advice: What to say of fields that this kind does not have.

    Raises:
      UserError: If something is unknown, or of another type or range.
      ApiError: If another model is asked for.
    """
    known = (*fields, *COMMON, *SETTINGS)
    for name in values:
        if name not in known:
            hint = f"; {advice[name]}" if name in advice else nearest(name, known)
            raise UserError(f"unknown field {name!r}{hint}")
    check_model(values.get("model", model), model)
    if not isinstance(values.get("user", ""), str):
        raise UserError(f"user = {shown(values['user'])}; it must be a text")
    stream = flag(values, "stream")
    settings = _settings(values)
    own = settings | {name: values[name] for name in ("n", "seed") if name in values}
    requests = [parse_request({**form, **own}, place) for place, form in enumerate(forms)]
    if (num := sum(request.n for request in requests)) > max_n:
        raise UserError(f"n: that makes {num} samples, and at most {max_n} are served at a time")
    return Ask(
        requests=_with_seeds(requests),
        settings=settings,
        stream=stream,
        include_usage=_include_usage(values, stream),
        echo=flag(values, "echo"),
    )


def given_fields(body: Any) -> dict[str, Any]:
    """Returns the fields of a body that are not null, which is how clients leave them out.

    Raises:
      UserError: If it is no object.
    """
    if not isinstance(body, dict):
        raise UserError('the body must be an object such as {"prompt": "Once"}')
    return {name: value for name, value in body.items() if value is not None}


def flag(values: Mapping[str, Any], name: str) -> bool:
    """Returns a field that is true or false, false if it is not there."""
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise UserError(f"{name} = {shown(value)}; it must be true or false")
    return value


def check_model(asked: Any, model: str) -> None:
    """Raises UserError or ApiError unless a model is asked for by the name of the one served."""
    if not isinstance(asked, str):
        raise UserError(f"model = {shown(asked)}; it must be a text")
    if asked != model:
        raise ApiError(
            404,
            f"there is no model {asked!r} here; it is called {model!r}",
            param="model",
            code="model_not_found",
        )


def _include_usage(values: Mapping[str, Any], stream: bool) -> bool:
    options = values.get("stream_options", {})
    if not isinstance(options, dict) or not options.keys() <= {"include_usage"}:
        raise UserError(
            f'stream_options = {shown(options)}; all there is to say is {{"include_usage": true}}'
        )
    if options and not stream:
        raise UserError("stream_options are for streams; leave them out")
    return flag(options, "include_usage")


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sampler's settings, max_tokens among them as the sampler calls it."""
    settings = {name: values[name] for name in SETTINGS if name in values}
    if "max_tokens" not in values:
        return settings
    for name in ("length", "max_length"):
        if name in settings:
            raise UserError(f"max_tokens and {name} say the same; leave one out")
    most = values["max_tokens"]
    if type(most) is not int or range_of(Count).problem(most):
        raise UserError(f"max_tokens = {shown(most)}; it must be an integer of at least 1")
    return settings | {"max_length": most}


def _with_seeds(requests: Sequence[Request]) -> tuple[Request, ...]:
    """Returns requests with seeds, new ones unless one was given.

    A single request keeps its own. Of several, which all have the same, each gets one that is made
    of it and of what is given, as Model.generate() does it; and where the same is given again, the
    second time counts as another.
    """
    fresh = secrets.randbits(32)
    if len(requests) == 1:
        return tuple(request.seeded(fresh) for request in requests)
    times: collections.Counter = collections.Counter()
    found = []
    for request in requests:
        seed = fresh if request.seed is None else request.seed
        unseeded = dataclasses.replace(request, seed=None)
        found.append(unseeded.seeded((seed + times[request.parts]) % 2**32))
        times[request.parts] += 1
    return tuple(found)


def param_of(message: str, values: Any) -> str | None:
    """Returns the field that a message begins with, if it is one of the body's."""
    found = re.match(r"(?:unknown field ')?(\w+)", message)
    return found[1] if found and isinstance(values, dict) and found[1] in values else None


def finish_reason(result: Result, encoded: Encoded, engine: Engine) -> str:
    """Returns "length" if a bound of the request or the buffer was reached, else "stop"."""
    most = encoded.request.sampler.max_length
    bounded = 0 < most <= result.length - encoded.num_given
    full = result.truncated or (not engine.process.inserts and result.length == engine.max_length)
    return "length" if bounded or full or result.cut_short else "stop"


def usage(encoded: Sequence[Encoded], results: Sequence[Result]) -> dict[str, int]:
    """Returns how many tokens were given, each prompt's once, and how many were written."""
    prompt = sum(x.num_given for x in encoded)
    given = sum(x.num_given * x.request.n for x in encoded)
    completion = sum(result.length for result in results) - given
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def replayable(
    ask: Ask, results: Sequence[Result], circumstances: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns all that drawing the results again takes, see generation.replay."""
    requests = [request_json(request, ask.settings) for request in ask.requests]
    return record(requests, results, circumstances)
