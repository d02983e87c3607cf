"""Memory, operations and transfers of a program per chip, as a table and as JSON."""

import dataclasses
from collections.abc import Callable

import jax

from flexmdm_jax.attention.blocks import DoesNotFitError, TooManyRowsError
from flexmdm_jax.compilation.cost import Collectives, attention_kernels, program_cost
from flexmdm_jax.compilation.hlo import parse_program
from flexmdm_jax.compilation.programs import (
    Compiled,
    Experiment,
    available_memory,
    bytes_per_chip,
    compile_program,
)
from flexmdm_jax.compilation.topology import Topology
from flexmdm_jax.compilation.workload import Workload, workload
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.errors import UserError

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Report:
    """What a program asks of each chip; bytes and operations are per chip and run.

    A run is one training step, or all steps of the sampler.

    Attributes:
      program: train or sample.
      topology: As it was named.
      chips: Their number.
      mesh: Sizes of data, fsdp and tensor.
      remat: The config's.
      rows: Rows per chip.
      available: Memory the compiler may use.
      parameters: Bytes of parameters.
      optimizer: Bytes of their average and the optimizer's state; 0 when sampling.
      temporaries: Bytes beside these; if it does not fit, what would be needed.
      peak: The most that is held at once; None if it does not fit.
      fits: Whether the compiler placed it.
      flops: Of matrix products, kernels with full rows, every slot a mask; None if it does not fit.
      model_flops: The same, of products the result needs: nothing recomputed.
      flops_of_6n: 6 · N · slots plus attention, N all parameters but the token embedding.
      bytes: Read and written by instructions.
      collectives: Transfers between chips by kind.
      workload: What a training step has to do with the experiment's data; None if they are not
        there, or it samples.
      executed_flops: Of products that are worked off for these data.
      needed_flops: Of products that these data need.
    """

    program: str
    topology: str
    chips: int
    mesh: tuple[int, ...]
    remat: str
    rows: int
    available: int
    parameters: int
    optimizer: int
    temporaries: int
    peak: int | None
    fits: bool
    flops: float | None
    model_flops: float
    flops_of_6n: float
    bytes: float | None
    collectives: dict[str, Collectives]
    workload: Workload | None = None
    executed_flops: float | None = None
    needed_flops: float | None = None

    def lines(self) -> list[str]:
        """Returns the rows of its table, as Markdown."""
        room = (self.available - (self.peak or self.temporaries)) / _GIB
        verdict = f"yes, {room:.2f} GiB left" if self.fits else f"no, {-room:.2f} GiB too many"
        rows = [
            ("parameters, GiB", f"{self.parameters / _GIB:.3f}"),
            ("average and optimizer, GiB", f"{self.optimizer / _GIB:.3f}"),
            ("temporaries, GiB", f"{self.temporaries / _GIB:.2f}"),
            ("peak, GiB", f"{self.peak / _GIB:.2f}" if self.fits else "-"),
            ("available, GiB", f"{self.available / _GIB:.2f}"),
            ("fits", verdict),
        ]
        if self.fits:
            rows += [
                ("TFLOP compiled", f"{self.flops / 1e12:.3f}"),
                ("compiled / needed FLOPs", f"{self.flops / self.model_flops:.3f}"),
                ("compiled / (6 N slots + attention)", f"{self.flops / self.flops_of_6n:.3f}"),
                ("GiB read and written", f"{self.bytes / _GIB:.0f}"),
            ]
            rows += [
                (f"{kind}: number, GiB sent", f"{moved.count}, {moved.bytes / _GIB:.3f}")
                for kind, moved in self.collectives.items()
            ]
        rows += self._data_lines() if self.workload else []
        head = f"{self.program}, {self.rows} rows per chip, remat {self.remat}"
        where = f"{self.topology}, mesh {' x '.join(map(str, self.mesh))}"
        return [f"| {head} | {where} |", "| --- | ---: |", *(f"| {a} | {b} |" for a, b in rows)]

    def _data_lines(self) -> list[tuple[str, str]]:
        work, of_chip = self.workload, 1 / self.chips
        lines = [
            ("of the dataset, sequences per chip", f"{work.sequences * of_chip:.1f}"),
            ("tokens of x₁ per chip", f"{work.tokens * of_chip:.0f}"),
            ("slots filled", f"{work.fill:.1%}"),
        ]
        if self.executed_flops is None:
            return lines
        return [
            *lines,
            ("pairs of slots visited by attention", f"{work.attended:.1%}"),
            ("slots worked off by the head", f"{work.decoded:.1%}"),
            ("TFLOP executed", f"{self.executed_flops / 1e12:.3f}"),
            ("executed / needed FLOPs", f"{self.executed_flops / self.needed_flops:.3f}"),
        ]


