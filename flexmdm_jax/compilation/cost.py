"""What one run of a compiled program costs a chip: products, bytes, collectives, loops unrolled.

The compiler's own cost_analysis() counts the body of a loop once and looks into no kernel.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping

from flexmdm_jax.compilation.hlo import Computation, Instruction, Program, trip_count

# (operand shapes of the kernel's call) -> operations, by a part of its name.
Kernels = Mapping[str, Callable[[list], float]]
_NOT_MOVED = frozenset(
    [
        "parameter",
        "constant",
        "iota",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "while",
        "conditional",
        "call",
        "partition-id",
        "replica-id",
    ]
)


@dataclasses.dataclass(frozen=True)
class Collectives:
    """Transfers between chips of one kind.

    Attributes:
      count: How many run.
      bytes: Sent by each chip, with a ring algorithm where there is a choice.
    """

    count: int
    bytes: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run, per chip.

    Attributes:
      flops: Of matrix products, 2 a multiply-add; branches count as the most costly one.
      conditional_flops: The part of them that lies in branches, which a run may not take: of a
        vocabulary head, what every slot chosen would cost.
      bytes: Read and written by the program's instructions.
      collectives: By kind.
    """

    flops: float
    conditional_flops: float
    bytes: float
    collectives: dict[str, Collectives]


def _attention_flops(products: int, share: float) -> Callable[[list], float]:
    def flops(shapes: list) -> float:
        # The first array of numbers with three axes or four is q: [rows, length, heads · size].
        rows, length, *features = next(
            s.dims for s in shapes if len(s.dims) in (3, 4) and s.dtype != "s32"
        )
        return products * share * 2.0 * rows * length * length * math.prod(features)

    return flops


def attention_kernels(share: float) -> Kernels:
    """Returns the kernels' operations if they visit a share of all pairs of a row's slots.

    A pair takes two products forward and five backward; of the GPU's two kernels, each of which
    computes the scores and their gradients again, three and four.
    """
    return {
        "segment_attention_forward": _attention_flops(2, share),
        "segment_attention_backward": _attention_flops(5, share),
        "segment_attention_query_gradient": _attention_flops(3, share),
        "segment_attention_key_gradient": _attention_flops(4, share),
    }


