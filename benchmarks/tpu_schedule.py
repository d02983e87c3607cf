"""What the TPU compiler's own schedule says of a kernel: instruction bundles, one a cycle.

A kernel is a loop over grid steps. Conditional parts of a step show as forward branches; every
other bundle of the loop is spent on every step.
"""

import dataclasses
import pathlib
import re

BUNDLE = re.compile(r"\s*(?:0x)?([0-9a-f]+)\s+(?:[A-Z]{2})?\s*:")
BRANCH = re.compile(r"= sbr\.rel \(!?%p\w+\) target = \$region(\d+)")
REGION = re.compile(r"Start(?:/End empty)? region (\d+)")
VMEM = re.compile(r"space=vmem, size = 0x([0-9a-f]+)")
# Shorter branches guard the transfer of a block and are counted as always taken.
SMALLEST_PART = 32


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Bundles of one kernel.

    Attributes:
      step: Spent on every grid step.
      parts: Of each conditional part of a step, in program order.
      vmem: Bytes of vector memory allocated.
    """

    step: int
    parts: tuple[int, ...]
    vmem: int


def dump_arguments(folder: pathlib.Path) -> str:
    """Returns the value of LIBTPU_INIT_ARGS that makes the compiler write schedules to a folder."""
    return f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"


def read_schedules(folder: pathlib.Path, name: str) -> dict[str, Schedule]:
    """Returns the schedules of dumped kernels whose name holds the given text, then clears them.

    Raises:
      RuntimeError: If there are none, or a dump is not of the form this parser knows.
    """
    found = {}
    for path in sorted(folder.glob(f"*{name}*final_bundles.txt")):
        if "schedule-analysis" not in path.name:
            kernel = path.name.split("-", 1)[1].split(".")[0].rstrip("_")
            found[kernel] = _parse(path)
    if not found:
        raise RuntimeError(f"the compiler wrote no schedule of {name!r} to {folder}")
    for path in folder.iterdir():
        path.unlink()
    return found


def _parse(path: pathlib.Path) -> Schedule:
    starts, branches = {}, []
    for line in path.read_text().splitlines():
        if match := BUNDLE.match(line):
            address = int(match[1], 16)
            for region in REGION.findall(line):
                starts.setdefault(region, address)
            branches += [(address, region) for region in BRANCH.findall(line)]
    spans = [(a, starts[region]) for a, region in branches if region in starts]
    loops = [(b, a) for a, b in spans if b < a]
    if not loops:
        raise RuntimeError(f"{path.name} has no loop over grid steps")
    first, last = max(loops, key=lambda loop: loop[1] - loop[0])
    inside = sorted((a, b) for a, b in spans if first <= a < b <= last)
    # The largest span is the step itself, skipped while the pipeline fills.
    step = max(inside, key=lambda span: span[1] - span[0])
    parts, end = [], step[0]
    for a, b in inside:
        if (a, b) != step and end <= a and b <= step[1] and b - a >= SMALLEST_PART:
            parts.append(b - a - 1)
            end = b
    return Schedule(last - first + 1 - sum(parts), tuple(parts), _vmem(path))


def _vmem(path: pathlib.Path) -> int:
    """Returns the bytes allocated in vector memory, register spills among them."""
    prefix = path.name.split("-final_bundles")[0].rsplit("-", 1)[0]
    (allocated,) = path.parent.glob(f"{prefix}-[0-9][0-9]-post-ra.txt")
    return sum(int(size, 16) for size in VMEM.findall(allocated.read_text()))