def report(
    experiment: Experiment, program: str, topology: Topology, dataset: Dataset | None = None
) -> Report:
    """Returns the report on a program of an experiment, compiled for the topology's devices.

    Args:
      experiment: Its config and devices.
      program: Of PROGRAMS.
      topology: Whose devices these are.
      dataset: What it is trained on, if it is there.

    Raises:
      UserError: If attention cannot take so many rows, or rows so long.
    """
    try:
        compiled = compile_program(experiment, program, topology.memory)
    except DoesNotFitError as error:
        raise UserError(f"{program}, {experiment.rows_per_chip} rows per chip: {error}") from None
    return _report(experiment, program, topology, compiled, dataset)


def _report(experiment, program: str, topology: Topology, compiled: Compiled, dataset) -> Report:
    parsed = parse_program(compiled.text) if compiled.fits else None
    training = program == "train"
    # The sampler ends when its rows do: at the latest after all steps.
    turns = None if training else max(experiment.config.evaluation.num_steps, 1)
    cost = program_cost(parsed, open_turns=turns) if parsed else None
    state, setup = experiment.state, experiment.setup
    needed, of_6n = _analytic_flops(experiment, program)
    return Report(
        program=program,
        topology=topology.name,
        chips=len(topology.devices),
        mesh=tuple(setup.mesh.shape.values()),
        remat=experiment.config.model.remat,
        rows=experiment.rows_per_chip,
        available=compiled.available or available_memory(topology),
        parameters=bytes_per_chip((state.params, state.frozen)),
        optimizer=bytes_per_chip((state.ema, state.opt_state)) if training else 0,
        temporaries=compiled.temporaries,
        peak=compiled.peak,
        fits=compiled.fits,
        flops=cost and cost.flops,
        model_flops=needed,
        flops_of_6n=of_6n,
        bytes=cost and cost.bytes,
        collectives=cost.collectives if cost else {},
        **(_of_data(experiment, topology, parsed, dataset) if training and dataset else {}),
    )


def _of_data(experiment: Experiment, topology: Topology, parsed, dataset: Dataset) -> dict:
    """Returns the fields of a report on a training step that depend on what is in its rows."""
    work = workload(experiment, dataset, topology)
    if parsed is None:
        return {"workload": work}
    cost = program_cost(parsed, attention_kernels(work.attended))
    # What lies in branches is the vocabulary head, on slots of which only some are chosen.
    executed = cost.flops - cost.conditional_flops * (1 - work.decoded)
    forward = experiment.setup.model.flops
    products, attention = forward(work.slots, 0, work.masks), forward(0, work.pairs, 0)
    needed = _with_gradients(experiment.state, products, attention)
    return {
        "workload": work,
        "executed_flops": executed,
        "needed_flops": needed / experiment.setup.mesh.size,
    }


