"""Counts read from compiled programs agree with arithmetic, and with loops unrolled by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.tpu_compiler import tpu_mesh
from flexmdm_jax.compilation.cost import program_cost
from flexmdm_jax.compilation.hlo import Shape, parse_program, trip_count
from flexmdm_jax.posterior import sum_slots

TURNS, ROWS, WIDTH = 6, 256, 384


def _compiled(fn, *shapes, mesh=None, specs=None, dtype=jnp.bfloat16):
    mesh = mesh or tpu_mesh("v5e")
    specs = specs or [()] * len(shapes)
    place = lambda spec: NamedSharding(mesh, PartitionSpec(*spec))  # noqa: E731
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=place(spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    return jax.jit(fn).lower(*arrays).compile()


def _cost(compiled):
    return program_cost(parse_program(compiled.as_text()))


def _layers(x, weights, unroll):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights, unroll=unroll)[0]


def _gradient(x, weights, unroll):
    return jax.grad(lambda w: _layers(x, w, unroll).sum())(weights)


@pytest.mark.parametrize(("fn", "products"), [(_layers, 1), (_gradient, 3)])
def test_a_loop_counts_as_often_as_it_turns(fn, products):
    """The gradient has three products a layer, but for that with respect to x of the first."""
    shapes = ((ROWS, WIDTH), (TURNS, WIDTH, WIDTH))
    rolled, unrolled = (
        _compiled(functools.partial(fn, unroll=unroll), *shapes) for unroll in (1, TURNS)
    )
    one = 2 * ROWS * WIDTH * WIDTH
    assert _cost(unrolled).flops in (products * TURNS * one, (products * TURNS - 1) * one)
    assert _cost(rolled).flops == products * TURNS * one
    # The compiler counts elementwise work too, but not the turns.
    compilers = unrolled.cost_analysis()["flops"]
    assert _cost(unrolled).flops == pytest.approx(compilers, rel=0.03)
    assert rolled.cost_analysis()["flops"] < 0.6 * compilers


def test_products_over_batch_axes_are_not_counted_with_their_padding():
    """The TPU compiler writes these as convolutions over padded windows."""
    fn = lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k)  # noqa: E731
    compiled = _compiled(fn, (4, 128, 12, 64), (4, 256, 12, 64))
    assert _cost(compiled).flops == 2 * 4 * 12 * 128 * 256 * 64


def test_the_costlier_branch_counts():
    def fn(x, w):
        work = lambda x: x @ w @ w  # noqa: E731
        return jax.lax.cond(x[0, 0] > 0, work, lambda x: x, x)

    assert _cost(_compiled(fn, (ROWS, WIDTH), (WIDTH, WIDTH))).flops == 4 * ROWS * WIDTH**2


@pytest.mark.parametrize("turns", [1, TURNS])
def test_operations_in_branches_are_counted_apart(turns):
    """In loops as often as these turn, and those of a branch within a branch once."""

    def fn(x, w):
        product = lambda x: jnp.tanh(x @ w)  # noqa: E731
        twice = lambda x: product(product(x))  # noqa: E731
        inner = lambda x: jax.lax.cond(x[1, 1] > 0, twice, product, product(x))  # noqa: E731
        step = lambda x, _: (jax.lax.cond(x[0, 0] > 0, inner, lambda x: x, product(x)), None)  # noqa: E731
        return product(jax.lax.scan(step, x, length=turns)[0])

    cost = _cost(_compiled(fn, (ROWS, WIDTH), (WIDTH, WIDTH)))
    one = 2 * ROWS * WIDTH**2
    assert cost.conditional_flops == 3 * turns * one
    assert cost.flops == (4 * turns + 1) * one
    assert not _cost(_compiled(lambda x, w: x @ w, (ROWS, WIDTH), (WIDTH,) * 2)).conditional_flops


def test_a_vocabulary_head_is_conditional_as_a_whole():
    """sum_slots with gradients has three products a slot, and no other."""
    rows, length, width, size = 2, 2048, 128, 640

    def loss(head, hidden):
        chosen = hidden[..., 0] > 0
        targets = jnp.zeros((rows, length), jnp.int32)
        nats = lambda hidden, targets: jax.nn.logsumexp((hidden @ head).astype(jnp.float32), -1)  # noqa: E731
        return sum_slots(nats, chosen, jnp.ones((rows, length)), hidden, targets)

    gradient = jax.grad(loss, argnums=(0, 1))
    mesh = tpu_mesh("v5e")
    with jax.set_mesh(mesh):
        cost = _cost(_compiled(gradient, (width, size), (rows, length, width), mesh=mesh))
    assert cost.conditional_flops == cost.flops == 3 * 2 * rows * length * width * size


def test_transfers_have_the_size_the_sharding_makes_them():
    mesh = tpu_mesh("v5e", (1, 4, 1))
    gather = _compiled(
        lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec())),
        (1024, 256),
        mesh=mesh,
        specs=[("fsdp",)],
        dtype=jnp.float32,
    )
    cost = _cost(gather)
    # Three quarters of 1 MiB come from the others, and as much is sent.
    assert sum(moved.bytes for moved in cost.collectives.values()) == 0.75 * 2**20
    total = _compiled(
        lambda x: jnp.sum(x.astype(jnp.float32), axis=0),
        (1024, 4096),
        mesh=mesh,
        specs=[("fsdp",)],
        dtype=jnp.float32,
    )
    reduced = _cost(total).collectives
    assert set(reduced) == {"all-reduce"}
    assert reduced["all-reduce"].bytes == 2 * 0.75 * 4096 * 4


LOOP = """
HloModule m

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %step = s32[] constant(3)
  %next = s32[] add(%i, %step)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  ROOT %t = (s32[], f32[8]{0}) tuple(%next, %x)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %limit = s32[] constant(11)
  ROOT %c = pred[] compare(%i, %limit), direction=DIRECTION
}

