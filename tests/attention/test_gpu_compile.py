"""The kernels pass the GPU compiler, use the matrix unit and keep everything in registers."""

import functools

import pytest
from layouts import compile_step

from benchmarks.gpu_compiler import gpu_mesh, reports

KERNELS = {f"segment_attention_{name}" for name in ("forward", "query_gradient", "key_gradient")}


@pytest.mark.parametrize("size", [64, 128])
def test_forward_and_backward(size):
    programs = []
    compiled = functools.partial(
        compile_step,
        gpu_mesh((2, 1, 2)),
        *(4, 1024, 8, 4, size),
        implementation="pallas_gpu",
        rows=("data", "fsdp"),
        heads="tensor",
    )
    found = reports(lambda: programs.append(compiled()))
    assert set(found) == KERNELS
    for name, report in found.items():
        assert report.instructions["HGMMA"], name
        spills = {report.spilled, report.instructions["STL"], report.instructions["LDL"]}
        assert spills == {0}, name
        assert not report.complaints
    text = programs[0].as_text()
    assert text.count("mosaic_gpu") >= len(KERNELS)
    assert "all-gather" not in text
    assert "all-to-all" not in text