def _analytic_flops(experiment: Experiment, program: str) -> tuple[float, float]:
    """Returns (operations the model needs, 6 · N · slots + attention), per chip and run.

    Frozen parameters need no gradient of their own, a third of a trained one's: 4 · N for 6 · N.
    """
    model, state = experiment.setup.model, experiment.state
    length = experiment.bins.length if program == "train" else experiment.length
    slots = experiment.rows * length
    pairs = experiment.rows * length**2
    attention, products = model.flops(0, pairs, 0), model.flops(slots, 0, slots)
    trained, frozen = (_num_in_products(tree) * 2 * slots for tree in (state.params, state.frozen))
    chips = experiment.setup.mesh.size
    if program == "train":
        needed = _with_gradients(state, products, attention)
        of_6n = 3 * trained + 2 * frozen + 3 * attention
    else:
        steps = experiment.config.evaluation.num_steps
        needed = steps * (products + attention)
        of_6n = steps * (trained + frozen + attention)
    return needed / chips, of_6n / chips


def _with_gradients(state, products: float, attention: float) -> float:
    """Returns a training step's operations, given those of its forward pass.

    The backward pass has twice as many, but for the gradients of frozen parameters.
    """
    sizes = [_num_in_products(tree) for tree in (state.params, state.frozen)]
    return (2 + sizes[0] / sum(sizes)) * products + 3 * attention


def _num_in_products(params) -> int:
    """Returns how many parameters a slot is multiplied with: all but the token embedding."""
    sizes = jax.tree_util.tree_leaves_with_path(params)
    return sum(x.size for path, x in sizes if "embedding" not in path[0].key)


def search(
    make_experiment,
    program: str,
    topology: Topology,
    dataset: Dataset | None = None,
    most: int = 2048,
) -> Report:
    """Returns the report on the largest number of rows per chip that fits.

    Args:
      make_experiment: Rows per chip -> Experiment.
      program: Of PROGRAMS.
      topology: Whose devices the experiments are for.
      dataset: See report().
      most: The largest number to try.

    Raises:
      UserError: If a single row does not fit.
    """

    def compile_rows(rows: int) -> Compiled | None:
        try:
            return compile_program(make_experiment(rows), program, topology.memory)
        except TooManyRowsError:
            return None

    found = largest(compile_rows, most)
    if found is None:
        raise UserError(
            f"not even one row of {program} fits a chip of {topology.name}; "
            "spread parameters with config.mesh.fsdp or take a smaller model"
        )
    rows, compiled = found
    return _report(make_experiment(rows), program, topology, compiled, dataset)


def largest(
    compile_rows: Callable[[int], Compiled | None], most: int
) -> tuple[int, Compiled] | None:
    """Returns the largest number of rows that fits, and what the compiler made of it.

    None of compile_rows is a refusal that does not say what would have been needed.

    Numbers of rows are tried eight to an octave: 1 to 16, then every second, every fourth, … A
    number too large is refused within seconds and says what it would have needed, so guesses come
    from above.
    """
    sizes = [n for n in range(1, most + 1) if n % max(1, 2 ** (n.bit_length() - 4)) == 0]
    low, high = -1, len(sizes)
    best, refused = None, {}
    while high - low > 1:
        at = _guess(sizes, low, high, refused)
        compiled = compile_rows(sizes[at])
        if compiled and compiled.fits:
            low, best = at, (sizes[at], compiled)
        else:
            high = at
            if compiled:
                refused[sizes[at]] = compiled.temporaries / compiled.available
    return best


def _guess(sizes: list[int], low: int, high: int, refused: dict[int, float]) -> int:
    """Returns the position between low and high to try next.

    Memory grows linearly with rows; where a line through two refusals reaches 1 is the limit. What
    is refused for another reason is refused at once, so from there it goes down step by step.
    """
    if not refused:
        return high - 1
    if len(refused) == 1:
        return (low + high) // 2
    (a, x), (b, y) = sorted(refused.items())[:2]
    limit = a - (x - 1) * (b - a) / (y - x) if y > x else a
    below = [i for i in range(low + 1, high) if sizes[i] <= limit]
    return below[-1] if below else low + 1
