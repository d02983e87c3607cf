"""What an evaluation is asked for, and what it answers."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import jax

from flexmdm_jax.model import Model
from flexmdm_jax.sampling import SamplerConfig, parse_sampler


@dataclasses.dataclass(frozen=True)
class Request:
    """What to measure, and how carefully.

    Attributes:
      num: Samples for each way of sampling.
      steps: Steps of the sampler; each number is tried.
      rules: Unmasking rules, written as for sampling; each is tried.
      temperatures: What divides the logits; each is tried. 0 takes the most likely token.
      insertions: The insertion rule.
      grid: The schedule that spaces the steps.
      num_sequences: Held-out sequences to score.
      num_times: Times per sequence in the likelihood bound.
      bin_width: Lengths to a bin.
      batch_size: Sequences at a time.
      seed: Decides all noise.

    Raises:
      UserError: If a rule or the grid is unknown, or a temperature out of range.
    """

    num: int
    steps: tuple[int, ...]
    rules: tuple[str, ...]
    temperatures: tuple[float, ...]
    insertions: str
    grid: str
    num_sequences: int
    num_times: int
    bin_width: int
    batch_size: int
    seed: int

    def __post_init__(self):
        # What is wrong with a rule is said before anything is loaded or computed.
        for _ in self.samplers():
            pass

    def samplers(self) -> Iterator[tuple[str, SamplerConfig]]:
        """Yields (way, sampler) for every temperature, rule and number of steps.

        The way is the rule, with the temperature where that tells ways apart; not the steps.
        """
        choices = itertools.product(self.temperatures, self.rules, self.steps)
        for temperature, rule, steps in choices:
            sampler = parse_sampler(
                rule,
                self.insertions,
                self.grid,
                steps=steps,
                temperature=temperature,
            )
            several = len(self.temperatures) > 1
            yield f"{rule}, temperature {temperature:g}" if several else rule, sampler


def announced(models: Mapping[str, Model]) -> Iterator[tuple[str, Model]]:
    """Yields (label, model), after a line that says which one is being evaluated."""
    for label, model in models.items():
        if jax.process_index() == 0:
            print(f"evaluating {label} after {model.step:,} steps", flush=True)
        yield label, model


@dataclasses.dataclass(frozen=True)
class Report:
    """The answer.

    Attributes:
      rows: Label -> {figure -> value}.
      columns: Figures to print, with their headings.
      pictures: File name -> PNG.
    """

    rows: Mapping[str, Mapping[str, float]]
    columns: Mapping[str, str]
    pictures: Mapping[str, bytes]
