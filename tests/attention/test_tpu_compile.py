"""The kernels pass the TPU compiler, for every generation, head size and length."""

import pytest
from effort import either
from layouts import compile_step

from benchmarks.tpu_compiler import TOPOLOGIES, tpu_mesh

LENGTHS, SIZES = (256, 1024, 4096), (64, 128)
# Every length and size for every generation, or of each pair of these two every other.
CASES = [
    pytest.param(generation, size, length, id=f"{generation}-{size}-{length}")
    for i, generation in enumerate(TOPOLOGIES)
    for j, size in enumerate(SIZES)
    for k, length in enumerate(LENGTHS)
    if either((i + j + k) % 2 == 0, True)
]


@pytest.mark.parametrize(("generation", "size", "length"), CASES)
def test_forward_and_backward_compile(generation, size, length):
    compiled = compile_step(tpu_mesh(generation), 2, length, 2, 2, size, implementation="pallas")
    calls = compiled.as_text().count("tpu_custom_call")
    assert calls >= 2, "the kernels are missing from the program"