ENTRY %main (x: f32[8]) -> (s32[], f32[8]) {
  %x = f32[8]{0} parameter(0)
  %first = s32[] constant(2)
  %t = (s32[], f32[8]{0}) tuple(%first, %x)
  ROOT %w = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(("direction", "turns"), [("LT", 3), ("LE", 4)])
def test_turns_follow_from_start_step_and_limit(direction, turns):
    """2, 5, 8 lie below 11, and 11 is reached too where that counts."""
    program = parse_program(LOOP.replace("DIRECTION", direction))
    main = program.computations["main"]
    assert trip_count(program, main, main.instructions["w"]) == turns
    assert turns == len(np.arange(2, 11 + (direction == "LE"), 3))


def test_turns_that_cannot_be_read_are_an_error():
    program = parse_program(LOOP.replace("DIRECTION", "NE"))
    main = program.computations["main"]
    with pytest.raises(ValueError, match="turns of loop w is not known"):
        trip_count(program, main, main.instructions["w"])


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("f32", 24), ("bf16", 12), ("pred", 6), ("s4", 3), ("f8e4m3fn", 6), ("token", 0)],
)
def test_types_take_their_bytes(dtype, size):
    assert Shape(dtype, (2, 3)).bytes == size


ASYNC = """
%fused (a: bf16[4,8], b: bf16[8,16]) -> bf16[4,16] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = bf16[8,16]{1,0} parameter(1)
  ROOT %dot = bf16[4,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: bf16[4,8], b: bf16[8,16]) -> bf16[4,16] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = bf16[8,16]{1,0} parameter(1)
  BODY
}
"""
STARTED = """
  %s = ((bf16[4,8]{1,0}, bf16[8,16]{1,0}), bf16[4,16]{1,0}, u32[]) fusion-start(%a, %b), CALLS
  ROOT %d = bf16[4,16]{1,0} fusion-done(%s)
"""


def test_what_is_started_and_done_costs_what_it_does_at_once():
    calls = "kind=kOutput, calls=%fused"
    at_once = f"ROOT %f = bf16[4,16]{{1,0}} fusion(%a, %b), {calls}"
    costs = [
        program_cost(parse_program(ASYNC.replace("BODY", body)))
        for body in (at_once, STARTED.strip().replace("CALLS", calls))
    ]
    assert costs[0] == costs[1]
    assert costs[0].bytes == 2 * (4 * 8 + 8 * 16 + 4 * 16)
    assert costs[0].flops == 2 * 4 * 8 * 16


GATHER = """
ENTRY %main (x: f32[8]) -> f32[32] {
  %x = f32[8]{0} parameter(0)
  ROOT %g = f32[32]{0} all-gather(%x), channel_id=1, replica_groups=GROUPS, dimensions={0}
}
"""


@pytest.mark.parametrize(
    "groups",
    [
        "{{0,1,2,3},{4,5,6,7}}",
        "[2,4]<=[8]",
        "[2,4]<=[4,2]T(1,0)",
        "mesh['data'=2,'fsdp'=4] {'fsdp'}",
        "mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}",
        "mesh['axis_0'=8] {'axis_0':(2)4}",
    ],
)
def test_groups_of_four_send_three_parts_however_they_are_written(groups):
    moved = program_cost(parse_program(GATHER.replace("GROUPS", groups))).collectives
    assert moved["all-gather"].count == 1
    assert moved["all-gather"].bytes == 3 * 32


def test_groups_that_cannot_be_read_are_an_error():
    with pytest.raises(ValueError, match="groups of g cannot be read"):
        program_cost(parse_program(GATHER.replace("GROUPS", "all_of_them")))
