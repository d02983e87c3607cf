"""A run as a model of EleutherAI's lm-evaluation-harness: its tasks ask, the run answers.

Importing this module makes the model `flexmdm` known to the harness; see docs/harness.md.
"""

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from flexmdm_jax.compiled import AUTO, keep_programs
from flexmdm_jax.data.tokenizers import encode_at
from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.fields import nearest
from flexmdm_jax.generation.parsing import SETTINGS, sampler_of
from flexmdm_jax.generation.requests import Request, shown, whole
from flexmdm_jax.generation.scoring import Prompted
from flexmdm_jax.generation.texts import split_text
from flexmdm_jax.model import Model, load
from flexmdm_jax.progress import progress_bar
from flexmdm_jax.ranges import Count, Seed
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.sharding import parse_mesh
from flexmdm_jax.training.memory import check_sampling

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import simple_parse_args_string, warning_once
except ImportError:
    raise UserError(
        "the tasks of lm-evaluation-harness need lm_eval: pip install 'flexmdm-jax[harness]'"
    ) from None

# Settings of the sampler that --model_args may have, and a task's own settings; of temperatures and
# lengths the harness speaks in words of its own.
SAMPLING = tuple(
    name for name in SETTINGS if name not in ("temperature", "length", "min_length", "max_length")
)
_ARGUMENTS = (
    *("workdir", "base", "mesh", "compilation_cache", "num_times", "batch_size", "seed"),
    *SAMPLING,
)
# Tokens of an answer where a task says nothing, as other models of the harness have it.
_USUAL = 256
# Below the harness' own logger, which decides what is shown and how.
_logger = logging.getLogger("lm_eval.flexmdm")