# cuDNN's attention by its custom call: products forward and backward.
_CUDNN = {"__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 5}

# Full rows, the most there can be.
ATTENTION_KERNELS = attention_kernels(1.0)


def program_cost(
    program: Program, kernels: Kernels = ATTENTION_KERNELS, open_turns: int | None = None
) -> Cost:
    """Returns the cost of one run of a program on one chip.

    Args:
      program: From parse_program().
      kernels: Operations inside custom calls, by a part of the call's name.
      open_turns: How often a loop runs that ends when its data say so: a sampler's.

    Raises:
      ValueError: If a loop's number of turns cannot be read, or a kernel is not known.
    """
    counter = _Counter(program, kernels, open_turns)
    total = counter.of(program.entry)
    collectives = {
        kind: Collectives(int(total[f"count {kind}"]), total[f"sent {kind}"])
        for kind in sorted(key.removeprefix("count ") for key in total if key.startswith("count "))
    }
    return Cost(
        flops=float(total["flops"]),
        conditional_flops=float(total["conditional flops"]),
        bytes=float(total["bytes"]),
        collectives=collectives,
    )


class _Counter:
    """Costs of computations, each added up once."""

    def __init__(self, program: Program, kernels: Kernels, open_turns: int | None):
        self._program = program
        self._kernels = kernels
        self._open_turns = open_turns
        self._known: dict[str, collections.Counter] = {}

    def of(self, name: str) -> collections.Counter:
        if name not in self._known:
            computation = self._program.computations[name]
            total = collections.Counter()
            for instruction in computation.instructions.values():
                total.update(self._one(computation, instruction))
            self._known[name] = total
        return self._known[name]

    def _one(self, computation: Computation, x: Instruction) -> collections.Counter:
        if x.opcode.endswith(("-done", "-update")):
            return collections.Counter()
        x = _synchronous(computation, x)
        opcode = x.opcode
        if opcode == "while":
            body = self.of(x.calls("body")[0])
            try:
                return _times(body, trip_count(self._program, computation, x))
            except ValueError:
                # Samplers of random numbers repeat until they accept: no products in there.
                if not body["flops"]:
                    return body
                if self._open_turns is None:
                    raise
                return _times(body, self._open_turns)
        if opcode == "conditional":
            branches = x.calls("branch_computations") or (
                *x.calls("true_computation"),
                *x.calls("false_computation"),
            )
            costs = [self.of(name) for name in branches]
            most = collections.Counter(max(costs, key=lambda cost: cost["flops"]))
            most["conditional flops"] = most["flops"]
            return most
        if opcode in ("call", "async"):
            return self.of((x.calls("to_apply") or x.calls("calls"))[0])
        cost = collections.Counter(bytes=_bytes(self._program, computation, x))
        if opcode == "fusion":
            inside = self.of(x.calls("calls")[0])
            cost.update({name: n for name, n in inside.items() if name != "bytes"})
        elif opcode == "convolution":
            cost["flops"] = _convolution_flops(computation, x)
        elif opcode == "dot":
            cost["flops"] = _dot_flops(computation, x)
        elif opcode == "custom-call":
            cost["flops"] = self._kernel_flops(computation, x)
        elif opcode in _COLLECTIVES:
            cost[f"count {opcode}"] = 1
            cost[f"sent {opcode}"] = _sent(opcode, computation, x)
        return cost

    def _kernel_flops(self, computation: Computation, x: Instruction) -> float:
        """Returns the operations of kernels, cuBLAS and cuDNN; other calls have no product."""
        target = (x.attribute("custom_call_target") or "").strip('"')
        if target in _CUDNN:
            return _CUDNN[target] * _scores_flops(computation, x)
        if target.startswith("__cublas"):
            return _cublas_flops(computation, x)
        for name, flops in self._kernels.items():
            if name in x.name or name in x.attributes:
                return flops(computation.operand_shapes(x))
        if target.startswith(_KERNELS):
            raise ValueError(f"the operations of the kernel {x.name} are not known")
        return 0.0


# Calls that may hold products: of Pallas on TPUs and GPUs, and cuDNN's convolutions.
_KERNELS = ("tpu_custom_call", "mosaic_gpu", "__gpu$xla.gpu.triton", "__cudnn$")
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")


def _synchronous(computation: Computation, x: Instruction) -> Instruction:
    """Returns an instruction that starts something as one that does it, with the results alone.

    Its own type holds the operands and what the compiler keeps account by, too.
    """
    if not x.opcode.endswith("-start"):
        return x
    ends = (
        other
        for other in computation.instructions.values()
        if x.name in other.operands and other.opcode.endswith("-done")
    )
    shapes = next((end.shapes for end in ends), x.shapes)
    return dataclasses.replace(x, opcode=x.opcode.removesuffix("-start"), shapes=shapes)


def _scores_flops(computation: Computation, x: Instruction) -> float:
    """Returns the operations of one of attention's products, from the shape of its scores."""
    scores = re.search(r'"intermediate_tensor_shape".*?"dimensions":\s*\[([^\]]*)\]', x.attributes)
    dims = [int(n) for n in re.findall(r"\d+", scores[1])]
    return 2.0 * math.prod(dims) * computation.operand_shapes(x)[0].dims[-1]


def _cublas_flops(computation: Computation, x: Instruction) -> float:
    axes = re.search(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]', x.attributes)
    left = computation.operand_shapes(x)[0]
    contracted = math.prod(left.dims[int(n)] for n in re.findall(r"\d+", axes[1]))
    return 2.0 * x.shapes[0].size * contracted


def _times(cost: collections.Counter, turns: int) -> collections.Counter:
    return collections.Counter({name: turns * n for name, n in cost.items()})


def _dot_flops(computation: Computation, x: Instruction) -> float:
    left = computation.operand_shapes(x)[0]
    axes = [int(n) for n in (x.attribute("lhs_contracting_dims") or "").split(",") if n]
    return 2.0 * x.shapes[0].size * math.prod(left.dims[axis] for axis in axes)


def _convolution_flops(computation: Computation, x: Instruction) -> float:
    """Returns 2 · products that meet data; TPUs turn the batch axes of dots into padded windows."""
    left, right = computation.operand_shapes(x)[:2]
    inputs, kernel, output = re.split("_|->", x.attribute("dim_labels"))
    out = x.shapes[0]
    window = dict(part.split("=") for part in (x.attribute("window") or "").split())
    per_axis = {name: value.split("x") for name, value in window.items()}
    products = right.dims[kernel.index("i")] * out.dims[output.index("f")]
    products *= out.dims[output.index("b")]
    for axis in range(len(per_axis.get("size", ()))):
        option = lambda name, default: per_axis[name][axis] if name in per_axis else default  # noqa: B023, E731
        low = int(option("pad", "0_0").partition("_")[0])
        products *= _meetings(
            left.dims[inputs.index(str(axis))],
            out.dims[output.index(str(axis))],
            int(option("size", 1)),
            stride=int(option("stride", 1)),
            low=low,
            data_step=int(option("lhs_dilate", 1)),
            kernel_step=int(option("rhs_dilate", 1)),
        )
    return 2.0 * products / int(x.attribute("batch_group_count") or 1)


def _meetings(data, outputs, size, *, stride, low, data_step, kernel_step) -> int:
    """Returns how many pairs of an output and a kernel position fall on data, not on padding."""
    count = 0
    for position in range(size):
        for place in range(outputs):
            at = place * stride - low + position * kernel_step
            count += at % data_step == 0 and 0 <= at // data_step < data
    return count


def _sent(kind: str, computation: Computation, x: Instruction) -> float:
    operand = sum(shape.bytes for shape in computation.operand_shapes(x))
    if kind == "collective-permute":
        return float(operand)
    group = _group_size(x)
    if kind == "all-gather":
        return operand * (group - 1.0)
    share = (group - 1.0) / group
    return operand * share * (2.0 if kind == "all-reduce" else 1.0)


def _group_size(x: Instruction) -> int:
    """Returns how many chips take part; groups are written out, counted or named by mesh axes."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{}]*\{([^}]*)\}", x.attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        # An axis, or a part of one: 'name' or 'name':(places before it)size.
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[name]) for name, part in axes)
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", x.attributes):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", x.attributes):
        return len(match[1].split(","))
    raise ValueError(f"the groups of {x.name} cannot be read: {x.attributes[:200]}")


def _bytes(program: Program, computation: Computation, x: Instruction) -> float:
    """Returns what an instruction reads and writes; a slice of an array counts as the slice."""
    if x.opcode in _NOT_MOVED:
        return 0.0
    written = sum(shape.bytes for shape in x.shapes)
    read = [sum(s.bytes for s in computation.instructions[name].shapes) for name in x.operands]
    if x.opcode in ("slice", "dynamic-slice"):
        return 2.0 * written
    if x.opcode == "dynamic-update-slice":
        return 2.0 * read[1]
    if x.opcode != "fusion":
        return float(written + sum(read))
    inner = program.computations[x.calls("calls")[0]]
    users = collections.defaultdict(list)
    for instruction in inner.instructions.values():
        for name in instruction.operands:
            users[name].append(instruction)
    updates = [i for i in inner.instructions.values() if i.opcode == "dynamic-update-slice"]
    for update in updates:
        # The array is updated where it lies: neither read nor written as a whole.
        written -= update.shapes[0].bytes - inner.operand_shapes(update)[1].bytes
    for instruction in inner.instructions.values():
        if instruction.opcode != "parameter":
            continue
        uses = users[instruction.name]
        if uses and all(user.opcode == "dynamic-slice" for user in uses):
            read[int(instruction.arguments)] = sum(user.shapes[0].bytes for user in uses)
        elif uses and all(
            user in updates and user.operands[0] == instruction.name for user in uses
        ):
            read[int(instruction.arguments)] = 0
    return float(max(written, 0) + sum(read))
