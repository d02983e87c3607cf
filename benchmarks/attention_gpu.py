"""What the GPU kernels visit, and what the compiler made of them for an H100.

Needs no GPU: `python -m benchmarks.attention_gpu` (or `make bench-attention`) prints the tables of
docs/performance.md. They say how much work there is and that it runs on the matrix unit out of
registers; how long it takes, only a GPU can say. Takes about half a minute on one core.
"""

import argparse
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import length_laws
from benchmarks.gpu_compiler import gpu_mesh, reports
from benchmarks.stream_count import count_tiles
from flexmdm_jax.attention.pallas_gpu import PLANS, Stream, attention_pallas_gpu
from flexmdm_jax.attention.streams import BLOCK, GROUP

ROWS, LENGTH = 64, 1024


def print_tiles():
    """Prints how many tiles a pass visits, by length law and tile size, for one head."""
    print(f"\nOne head, {ROWS} rows of {LENGTH}, {GROUP} slots by a tile's:\n")
    print("| lengths | tile | all tiles | visited | masked | pairs visited | needed | loaded |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for law, segment_ids in length_laws.laws(ROWS, LENGTH).items():
        for tile in (64, 128):
            count = count_tiles(segment_ids, tile)
            every = ROWS * LENGTH // GROUP * LENGTH // tile
            loaded = count.loaded / (ROWS * LENGTH // BLOCK * LENGTH)
            print(
                f"| {law} | {tile} | {every} | {count.tiles} | {count.masked} | "
                f"{count.pairs / (ROWS * LENGTH**2):.3f} | {length_laws.floor(segment_ids):.3f} | "
                f"{loaded:.3f} |",
                flush=True,
            )


def print_kernels(sizes):
    """Prints what the compiler made of each kernel, with two query heads per head of keys."""
    print("\nNVIDIA H100, bfloat16:\n")
    print(
        "| head | kernel | tile × stages | instructions | HGMMA | TMA loads, stores | registers "
        "| spilled bytes | shared memory, KiB |"
    )
    print("| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        for name, report in reports(lambda size=size: compile_step(size)).items():
            kernel = name.removeprefix("segment_attention_")
            stream, count = getattr(PLANS[size], kernel), report.instructions
            memory = shared_memory(stream, kernel, size)
            if count["STL"] or count["LDL"]:
                raise RuntimeError(f"{name} keeps registers in memory: {count}")
            print(
                f"| {size} | {kernel.replace('_', ' ')} | {stream.tile} × {stream.stages} | "
                f"{count.total()} | {count['HGMMA']} | {count['UTMALDG']}, {count['UTMASTG']} | "
                f"{report.registers} | {report.spilled} | {memory:.0f} |",
                flush=True,
            )


def shared_memory(stream: Stream, kernel: str, size: int) -> float:
    """Returns the KiB that the arrays of a kernel take; barriers come to a few dozen bytes."""
    vector, matrix = 4, 2 * size
    bounds = 2 * vector
    own = bounds + (matrix + vector if kernel == "forward" else 2 * matrix)
    passing = 2 * matrix + (2 * vector if kernel == "key_gradient" else 0)
    return (BLOCK * own + stream.stages * stream.tile * passing) / 1024


def compile_step(size: int):
    """Compiles forward and backward for one H100."""

    def step(q, k, v, ids, grad):
        attend = lambda q, k, v: attention_pallas_gpu(q, k, v, ids)  # noqa: E731
        return jax.vjp(attend, q, k, v)[1](grad)

    mesh = gpu_mesh()
    sharding = NamedSharding(mesh, PartitionSpec())
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)  # noqa: E731
    q, k = array(ROWS, LENGTH, 8, size), array(ROWS, LENGTH, 4, size)
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=sharding)
    with jax.set_mesh(mesh):
        jax.jit(step).lower(q, k, k, ids, q).compile()


def main():
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=list(PLANS), choices=list(PLANS), help="of heads"
    )
    args = parser.parse_args()
    print("OpenWebText lengths:", length_laws.paragraph_lengths()[1])
    print_tiles()
    print_kernels(args.sizes)


if __name__ == "__main__":
    main()
