"""What runs here, and the most that this card can do: products of matrices, copies of memory."""

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks.gpu_sections.section import Context, Row
from benchmarks.gpu_sections.timing import median_seconds
from flexmdm_jax import __version__
from flexmdm_jax.chips import chip_of

NAME = "ceilings"
PRODUCT = "matrix product, bfloat16"
_PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cudnn-cu13", "nvidia-cublas", "flax", "optax"),
    *("orbax-checkpoint", "torch", "triton"),
)


def run(context: Context) -> Iterator[Row]:
    """Yields versions, and the rates of a large matrix product and of a large copy."""
    yield Row("versions", versions())
    yield Row("card", card())
    yield matrix_product(context.sizes.matrix, context.sizes.seconds)
    yield copy(context.sizes.copied, context.sizes.seconds)


def versions() -> dict[str, str]:
    """Returns the version of everything that may matter, by its name."""
    found = {x.name.lower(): x.version for x in importlib.metadata.distributions()}
    ours = {"flexmdm_jax": __version__, "python": platform.python_version()}
    return ours | {name: found.get(name, "not installed") for name in _PACKAGES}


def card() -> dict[str, str | float]:
    """Returns what JAX calls the device, its memory, its driver and what its maker promises."""
    device = jax.devices()[0]
    chip, limit = chip_of(device.device_kind), (device.memory_stats() or {}).get("bytes_limit")
    figures = {"device": device.device_kind, "driver": _driver()}
    if limit:
        figures["GB for JAX"] = limit / 1e9
    return figures | ({"TFLOP/s promised": chip.peak_flops / 1e12} if chip else {})


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if not tool:
        return "unknown, no nvidia-smi here"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
    return " ".join((answer.stdout or answer.stderr).split())


def matrix_product(size: int, seconds: float) -> Row:
    """Returns the rate of a product of two square matrices of random bfloat16 numbers."""
    x, y = (
        jax.random.normal(key, (size, size), jnp.bfloat16)
        for key in jax.random.split(jax.random.key(0))
    )
    taken = median_seconds(jax.jit(jnp.matmul), x, y, seconds=seconds)
    return Row(PRODUCT, {"size": size, "ms": 1e3 * taken, "TFLOP/s": 2 * size**3 / taken / 1e12})


def copy(size: int, seconds: float) -> Row:
    """Returns the rate of copying so many random bytes, those read and those written counted."""
    x = jax.random.bits(jax.random.key(1), (size // 4,))
    taken = median_seconds(jax.jit(jnp.copy), x, seconds=seconds)
    rate = {"GB": size / 1e9, "ms": 1e3 * taken, "TB/s": 2 * size / taken / 1e12}
    return Row("copy, read and written", rate)