@register_model("flexmdm")
class HarnessModel(LM):
    """A trained run, FlexMDM or MDM, that the harness' tasks can be asked of.

        >>> simple_evaluate("flexmdm", "workdir=runs/mine,steps=64", tasks=["hellaswag"])
        >>> simple_evaluate(HarnessModel(load("runs/mine"), steps=64), tasks=["hellaswag"])

    An answer depends on its request, the seed and the settings: not on the order of requests, nor
    on what else is asked, but for the rounding of float32 sums.
    """

    def __init__(
        self,
        model: Model,
        *,
        num_times: int = 128,
        batch_size: int = 64,
        seed: int = 0,
        **sampling: Any,
    ):
        """Returns a model for simple_evaluate().

        Args:
          model: A trained one.
          num_times: Times per text of the likelihood bounds; four times as many halve their errors.
          batch_size: Texts at a time; samples at a time while they are short, see Engine.
          seed: Decides all noise.
          **sampling: How texts are generated, see SAMPLING.

        Raises:
          UserError: If a setting is unknown or out of range, or several processes share the run.
        """
        super().__init__()
        if jax.process_count() > 1:
            raise UserError("the harness runs in one process; start it on one host alone")
        _check_names(sampling, SAMPLING)
        model.setup.check_sampler(sampler_of(sampling))
        self._model, self._sampling = model, sampling
        self._num_times = whole("num_times", num_times, Count)
        self._batch_size = whole("batch_size", batch_size, Count)
        self._seed = whole("seed", seed, Seed)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "HarnessModel":
        """Returns create_from_arg_obj() of `workdir=runs/mine,steps=64`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "HarnessModel":
        """Returns the model of --model_args.

        Args:
          arg_dict: `workdir`, and what load() and this class take besides; `compilation_cache`, see
            keep_programs().
          additional_config: The harness' own batch_size and device, unless None.

        Raises:
          UserError: If an argument is unknown or missing, or what load() raises.
        """
        given, theirs = dict(arg_dict), additional_config or {}
        # The harness adds it for its data sets.
        given.pop("trust_remote_code", None)
        _check_names(given, _ARGUMENTS)
        if "workdir" not in given:
            raise UserError("model_args name no run; add one: workdir=runs/mine")
        # Where nobody says anything, the harness says cuda:0 and 1.
        device, size = theirs.get("device") or "cuda:0", str(theirs.get("batch_size") or 1)
        if device != "cuda:0":
            _warn_once(f"device={device} is left out; JAX_PLATFORMS chooses devices")
        if size != "1" and not size.startswith("auto"):
            given = {"batch_size": int(size) if size.isdecimal() else size} | given
        where = {name: str(given.pop(name, "")) for name in ("workdir", "base", "mesh")}
        mesh = parse_mesh(where["mesh"]) if where["mesh"] else None
        keep_programs(str(given.pop("compilation_cache", AUTO)))
        return cls(load(where["workdir"], where["base"], mesh), **given)

    def get_model_info(self) -> dict[str, Any]:
        """Returns what the harness writes beside its results."""
        return {
            "model_sha": self._model.digest(),
            "model_step": self._model.step,
            "num_times": self._num_times,
            "noise_seed": self._seed,
            "sampling": self._sampling,
        }

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Returns "", as a run has no chat template; raises UserError if one is asked for."""
        return self.tokenizer_name if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        """Raises UserError: the harness asks for it where it wants chat templates."""
        raise UserError("a run has no chat template; leave out --apply_chat_template")

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Returns (minus a bound on -log p, False) of continuations given their contexts, in nats.

        Bounded is how surprising it is that the continuation follows, and then the end. Choices of
        one document have one noise, so that the errors they share cancel. A context that is too
        long loses its beginning. Whether a continuation is the likeliest of all, which the second
        value should say, no bound can tell.

        Raises:
          UserError: If a text cannot be encoded, or a continuation is too long.
        """
        _warn_of_greedy(requests)
        sequences, lost = [], []
        for request in requests:
            given, following = self._encode_pair(request)
            room = self._model.max_length - 1 - len(following)
            kept = given[max(0, len(given) - room) :]
            sequences.append(Prompted([*kept, *following], len(kept)))
            lost.append(len(given) - len(kept))
        self._warn_of_lost(lost)
        noise = [_number(x.doc) for x in requests]
        add = self.cache_hook.add_partial
        keep = lambda n, nats: add("loglikelihood", requests[n].args, (-nats, False))  # noqa: E731
        return [(-nats, False) for nats in self._bounds(sequences, noise, keep)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Returns minus a bound on -log p of whole texts and their ends, in nats.

        A text that is too long for a row is cut into pieces, each a text of its own.

        Raises:
          UserError: If a text cannot be encoded.
        """
        size = self._model.max_length - 1
        pieces, owners = [], []
        for number, request in enumerate(requests):
            tokens = self._encode(request, request.args[0])
            for start in range(0, max(1, len(tokens)), size):
                pieces.append(Prompted(tokens[start : start + size], 0))
                owners.append(number)
        left = collections.Counter(owners)
        if several := sum(count > 1 for count in left.values()):
            _logger.warning(
                f"{several} of {len(requests)} texts do not fit rows of {size + 1} slots; each is "
                "scored in pieces, as if they were texts that each have an end"
            )
        found = [0.0] * len(requests)

        def keep(piece: int, nats: float) -> None:
            owner = owners[piece]
            found[owner] -= nats
            left[owner] -= 1
            if not left[owner]:
                arguments = requests[owner].args
                self.cache_hook.add_partial("loglikelihood_rolling", arguments, found[owner])

        self._bounds(pieces, [_number(x.tokens) for x in pieces], keep)
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Returns texts that follow prompts, each cut where the first of its stop strings begins.

        They are cut after the fact, since a text is written in any order. A prompt that leaves no
        room for max_gen_toks loses its beginning. A request that comes several times gets as many
        samples.

        Raises:
          UserError: If a prompt cannot be encoded, or a setting is out of range.
        """
        asks = [self._ask(x) for x in requests]
        self._warn_of_lost([x.lost for x in asks])
        places = collections.defaultdict(list)
        for place, ask in enumerate(asks):
            places[ask.request].append(place)
        samples = [dataclasses.replace(x, n=len(where)) for x, where in places.items()]
        order = [place for where in places.values() for place in where]
        writer = self._model.writer(min(self._batch_size, max(1, len(asks))))
        results = progress_bar(writer.answer(samples), desc="texts", total=len(asks))
        found = [""] * len(asks)
        for place, result in zip(order, results, strict=True):
            found[place] = self._text(asks[place], result.tokens)
            self.cache_hook.add_partial("generate_until", requests[place].args, found[place])
        return found

    def _bounds(
        self,
        sequences: list[Prompted],
        noise: list[int],
        keep: Callable[[int, float], None],
    ) -> list[float]:
        """Returns bounds on the nats of sequences.

        Args:
          sequences: Behind their prompts.
          noise: A number for each, which with the seed decides its noise.
          keep: Is told the number and bound of a sequence as soon as it is known.
        """
        model = self._model
        rows = min(self._batch_size, max(1, len(sequences)))
        check_sampling(model.experiment.config, rows)
        scorer = model.setup.scorer(self._num_times, rows)
        numbers = np.array(noise, np.int32)
        bounds, errors = np.zeros(len(sequences)), np.zeros(len(sequences))
        with (
            jax.set_mesh(model.setup.mesh),
            progress_bar(desc="bounds", total=len(sequences)) as bar,
        ):
            for places, score in scorer.batch_by_batch(
                model.params, sequences, numbers, model.max_length, self._seed
            ):
                # The harness would take the first choice that has none for the likeliest.
                if count := np.count_nonzero(np.isnan(score.nats)):
                    raise UserError(
                        f"the run's network answers NaN: {count} of {len(places)} texts have no "
                        "bound; choose another run or checkpoint"
                    )
                bounds[places], errors[places] = score.nats, score.errors
                for place, nats in zip(places.tolist(), score.nats.tolist(), strict=True):
                    keep(place, nats)
                bar.update(len(places))
        if np.isfinite(errors).any():
            _logger.info(
                f"the bounds' standard errors are {np.nanmedian(errors):.2g} nats (median); "
                f"num_times={4 * self._num_times} would halve them"
            )
        return bounds.tolist()

    def _encode(self, request: Instance, text: str, *, first: bool = True) -> list[int]:
        return encode_at(self._model.tokenizer, text, lambda: _name(request), first=first)

    def _encode_pair(self, request: Instance) -> tuple[list[int], list[int]]:
        """Returns the token ids of a context and of the continuation behind it."""
        context, continuation = request.args
        # Spaces between them belong to the continuation, as in the harness' own models.
        prompt = context.rstrip()
        following = context[len(prompt) :] + continuation
        given = self._encode(request, prompt)
        tokens = self._encode(request, following, first=not prompt)
        if len(tokens) >= self._model.max_length:
            raise UserError(
                f"{_name(request)}: a continuation takes {len(tokens) + 1} slots with END, more "
                f"than the model's max_length = {self._model.max_length}; leave the task out"
            )
        return given, tokens

    def _ask(self, request: Instance) -> "_Ask":
        prompt, settings = request.args
        sampler, until, most = self._sampler(settings)
        given = self._encode(request, prompt)
        kept = given[max(0, len(given) - (self._model.max_length - 1 - most)) :]
        asked = Request.prompt(tuple(kept), sampler=sampler).seeded(self._seed)
        return _Ask(asked, len(kept), len(given) - len(kept), most, until)

    def _sampler(self, settings: Mapping[str, Any]) -> tuple[SamplerConfig, list[str], int]:
        """Returns (a sampler, stop strings, tokens at most) of a task's generation settings."""
        length, inserts = self._model.max_length, self._model.setup.process.inserts
        settings = dict(settings)
        if settings.get("do_sample"):
            settings.setdefault("temperature", 1.0)
        try:
            asked = dict(normalize_gen_kwargs(settings, min(_USUAL, length // 2)))
        except (OverflowError, TypeError, ValueError) as error:
            raise UserError(f"generation settings {shown(settings)}: {first_line(error)}") from None
        del asked["do_sample"]
        until = _stop_strings(asked.pop("until"))
        most = whole("max_gen_toks", asked.pop("max_gen_toks"), Count)
        if most > length - 2:
            _warn_once(
                f"max_gen_toks = {most} leaves no room for a prompt in rows of {length} slots; it "
                f"is taken for {length // 2}"
            )
            most = length // 2
        ours = {"temperature": asked.pop("temperature", 0.0)}
        for name, value in asked.items():
            if name in SAMPLING:
                ours[name] = value
            else:
                _warn_once(f"{name} = {shown(value)} means nothing to this model and is left out")
        # MDM, whose rows have one length, is cut to it.
        limit = {"max_length": most} if inserts else {}
        return sampler_of(ours | limit, self._sampling), until, most

    def _text(self, ask: "_Ask", tokens: Sequence[int]) -> str:
        """Returns what counts of a finished row's text."""
        tokens = tokens[: ask.num_given + ask.most]
        fixed = [number < ask.num_given for number in range(len(tokens))]
        [text] = split_text(self._model.tokenizer, tokens, fixed, [ask.num_given])
        for stop in ask.until:
            text = text.partition(stop)[0]
        return text

    def _warn_of_lost(self, lost: list[int]) -> None:
        if count := np.count_nonzero(lost):
            _logger.warning(
                f"{count} of {len(lost)} prompts are too long for rows of {self._model.max_length} "
                f"slots; they lose their first tokens, up to {max(lost)}"
            )


class _Ask(NamedTuple):
    """A text to generate.

    Attributes:
      request: The prompt in token ids, with seed and sampler.
      num_given: Tokens of the prompt.
      lost: Tokens that the prompt has lost.
      most: Tokens that are written at most.
      until: Texts of which the first one found ends what counts.
    """

    request: Request
    num_given: int
    lost: int
    most: int
    until: list[str]


def _stop_strings(until: Sequence[Any]) -> list[str]:
    """Returns the stop strings of a task; --gen_kwargs makes a number of until=3."""
    for stop in until:
        if not isinstance(stop, str | int | float | None) or isinstance(stop, bool):
            raise UserError(f"until = {shown(stop)}; a stop string must be a text, in quotes")
    return [str(stop) for stop in until if stop not in (None, "")]


def _check_names(given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"unknown model argument {name!r}{nearest(name, known)}")


def _number(what: Any) -> int:
    """Returns a number of 31 bits that a document or token ids are known by."""
    digest = hashlib.sha256(repr(what).encode(errors="backslashreplace")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _name(request: Instance) -> str:
    """Returns what messages call a request."""
    return f"{request.task_name or 'a request'}, document {request.doc_id}"


def _warn_of_greedy(requests: list[Instance]) -> None:
    """Says that accuracies are 0 where they ask whether the only continuation is the likeliest."""
    counts = collections.Counter((x.task_name, x.doc_id) for x in requests)
    alone = sorted({str(task) for (task, _), count in counts.items() if count == 1})
    if alone:
        _warn_once(
            f"{', '.join(alone)}: whether a text is the likeliest of all, a bound does not tell; "
            "it counts as no, and acc, if the task has it, is 0"
        )


def _warn_once(message: str) -> None:
    warning_once(_logger, message)
