"""LLaDA as a FlexMDM: what is added starts as if it were not there, and is all that is trained."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import matmul_flops
from flax import traverse_util
from flax.core import meta

from flexmdm_jax.config import load_config_file, read_config
from flexmdm_jax.models.dit import make_denoiser
from flexmdm_jax.models.llada import LLaDA
from flexmdm_jax.models.lora import Lora, join_base, split_base, trained_sizes
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.state import Setup, parameter_shapes
from flexmdm_jax.types import Vocabulary

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "any.py"

SIZES = {
    "vocabulary_size": 11,
    "embedding_size": 13,
    "max_length": 6,
    "hidden_size": 16,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_size": 20,
}
EVERYWHERE = Lora(4, 8.0, 0.3, ("q", "k", "v", "out", "gate", "up", "down", "head"))
RETROFIT = {"layers_per_group": 2, "insertion_head": True}
TOKENS = jnp.asarray([[1, 2, 3, 9, 4, 9, 0, 0], [5, 9, 6, 7, 8, 0, 1, 9]])
SEGMENT_IDS = jnp.asarray([[1, 1, 1, 1, 2, 2, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2]])
ALPHA = jnp.asarray([[0.3, 0.8], [0.6, 0.1]])
REAL = np.asarray(SEGMENT_IDS) > 0


def shapes_of(model):
    boxed = jax.eval_shape(model.init, jax.random.key(0), TOKENS, SEGMENT_IDS, ALPHA)
    return meta.unbox(boxed)["params"]


@functools.cache
def retrofit():
    """(model, parameters drawn at random: at first, whole layers are zero)."""
    model = LLaDA(**SIZES, **RETROFIT, lora=EVERYWHERE)
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, x.dtype)  # noqa: E731
    return model, jax.tree.map(draw, shapes_of(model))


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, tokens=TOKENS, segment_ids=SEGMENT_IDS, alpha=ALPHA, keys=None):
    denoiser = make_denoiser(model, params, keys)
    encoding = denoiser.encode(tokens, segment_ids, alpha)
    return encoding.gaps, denoiser.decode(encoding.hidden)


def test_llada_8b_trains_402_657_281_parameters():
    """From shapes alone; the paper speaks of about 400 million (Section 5.2)."""
    model = LLaDA(
        vocabulary_size=126_464,
        embedding_size=126_464,
        max_length=1024,
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        mlp_size=12_288,
        layers_per_group=8,
        insertion_head=True,
        lora=Lora(rank=128, alpha=128.0, dropout_rate=0.1),
        dtype=jnp.bfloat16,
        param_dtype=jnp.bfloat16,
    )
    shapes = shapes_of(model)
    sizes = trained_sizes(shapes)
    assert sizes == {
        "time embedding": 134_238_208,
        "AdaLN": 134_250_496,
        "insertion head": 16_793_601,
        "LoRA of the blocks": 100_663_296,
        "LoRA of the head": 16_711_680,
    }
    assert sum(sizes.values()) == 402_657_281
    trained, base = split_base(shapes)
    assert {x.dtype for x in jax.tree.leaves(trained)} == {np.dtype(np.float32)}
    assert {x.dtype for x in jax.tree.leaves(base)} == {np.dtype(jnp.bfloat16)}
    assert sum(x.size for x in jax.tree.leaves(base)) == 8_015_581_184


def test_illada_8b_trains_360_779_777_parameters():
    """Its config, by sums of products of its sizes: d = 4096, 32 layers, 8 of 32 heads for k, v."""
    config = load_config_file(str(CONFIGS), "illada_flexmdm.py")
    vocabulary = Vocabulary(size=155_136, mask=5, end=2)
    config = read_config(config)
    trained, base = parameter_shapes(Setup.of(config, vocabulary, make_mesh(config.mesh)))
    d, m, kv, layers, rank = 4096, 14_336, 1024, 32, 128
    block = 2 * d * d + 2 * d * kv + 3 * d * m + 2 * d
    assert sum(x.size for x in jax.tree.leaves(base)) == 155_136 * d + layers * block + d
    adapters = layers * rank * ((d + d) + 2 * (d + kv))
    modulation = 4 * (2 * d * d + 2 * d)
    embedding = d * 4 * d + 4 * d + 4 * d * d + d
    gap_head = 2 * d + d * d + d + d + 1
    total = sum(x.size for x in jax.tree.leaves(trained))
    assert total == adapters + modulation + embedding + gap_head == 360_779_777


@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_retrofit_gives_the_logits_of_its_base(tied):
    lora = Lora(4, 8.0, 0.3, ("q", "k", "v") if tied else ("q", "k", "v", "head"))
    model = LLaDA(**SIZES, **RETROFIT, tied=tied, lora=lora)
    params = meta.unbox(jax.jit(model.init)(jax.random.key(1), TOKENS, SEGMENT_IDS, ALPHA))
    keys = jax.random.split(jax.random.key(0), (2, 2))
    _, logits = run(model, params["params"], keys=keys)
    _, base = split_base(params["params"])
    _, expected = run(LLaDA(**SIZES, tied=tied), base)
    np.testing.assert_array_equal(logits[REAL], expected[REAL])
    assert np.std(logits[REAL]) > 0.01
    assert logits.shape[-1] == SIZES["vocabulary_size"]


def test_a_causal_retrofit_sees_what_stands_before_and_nothing_else():
    model, params = retrofit()
    causal = model.clone(causal=True)
    gaps, logits = run(causal, params)
    row, slot = 1, 4
    tokens = TOKENS.at[row, slot].set(3)
    other_gaps, other = run(causal, params, tokens=tokens)
    before = np.arange(TOKENS.shape[1]) < slot
    np.testing.assert_array_equal(other[row, before], logits[row, before])
    np.testing.assert_array_equal(other_gaps[row, before], gaps[row, before])
    assert (np.abs(other - logits)[row, ~before].max(-1) > 1e-6).all()
    # Of all that stands before the change, an open model notices it in its segment.
    noticed = np.abs(run(model, params, tokens=tokens)[1] - run(model, params)[1])[row].max(-1)
    np.testing.assert_array_equal(noticed > 1e-6, np.asarray(SEGMENT_IDS[row]) == 2)


def test_a_token_is_told_by_the_slot_before_it():
    """As a plain loop over slots has it; gaps stay those of their own slots."""
    model, params = retrofit()
    gaps, logits = run(model, params)
    told_gaps, told = run(model.clone(told_before=True), params)
    np.testing.assert_array_equal(told_gaps, gaps)
    for row, slot in zip(*np.nonzero(REAL), strict=True):
        begins = slot == 0 or SEGMENT_IDS[row, slot] != SEGMENT_IDS[row, slot - 1]
        np.testing.assert_array_equal(told[row, slot], logits[row, slot if begins else slot - 1])


def test_the_trained_row_of_mask_is_a_row_of_the_embedding():
    model, params = retrofit()
    mask = 9
    trained = model.clone(trained_mask=mask)
    shift = 0.1 * jnp.arange(SIZES["hidden_size"])
    table = params["embedding"]["embedding"]
    moved = params | {"embedding": {"embedding": table.at[mask].add(shift)}}
    expected, got = run(model, moved), run(trained, params | {"mask_shift": shift})
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert np.abs(got[1] - run(model, params)[1])[REAL].max() > 1e-3
    shapes = shapes_of(trained)
    assert trained_sizes(shapes)["MASK"] == SIZES["hidden_size"]
    drawn = jax.jit(trained.init)(jax.random.key(0), TOKENS, SEGMENT_IDS, ALPHA)
    drawn = meta.unbox(drawn)["params"]
    assert not drawn["mask_shift"].any()


def test_adapters_act_like_matrices_added_to_the_kernels():
    model, params = retrofit()
    flat = traverse_util.flatten_dict(params)
    added = {}
    for path, value in flat.items():
        if path[-1] != "kernel" or (*path[:-1], "lora_a") not in flat:
            added |= {path: value} if "lora" not in path[-1] else {}
            continue
        a, b = (np.asarray(flat[*path[:-1], n], np.float64) for n in ("lora_a", "lora_b"))
        stacked = path[0] == "blocks"
        pairs = zip(a, b, strict=True) if stacked else [(a, b)]
        product = np.stack([np.tensordot(x, y, 1) for x, y in pairs])
        scale = EVERYWHERE.alpha / EVERYWHERE.rank
        added[path] = value + np.float32(scale * (product if stacked else product[0]))
    plain = LLaDA(**SIZES, **RETROFIT)
    results = zip(run(model, params), run(plain, traverse_util.unflatten_dict(added)), strict=True)
    for x, y in results:
        np.testing.assert_allclose(x[REAL], y[REAL], rtol=1e-4, atol=1e-4)


def test_packed_sequences_equal_rows_of_their_own():
    """Each with its own time, whatever stands at padding."""
    model, params = retrofit()
    packed = run(model, params)
    for row, segment in [(0, 1), (1, 2)]:
        slots = np.flatnonzero(SEGMENT_IDS[row] == segment)
        ones = jnp.ones((1, len(slots)), int)
        alpha = ALPHA[row : row + 1, segment - 1 : segment]
        alone = run(model, params, TOKENS[row : row + 1, slots], ones, alpha)
        for x, y in zip(packed, alone, strict=True):
            np.testing.assert_allclose(x[row, slots], y[0], rtol=2e-4, atol=2e-4)


def test_layers_share_the_modulation_of_their_group():
    """Three layers in groups of two are three groups, the first two of them equal."""
    model, params = retrofit()
    each = LLaDA(**SIZES, **{**RETROFIT, "layers_per_group": 1}, lora=EVERYWHERE)
    repeated = jax.tree.map(lambda x: x[jnp.asarray([0, 0, 1])], params["modulation"])
    expected = run(each, params | {"modulation": repeated})
    for x, y in zip(run(model, params), expected, strict=True):
        np.testing.assert_allclose(x[REAL], y[REAL], rtol=1e-5, atol=1e-5)


def test_gradient_reaches_every_trained_parameter_and_only_those():
    model, params = retrofit()
    trained, base = split_base(params)

    @jax.jit
    @jax.grad
    def gradient(trained):
        gaps, logits = run(model, join_base(trained, base))
        return jnp.sum(jnp.sin(gaps)) + jnp.sum(jnp.sin(logits))

    for name, grad in traverse_util.flatten_dict(gradient(trained), sep="/").items():
        assert np.isfinite(grad).all(), name
        stacked = name.split("/")[0] in ("blocks", "modulation")
        parts = grad.reshape(len(grad) if stacked else 1, -1)
        assert (np.abs(parts).max(axis=1) > 0).all(), name


def test_dropout_of_adapters_is_keyed_by_sequence():
    model, params = retrofit()
    keys = jnp.stack([jax.random.split(jax.random.key(seed), 2) for seed in (1, 2)])
    one = run(model, params, keys=keys)
    turned = run(model, params, TOKENS[::-1], SEGMENT_IDS[::-1], ALPHA[::-1], keys[::-1])
    other = run(model, params, keys=keys.at[1, 0].set(jax.random.key(3)))
    for a, b, c in zip(one, turned, other, strict=True):
        np.testing.assert_allclose(a, b[::-1], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(a[0], c[0])
        assert np.abs(a[1] - c[1]).max() > 1e-3


def test_causal_slots_see_nothing_that_follows():
    model = LLaDA(**SIZES, causal=True)
    _, params = split_base(retrofit()[1])
    ones = jnp.ones_like(TOKENS)
    _, before = run(model, params, TOKENS, ones, ALPHA[:, :1])
    _, after = run(model, params, TOKENS.at[:, 3].set(10), ones, ALPHA[:, :1])
    moved = np.abs(before - after).max(axis=-1) > 1e-6
    np.testing.assert_array_equal(moved, [[False] * 3 + [True] * 5] * 2)


@pytest.mark.parametrize("lora", [None, EVERYWHERE])
def test_flops_counts_every_matrix_product_on_slots(lora):
    """For full rows nothing is left out but what is computed once a sequence."""
    b, l = 3, 8
    model = LLaDA(**SIZES, **RETROFIT, lora=lora)
    full = jnp.ones((b, l), int)
    jaxpr = jax.make_jaxpr(lambda p: model.apply({"params": p}, full, full, jnp.zeros((b, 1))))(
        shapes_of(model)
    ).jaxpr
    d = SIZES["hidden_size"]
    condition = 2 * b * (8 * d * d + 2 * d * 2 * d)
    column = 2 * b * l * d
    counted = model.flops(num_slots=b * l, num_pairs=b * l * l, num_masks=b * l)
    assert counted == matmul_flops(jaxpr) - condition - column
