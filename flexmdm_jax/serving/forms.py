"""Two forms of asking and answering: OpenAI's of completions, and our own of infilling."""

import secrets
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.requests import shown
from flexmdm_jax.generation.results import Result
from flexmdm_jax.serving.asks import Ask, given_fields, read_ask


@runtime_checkable
class Form(Protocol):
    """How a kind of request is asked for and answered.

    Attributes:
      kind: What OpenAI calls `object`.
      prefix: What ids of answers begin with.
    """

    kind: ClassVar[str]
    prefix: ClassVar[str]

    def read(self, body: Any, model: str, max_n: int) -> Ask:
        """Returns what a body asks for.

        Args:
          body: Parsed.
          model: The name of the model that is served.
          max_n: Samples at most.

        Raises:
          UserError: If something is unknown, or of another type or range.
        """
        ...

    def choice(self, ask: Ask, result: Result) -> dict[str, Any]:
        """Returns a sample, without its place and why it ended."""
        ...


class Infilling:
    """A template, or a prefix and a suffix; answered by the text of each gap."""

    kind: ClassVar[str] = "infill"
    prefix: ClassVar[str] = "infill"

    def read(self, body: Any, model: str, max_n: int) -> Ask:
        """See Form."""
        values = given_fields(body)
        fields = ("template", "prefix", "suffix")
        own = {name: values[name] for name in fields if name in values}
        if not own:
            raise UserError('nothing is given: say "template", or "prefix" and "suffix"')
        advice = {"prompt": "POST it to /v1/completions"}
        return read_ask(values, [own], fields, model, max_n, advice=advice)

    def choice(self, ask: Ask, result: Result) -> dict[str, Any]:
        """See Form."""
        return {"text": result.text, "generated": list(result.generated)}


class Completions:
    """OpenAI's form of text completions; with a suffix it is infilling."""

    kind: ClassVar[str] = "text_completion"
    prefix: ClassVar[str] = "cmpl"
    # Fields of OpenAI's that are not served, and what they may be all the same.
    _neutral: ClassVar[Mapping[str, tuple]] = {
        "logprobs": (),
        "stop": ([], ""),
        "logit_bias": ({},),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
    }

    def read(self, body: Any, model: str, max_n: int) -> Ask:
        """See Form."""
        values = given_fields(body)
        for name, neutral in self._neutral.items():
            if name in values and values.pop(name) not in neutral:
                raise UserError(f"{name} is not served; leave it out")
        best_of = values.pop("best_of", values.get("n", 1))
        if best_of != values.get("n", 1):
            raise UserError("best_of is not served, unless it is n; leave it out")
        prompts = _prompts(values.get("prompt", ""))
        if len(prompts) > max_n:
            raise UserError(f"prompt: there are {len(prompts)}, and at most {max_n} are served")
        suffix = values.get("suffix", "")
        if not isinstance(suffix, str):
            raise UserError(f"suffix = {shown(suffix)}; it must be a text")
        forms = [
            {"prefix": prompt, "suffix": suffix} if suffix else {"prompt": prompt}
            for prompt in prompts
        ]
        advice = dict.fromkeys(("template", "prefix"), "POST it to /v1/infill")
        fields = ("prompt", "suffix", "echo")
        return read_ask(values, forms, fields, model, max_n, advice=advice)

    def choice(self, ask: Ask, result: Result) -> dict[str, Any]:
        """See Form."""
        text = result.text if ask.echo else result.generated[0]
        return {"text": text, "logprobs": None}


def _prompts(value: Any) -> list[Any]:
    """Returns each prompt: a text or a list of ids, or a list of either."""
    is_ids = lambda x: isinstance(x, list) and all(type(token) is int for token in x)  # noqa: E731
    if isinstance(value, str) or (value and is_ids(value)):
        return [value]
    if isinstance(value, list) and value:
        alike = all(isinstance(x, str) for x in value) or all(is_ids(x) for x in value)
        if alike:
            return value
    raise UserError(
        f"prompt = {shown(value)}; it must be a text, a list of token ids, or a list of texts or "
        "of such lists"
    )


def envelope(form: Form, model: str) -> dict[str, Any]:
    """Returns what an answer begins with, or each piece of it.

    Args:
      form: Its form.
      model: The name of the model.
    """
    return {
        "id": f"{form.prefix}-{secrets.token_hex(12)}",
        "object": form.kind,
        "created": int(time.time()),
        "model": model,
    }
