"""What an evaluation is asked for, and what it answers."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from flexmdm_jax.evaluation.comparison import Examples
from flexmdm_jax.evaluation.measures import OWN, Judge
from flexmdm_jax.model import Model
from flexmdm_jax.sampling import SamplerConfig, parse_sampler


class Way(NamedTuple):
    """A way of sampling.

    Attributes:
      rule: Its unmasking rule, with the temperature where that tells ways apart.
      pace: How it spends its calls of the network, as `64 steps`.
      sampler: It.
    """

    rule: str
    pace: str
    sampler: SamplerConfig

    @property
    def name(self) -> str:
        """Returns what a table calls it."""
        return f"{self.rule}, {self.pace}"


@dataclasses.dataclass(frozen=True)
class Request:
    """What to measure, and how carefully.

    Attributes:
      num: Samples for each way of sampling.
      steps: Numbers of steps on a fixed grid; each is tried.
      events_per_step: Of adaptive steps; each is tried. Without these and without steps, the
        sampler's default is.
      rules: Unmasking rules, written as for sampling; each is tried. An empty text is the default.
      temperatures: What divides the logits; each is tried. 0 takes the most likely token.
      sampling: The other parameters of parse_sampler().
      num_sequences: Held-out sequences to score.
      num_times: Times per sequence in the likelihood bound.
      bin_width: Lengths to a bin.
      batch_size: Sequences at a time.
      seed: Decides all noise.
      metrics: What texts are measured by, see measures.METRICS.
      reference: An autoregressive model, for some of them.

    Raises:
      UserError: If a kind is unknown, a number out of range, or settings contradict each other.
    """

    num: int
    steps: tuple[int, ...]
    events_per_step: tuple[float, ...]
    rules: tuple[str, ...]
    temperatures: tuple[float, ...]
    sampling: Mapping[str, Any]
    num_sequences: int
    num_times: int
    bin_width: int
    batch_size: int
    seed: int
    metrics: tuple[str, ...] = OWN
    reference: Judge | None = None

    def __post_init__(self):
        # What is wrong with a rule is said before anything is loaded or computed.
        for _ in self.samplers():
            pass

    def samplers(self) -> Iterator[Way]:
        """Yields every temperature and rule at every pace."""
        paces = [(f"{n} steps", {"steps": n}) for n in self.steps]
        paces += [(f"{k:g} events a step", {"events_per_step": k}) for k in self.events_per_step]
        default = "event by event" if self.sampling.get("sampler") == "exact" else "adaptive steps"
        paces = paces or [(default, {})]
        several = len(self.temperatures) > 1
        for temperature, rule, (pace, numbers) in itertools.product(
            self.temperatures, self.rules, paces
        ):
            sampling = dict(self.sampling)
            if "events_per_step" in numbers and self.steps:
                # Those of the steps that are tried beside it.
                sampling |= {"grid": "", "sampler": ""}
            sampler = parse_sampler(**sampling, rule=rule, temperature=temperature, **numbers)
            rule = rule or ("paper" if sampling.get("sampler") == "paper" else "exact_rate")
            yield Way(f"{rule}, temperature {temperature:g}" if several else rule, pace, sampler)


def announced(models: Mapping[str, Model]) -> Iterator[tuple[str, Model]]:
    """Yields (label, model), after a line that says which one is being evaluated."""
    for label, model in models.items():
        if jax.process_index() == 0:
            print(f"evaluating {label} after {model.step:,} steps", flush=True)
        yield label, model


class Sample(NamedTuple):
    """A text that a model wrote.

    Attributes:
      run: Which model, in which way of sampling.
      text: It.
      told: What else is known of it, such as its tokens and the calls it took.
    """

    run: str
    text: str
    told: Mapping[str, Any]


class Table(NamedTuple):
    """Some of a report's figures.

    Attributes:
      title: What they say.
      columns: Figure -> its heading.
    """

    title: str
    columns: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Report:
    """The answer.

    Attributes:
      rows: Label -> {figure -> value}; the standard error of a figure is `figure_error`.
      tables: Figures to show.
      pictures: File name -> PNG.
      notes: What else is to be said, a sentence each.
      samples: Texts that were written, where the evaluation is of these.
      examples: (label of a model, way of sampling, or "") -> what it did on each example.
    """

    rows: Mapping[str, Mapping[str, float]]
    tables: Sequence[Table]
    pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    samples: Sequence[Sample] = ()
    examples: Mapping[tuple[str, str], Examples] = dataclasses.field(default_factory=dict)
