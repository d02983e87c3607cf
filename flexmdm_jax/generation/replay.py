"""Answers that can be drawn again: what decides them, written down, and whether it still does."""

import dataclasses
import importlib.metadata
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from flexmdm_jax import __version__
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.engine import Engine
from flexmdm_jax.generation.parsing import parse_json, parse_request
from flexmdm_jax.generation.requests import Request
from flexmdm_jax.generation.results import Result
from flexmdm_jax.ranges import Count, range_of

# What stands in a record of a sample, besides its text.
_SAMPLE = ("tokens", "generated", "calls", "inserted", "broken", "truncated", "cut_short")


def circumstances(digest: str, engine: Engine) -> dict[str, Any]:
    """Returns what decides results to the last bit, besides requests, as JSON has it.

    Results of other devices, shapes and versions are the same up to rounding.

    Args:
      digest: Of the parameters, see Model.digest().
      engine: What grows rows.
    """
    return {
        "model": digest,
        "flexmdm_jax": __version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "device": engine.mesh.devices.flat[0].device_kind,
        "mesh": dict(engine.mesh.shape),
        "batch_size": engine.batch_size,
        "max_length": engine.max_length,
    }


def record(
    requests: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    circumstances: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns all that Recording needs, as JSON has it.

    Args:
      requests: By request_json().
      results: All samples of the first request, then those of the second, and so on.
      circumstances: See circumstances().
    """
    samples = [
        {"seed": result.seed, "sample": result.sample}
        | {name: getattr(result, name) for name in _SAMPLE}
        for result in results
    ]
    return {"requests": requests, "samples": samples, "circumstances": dict(circumstances)}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether samples are what they were.

    Attributes:
      same: Whether every token is.
      text: What to say of it, in a line.
    """

    same: bool
    text: str


@dataclasses.dataclass(frozen=True)
class Recording:
    """Answers, and what decided them.

    Attributes:
      requests: With seeds.
      tokens: Of all samples, in the order of requests.
      circumstances: See circumstances().
    """

    requests: tuple[Request, ...]
    tokens: tuple[tuple[int, ...], ...]
    circumstances: Mapping[str, Any]

    @property
    def batch_size(self) -> int:
        """Returns the rows of the shortest buffer; see Engine."""
        return self.circumstances["batch_size"]

    def check_model(self, digest: str) -> None:
        """Raises UserError unless the answers are those of the model with this digest."""
        if self.circumstances["model"] != digest:
            raise UserError(
                f"the response was given by model {self.circumstances['model']}, and this one is "
                f"{digest}; name the --workdir, with the checkpoint, that gave it"
            )

    def compare(self, results: Sequence[Result], here: Mapping[str, Any]) -> Verdict:
        """Returns whether its samples have been drawn again.

        Args:
          results: Of its requests, drawn here.
          here: See circumstances().
        """
        then = self.circumstances
        changed = [
            f"{name} was {then.get(name)!r} and is {here.get(name)!r}"
            for name in sorted(then.keys() | here.keys())
            if then.get(name) != here.get(name)
        ]
        others = "; ".join(changed)
        pairs = zip(self.tokens, results, strict=True)
        differing = [str(place) for place, (old, new) in enumerate(pairs) if old != new.tokens]
        if not differing:
            return Verdict(True, f"the same, although {others}" if changed else "the same")
        which = f"samples {', '.join(differing)} of {len(results)} differ"
        if changed:
            return Verdict(False, f"{which}: {others}; elsewhere they are the same up to rounding")
        why = "nothing recorded does: another processor of this kind, or other XLA_FLAGS?"
        return Verdict(False, f"{which}, and {why}")


def read_recording(path: pathlib.Path) -> Recording:
    """Returns what a file with a response of the server holds.

    Raises:
      UserError: If it cannot be read or holds something else.
    """
    try:
        values = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    own = values.get("flexmdm") if isinstance(values, dict) else None
    if not isinstance(own, dict) or not {"requests", "samples", "circumstances"} <= own.keys():
        raise UserError(
            f'{path}: no response that can be replayed: it lacks "flexmdm" with requests, samples '
            "and circumstances; of a stream, take the event that has them"
        )
    try:
        return _recording(own)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _recording(own: Mapping[str, Any]) -> Recording:
    requests, samples, then = own["requests"], own["samples"], own["circumstances"]
    if not (isinstance(requests, list) and isinstance(samples, list) and isinstance(then, dict)):
        raise UserError("requests and samples must be lists, circumstances an object")
    size = then.get("batch_size")
    if not isinstance(then.get("model"), str) or type(size) is not int:
        raise UserError("circumstances must name a model and a batch_size")
    if problem := range_of(Count).problem(size):
        raise UserError(f"batch_size = {size}; it {problem}")
    parsed = tuple(parse_request(values, number) for number, values in enumerate(requests))
    if any(request.seed is None for request in parsed):
        raise UserError("a request without a seed cannot be replayed")
    tokens = [sample.get("tokens") if isinstance(sample, dict) else None for sample in samples]
    if not all(isinstance(x, list) and all(type(id) is int for id in x) for x in tokens):
        raise UserError("each sample must have its tokens, a list of ids")
    asked = sum(request.n for request in parsed)
    if len(tokens) != asked:
        raise UserError(f"{asked} samples were asked for, and {len(tokens)} are there")
    return Recording(parsed, tuple(map(tuple, tokens)), then)
