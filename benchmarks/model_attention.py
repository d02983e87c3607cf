"""Compiles one DiT training step for a TPU v5e with each attention; prints what the compiler says.

Needs no TPU: `python -m benchmarks.model_attention`. Takes about three minutes on one core.
"""

import functools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import length_laws
from benchmarks.tpu_compiler import tpu_mesh
from flexmdm_jax.attention import tiles
from flexmdm_jax.attention.blocks import CHIPS
from flexmdm_jax.interpolant import Interpolant, Times
from flexmdm_jax.losses import training_loss
from flexmdm_jax.models.dit import DiT, make_denoiser
from flexmdm_jax.process import Process
from flexmdm_jax.types import Vocabulary

ROWS, LENGTH, LAYERS, HEADS, FEATURES = 8, 1024, 12, 12, 768
VOCABULARY = Vocabulary(size=50_304, mask=50_257, end=50_256)
LAW = "OpenWebText, padded"


def compile_step(mesh, implementation: str, layers: int, *, unroll: int, remat: str):
    """Returns the compiled gradient of the training loss."""
    model = DiT(
        vocabulary_size=VOCABULARY.size,
        max_length=LENGTH,
        hidden_size=FEATURES,
        num_layers=layers,
        num_heads=HEADS,
        condition_size=128,
        dtype=jnp.bfloat16,
        remat=remat,
        scan_unroll=unroll,
        attention_implementation=implementation,
    )

    def loss(params, x, t):
        times = Times(t=t, weight=jnp.ones_like(t))
        return training_loss(make_denoiser(model, params), x, times, Process(VOCABULARY))[0]

    place = functools.partial(
        jax.tree.map,
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec())
        ),
    )
    slots = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
    gaps = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.float32)
    t = jax.ShapeDtypeStruct((ROWS, 1), jnp.float32)
    key = jax.random.key(0)
    x = Interpolant(tokens=slots, segment_ids=slots, targets=slots, gaps=gaps)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(model.init, key, slots, slots, t)
        args = place((nn.unbox(shapes)["params"], x, t))
        return jax.jit(jax.grad(loss)).lower(*args).compile()


def flops_of_step(mesh, implementation: str) -> float:
    """Returns the compiler's count; a loop's body counts once, so layers are unrolled."""
    one, two = (
        compile_step(mesh, implementation, n, unroll=n, remat="none").cost_analysis()["flops"]
        for n in (1, 2)
    )
    return one + (LAYERS - 1) * (two - one)


def flops_of_kernels(segment_ids) -> float:
    """Returns what the kernels' matrix products add, which the compiler does not look into."""
    blocks = CHIPS["v5e"].blocks
    work = tiles.list_tiles(tiles.segment_bounds(segment_ids), blocks.query, blocks.key)
    visited = int((work.span & (tiles.MASKED | tiles.UNMASKED) > 0).sum())
    # Two products forward, five backward, each 2 · query · key · feature.
    return LAYERS * visited * 7 * 2 * blocks.query * blocks.key * FEATURES


def main():
    """Prints one table of memory and one of FLOPs."""
    mesh = tpu_mesh("v5e")
    print(f"{LAYERS} layers of {FEATURES}, {ROWS} rows of {LENGTH}, bfloat16, v5e\n")
    print("| attention | remat | temporary memory, GiB |\n| --- | --- | ---: |")
    for implementation in ("xla", "pallas"):
        for remat in ("none", "full"):
            try:
                compiled = compile_step(mesh, implementation, LAYERS, unroll=1, remat=remat)
                memory = f"{compiled.memory_analysis().temp_size_in_bytes / 2**30:.2f}"
            except jax.errors.JaxRuntimeError as error:
                memory = str(error).splitlines()[0][:200]
            print(f"| {implementation} | {remat} | {memory} |", flush=True)
    print(
        "\n| attention | TFLOP by the compiler | full rows, kernels added | the same, OpenWebText |"
    )
    print("| --- | ---: | ---: | ---: |")
    batches = length_laws.laws(ROWS, LENGTH)
    for implementation in ("xla", "pallas"):
        counted = flops_of_step(mesh, implementation)
        inside = [0.0, 0.0]
        if implementation == "pallas":
            inside = [flops_of_kernels(jnp.asarray(batches[law])) for law in ("all full", LAW)]
        totals = " | ".join(f"{(counted + x) / 1e12:.2f}" for x in inside)
        print(f"| {implementation} | {counted / 1e12:.2f} | {totals} |", flush=True)


if __name__ == "__main__":
    main()
