"""Meshes of H100s that are not attached, and what their compiler says of a kernel."""

import collections
import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import re
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from flexmdm_jax.compilation.topology import find_topology

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)([^;]*);")
REGISTER = re.compile(r"\bR(\d+)\b")
COMPLAINT = re.compile(r"ptxas warning|Performance Loss")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


@dataclasses.dataclass(frozen=True)
class Report:
    """What was made of a kernel.

    Attributes:
      instructions: How often each machine instruction stands in it.
      registers: Of a thread of the warpgroups that use most.
      spilled: Bytes of a thread's registers that are written to and read from memory.
      complaints: What the compiler says costs speed.
    """

    instructions: collections.Counter
    registers: int
    spilled: int
    complaints: tuple[str, ...]


def gpu_mesh(shape=(1, 1, 1), names=("data", "fsdp", "tensor")):
    """Returns a mesh of H100s in one host."""
    devices = find_topology(f"h100-{np.prod(shape)}").devices
    return jax.sharding.Mesh(np.asarray(devices).reshape(shape), names)


def reports(compile_kernels: Callable[[], object]) -> dict[str, Report]:
    """Returns reports of the Mosaic kernels that a function compiles, by name.

    A kernel the process has compiled before is not reported again.
    """
    _find_disassembler()
    with tempfile.TemporaryFile("w+") as output:
        with _dumping(output):
            compile_kernels()
        output.seek(0)
        text = output.read()
    complaints = [line for line in text.splitlines() if COMPLAINT.search(line)]
    _, *kernels = re.split(r"Compiling entry function '(\w+?)(?:_mosaic_gpu_kernel)?'", text)
    return {
        name: _read(part, [line for line in complaints if name in line])
        for name, part in zip(kernels[::2], kernels[1::2], strict=True)
    }


def _read(text: str, complaints: list[str]) -> Report:
    found = INSTRUCTION.findall(text)
    registers = [int(n) for _, operands in found for n in REGISTER.findall(operands)]
    return Report(
        instructions=collections.Counter(name for name, _ in found),
        registers=max(registers, default=-1) + 1,
        spilled=sum(int(n) for n in SPILLS.search(text).groups()),
        complaints=tuple(complaints),
    )


def _find_disassembler():
    # Mosaic looks where CUDA is installed; ours comes as a package.
    from jax.experimental.mosaic.gpu import core  # noqa: F401  sets the variable once

    (path,) = (
        path for path in importlib.metadata.files("nvidia-cuda-nvdisasm") if path.name == "nvdisasm"
    )
    os.environ["MOSAIC_GPU_CUDA_ROOT"] = str(pathlib.Path(path.locate()).parents[1])


@contextlib.contextmanager
def _dumping(output):
    """Makes Mosaic write what it compiles to a file: it knows standard output only."""
    names = ("MOSAIC_GPU_DUMP_PTXAS", "MOSAIC_GPU_DUMP_SASS")
    streams = {number: os.dup(number) for number in (1, 2)}
    try:
        os.environ.update(dict.fromkeys(names, "1"))
        for number in streams:
            os.dup2(output.fileno(), number)
        yield
    finally:
        for number, stream in streams.items():
            os.dup2(stream, number)
            os.close(stream)
        for name in names:
            del os.environ[name]
