"""Parts of a kernel for Hopper GPUs: products, tiles in shared memory, warpgroups with roles.

Pallas' interpreter simulates a kernel's threads, copies and barriers, but neither the matrix unit
nor the layout of arrays over registers. For it, these two have plain equivalents.
"""

import dataclasses
import inspect
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

# How the four warps of a group hold a result of the matrix unit, a value per row or per column.
_MATRIX = plgpu.Layout.WGMMA
# JAX 0.10 asks for an index beside the reference, which newer versions do not take.
_WHOLE = ((),) if "idx" in inspect.signature(plgpu.load).parameters else ()
_VECTORS = (_MATRIX.reduce(1), _MATRIX.reduce(0))
# Registers of a thread: one of each warpgroup shares out 512, and starts with 168.
COMPUTE_REGISTERS, LOAD_REGISTERS = 240, 24


@dataclasses.dataclass(frozen=True)
class Hopper:
    """What one warpgroup computes with; matrices are in shared memory unless said otherwise."""

    def products(self, *pairs):
        """Returns x yᵀ in float32 of every pair of matrices, all multiplied at once."""

        def multiply(*totals):
            for total, (x, y) in zip(totals, pairs, strict=True):
                plgpu.wgmma(total, x, plgpu.transpose_ref(y, (1, 0)))
            return tuple(total[...] for total in totals)

        shapes = ((x.shape[0], y.shape[0]) for x, y in pairs)
        return pl.run_scoped(multiply, *(plgpu.ACC(shape, jnp.float32) for shape in shapes))

    def add_product(self, total, x, y):
        """Returns total + x y; total and x are in registers."""
        return pl.run_state(lambda ref: plgpu.wgmma(ref, x, y))(plgpu.ACC.init(total))

    def full(self, shape, value: float):
        """Returns a matrix, or a vector of one value for each row, filled with a value."""
        layout = _MATRIX if len(shape) == 2 else _VECTORS[0]
        return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)

    def load(self, ref, index, axis: int):
        """Returns values read for each row (axis 0) or column (1) of a matrix."""
        return plgpu.load(ref.at[index], *_WHOLE, layout=_VECTORS[axis], optimized=False)

    def column(self, shape):
        """Returns the index of each entry's column."""
        return plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=_MATRIX)


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """The same for Pallas' interpreter, which runs on any machine."""

    def products(self, *pairs):
        """Returns x yᵀ of every pair."""
        return tuple(_dot(x[...], y[...].T) for x, y in pairs)

    def add_product(self, total, x, y):
        """Returns total + x y."""
        return total + _dot(x, y[...])

    def full(self, shape, value: float):
        """Returns an array filled with a value."""
        return jnp.full(shape, value, jnp.float32)

    def load(self, ref, index, axis: int):
        """Returns values read from memory."""
        return ref[index]

    def column(self, shape):
        """Returns the index of each entry's column."""
        return lax.broadcasted_iota(jnp.int32, shape, 1)


def _dot(x, y):
    return jnp.dot(x, y, preferred_element_type=jnp.float32)


def matrix_memory(shape, dtype):
    """Returns shared memory for matrices [..., rows, features] as the matrix unit reads them."""
    transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


@dataclasses.dataclass(frozen=True)
class Ring:
    """Tiles in shared memory that one warpgroup fills and all others read.

    Attributes:
      buffers: The memory, [stages, tile, ...] of each array.
      full: A barrier for each stage, at which a copy into each buffer arrives.
      free: A barrier for each stage, at which each reader arrives.
    """

    buffers: tuple
    full: Any
    free: Any

    @classmethod
    def memory(cls, buffers: tuple, stages: int, readers: int) -> tuple:
        """Returns what to allocate for a ring: pass it to Ring inside of the kernel."""
        barrier = lambda arrivals: plgpu.Barrier(num_arrivals=arrivals, num_barriers=stages)  # noqa: E731
        return buffers, barrier(len(buffers)), barrier(readers)

    def _stage(self, i):
        return lax.rem(i, jnp.int32(self.buffers[0].shape[0]))

    def fill(self, count, sources):
        """Copies tile after tile; sources(i) are the i-th of each array in global memory."""
        stages = self.buffers[0].shape[0]

        def wait(i):
            plgpu.barrier_wait(self.free.at[self._stage(i)])

        def step(i, _):
            pl.when(i >= stages)(lambda: wait(i))
            stage = self._stage(i)
            for source, buffer in zip(sources(i), self.buffers, strict=True):
                plgpu.copy_gmem_to_smem(source, buffer.at[stage], self.full.at[stage])

        lax.fori_loop(0, count, step, None)
        # Whoever waits at a barrier has to see each of its phases, the last ones too.
        lax.fori_loop(jnp.maximum(count - stages, 0), count, lambda i, _: wait(i), None)

    def read(self, start, stop, use, carry):
        """Returns the last carry = use(i, references to the i-th tile, carry)."""

        def step(i, carry):
            stage = self._stage(i)
            plgpu.barrier_wait(self.full.at[stage])
            carry = use(i, tuple(buffer.at[stage] for buffer in self.buffers), carry)
            plgpu.barrier_arrive(self.free.at[stage])
            return carry

        return lax.fori_loop(start, stop, step, carry)

    def skip(self, start, stop):
        """Lets tiles pass unread."""
        self.read(start, stop, lambda *_: None, None)


def by_role(group, groups: int, load, compute):
    """Runs compute in the first warpgroups and load, which needs few registers, in the last."""

    @pl.when(group == groups)
    def loader():
        plgpu.set_max_registers(LOAD_REGISTERS, action="decrease")
        load()

    @pl.when(group < groups)
    def computer():
        plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
        compute()


def fetch(barrier, *copies):
    """Copies (from, to) from global to shared memory and waits for all."""
    for source, target in copies:
        plgpu.copy_gmem_to_smem(source, target, barrier)
    plgpu.barrier_wait(barrier)


def store(*copies):
    """Writes (array, by way of, to): from registers through shared to global memory."""
    for value, through, _ in copies:
        through[...] = value.astype(through.dtype)
    plgpu.commit_smem()
    for _, through, target in copies:
        plgpu.copy_smem_to_gmem(through, target)
    plgpu.wait_smem_to_gmem(0)
