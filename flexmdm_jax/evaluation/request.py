"""What an evaluation is asked for, and what it answers."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.comparison import Examples, Run
from flexmdm_jax.evaluation.measures import OWN, Judge
from flexmdm_jax.model import Model
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import SamplerConfig, parse_sampler

# The figure that says what share of questions or problems found no room in a model's rows.
NOT_ASKED = "not asked"


class Way(NamedTuple):
    """A way of sampling.

    Attributes:
      rule: Its unmasking rule, with block length and temperature where they tell ways apart.
      pace: How it spends its calls of the network, as `64 steps`.
      sampler: It.
      canvas: Slots that MDM writes on behind a prompt, END included; 0: all that its row has.
    """

    rule: str
    pace: str
    sampler: SamplerConfig
    canvas: int = 0

    @property
    def name(self) -> str:
        """Returns what a table calls it."""
        return f"{self.rule}, {self.pace}{self._written_on}"

    @property
    def curve(self) -> str:
        """Returns what it shares with ways that differ in their calls of the network alone."""
        return f"{self.rule}{self._written_on}"

    @property
    def _written_on(self) -> str:
        return f", canvas {self.canvas}" if self.canvas else ""


@dataclasses.dataclass(frozen=True)
class Usual:
    """How a task is sampled where a request does not say.

    Attributes:
      flexmdm: FlexMDM's unmasking rule; an empty text is the default.
      mdm: MDM's.
      temperature: Of both.
      block_lengths: Of MDM, 0 for no blocks; left out where steps are fewer than blocks or not
        numbered, where one block is all there is, and where a corrector goes back.
    """

    flexmdm: str = ""
    mdm: str = ""
    temperature: float = 1.0
    block_lengths: tuple[int, ...] = (0,)


_NOTHING_USUAL = Usual()


@dataclasses.dataclass(frozen=True)
class Request:
    """What to measure, and how carefully.

    Attributes:
      num: Samples for each way of sampling.
      steps: Numbers of steps on a fixed grid; each is tried.
      events_per_step: Of adaptive steps; each is tried. Without these and without steps, the
        sampler's default is.
      rules: Unmasking rules, written as for sampling; each is tried. An empty text is what is
        usual for the task.
      temperatures: What divides the logits; each is tried. 0 takes the most likely token. Empty:
        what is usual for the task.
      sampling: The other parameters of parse_sampler().
      num_sequences: Held-out sequences to score.
      num_times: Times per sequence in the likelihood bound.
      bin_width: Lengths to a bin.
      batch_size: Sequences at a time.
      seed: Decides all noise.
      block_lengths: Of MDM, which fills blocks from left to right; each is tried, 0 for no blocks.
        Empty: what is usual for the task.
      canvas: Slots for MDM to write on, in place of its whole row; each is tried.
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
    block_lengths: tuple[int, ...] = ()
    canvas: tuple[int, ...] = ()
    metrics: tuple[str, ...] = OWN
    reference: Judge | None = None

    def __post_init__(self):
        # What is wrong with a rule is said before anything is loaded or computed.
        for _ in self._samplers("", 1.0, (0,)):
            pass

    def ways(self, process: Process, length: int, usual: Usual = _NOTHING_USUAL) -> Iterator[Way]:
        """Yields the ways of sampling a model, each once: of MDM each also on every canvas.

        Args:
          process: The model's.
          length: Slots of its rows.
          usual: What holds where the request says nothing.

        Raises:
          UserError: If a canvas is longer than the rows, or blocks that are asked for outnumber
            the steps.
        """
        # What is usual may be named beside it.
        yield from dict.fromkeys(self._ways(process, length, usual))

    def _ways(self, process: Process, length: int, usual: Usual) -> Iterator[Way]:
        if process.inserts:
            one = dataclasses.replace(self, block_lengths=())
            yield from one._samplers(usual.flexmdm, usual.temperature, (0,))
            return
        for way in self._samplers(usual.mdm, usual.temperature, usual.block_lengths):
            for canvas in self.canvas or (0,):
                if canvas > length:
                    raise UserError(
                        f"a canvas of {canvas} slots: MDM's rows have {length} with the prompt; "
                        "name a shorter one"
                    )
                if self._fills(way.sampler, canvas or length):
                    yield way._replace(canvas=canvas)

    def check_fixed(self, processes: Iterable[Process]) -> None:
        """Raises UserError if canvases or blocks are asked for and no model's lengths are fixed."""
        given = {"canvas": self.canvas, "block_length": self.block_lengths}
        all_insert = all(process.inserts for process in processes)
        for name, values in given.items():
            if values and all_insert:
                raise UserError(f"--{name} is for MDM: FlexMDM's lengths are its own; leave it out")

    def _samplers(
        self, rule: str, temperature: float, block_lengths: tuple[int, ...]
    ) -> Iterator[Way]:
        """Yields the ways without a canvas; what is passed holds where the request says nothing."""
        paces = [(f"{n} steps", {"steps": n}) for n in self.steps]
        paces += [(f"{k:.15g} events a step", {"events_per_step": k}) for k in self.events_per_step]
        default = "event by event" if self.sampling.get("sampler") == "exact" else "adaptive steps"
        paces = paces or [(default, {})]
        # The paper's sampler has a rule of its own.
        own = "paper" if self.sampling.get("sampler") == "paper" else ""
        temperatures = self.temperatures or (temperature,)
        for warmth, named in itertools.product(temperatures, self.rules):
            kind = named or ("" if own else rule)
            sizes = self.block_lengths or ((0,) if named or own else block_lengths)
            for size, (pace, numbers) in itertools.product(sizes, paces):
                if size and not self.block_lengths and not self._takes_blocks(numbers):
                    continue
                sampling = dict(self.sampling)
                if "events_per_step" in numbers and self.steps:
                    # Those of the steps that are tried beside it.
                    sampling |= {"grid": "", "sampler": ""}
                blocks = {"block_length": size} if size else {}
                settings = sampling | blocks | numbers
                sampler = parse_sampler(**settings, rule=kind, temperature=warmth)
                name = kind or own or "exact_rate"
                name += f", blocks of {size}" * (size > 0)
                name += f", temperature {warmth:.15g}" * (len(temperatures) > 1)
                yield Way(name, pace, sampler)

    def _takes_blocks(self, numbers: Mapping[str, Any]) -> bool:
        """Returns whether blocks that nobody has asked for can be tried at a pace."""
        return "steps" in numbers and not self.sampling.get("corrector")

    def _fills(self, sampler: SamplerConfig, slots: int) -> bool:
        """Returns whether a sampler's blocks are to be tried on so many slots.

        Raises:
          UserError: If there are too few steps for blocks that were asked for.
        """
        size = sampler.block_length
        num_blocks = -(-slots // size) if size else 0
        if not self.block_lengths:
            return not size or 1 < num_blocks <= sampler.steps
        if num_blocks > sampler.steps > 0:
            raise UserError(
                f"{sampler.steps} steps cannot fill the {num_blocks} blocks of {size} that {slots} "
                "slots have; use more steps or larger blocks"
            )
        return True


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
      rows: Label -> {figure -> value}; the standard error of a figure is `figure_error`. None, or
        not finite: it could not be computed.
      tables: Figures to show.
      pictures: File name -> PNG.
      notes: What else is to be said, a sentence each.
      samples: Texts that were written, where the evaluation is of these.
      examples: Who -> what it did on each example.
    """

    rows: Mapping[str, Mapping[str, float | None]]
    tables: Sequence[Table]
    pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    samples: Sequence[Sample] = ()
    examples: Mapping[Run, Examples] = dataclasses.field(default_factory=dict)
