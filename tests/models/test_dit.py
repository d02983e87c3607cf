"""The DiT against plain NumPy in float64, and what may and may not change its outputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import matmul_flops
from flax import linen as nn
from flax import traverse_util
from scipy import special

from flexmdm_jax.models.dit import DiT, dropout, make_denoiser, rotary
from flexmdm_jax.types import keys_of_slots

SIZES = {
    "vocabulary_size": 11,
    "max_length": 6,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "condition_size": 12,
}
END = 9
TOKENS = jnp.asarray([[1, 2, 3, END, 4, END, 0, 0], [5, END, 6, 7, 8, 0, 1, END]])
SEGMENT_IDS = jnp.asarray([[1, 1, 1, 1, 2, 2, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2]])
ALPHA = jnp.asarray([[0.3, 0.8], [0.6, 0.1]])


def model(**kwargs):
    return DiT(**{**SIZES, **kwargs})


@functools.cache
def parameters(insertion_head=True, mark_start=False, gap_classes=0):
    """Returns parameters drawn at random: at initialisation, whole layers are zero."""
    shape = {"insertion_head": insertion_head, "mark_start": mark_start, "gap_classes": gap_classes}
    init = jax.jit(model(**shape).init)
    shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), TOKENS, SEGMENT_IDS, ALPHA))
    leaves, tree = jax.tree.flatten(shapes["params"])
    rng = np.random.default_rng(0)
    return tree.unflatten(
        [jnp.asarray(rng.normal(size=leaf.shape) * 0.3, jnp.float32) for leaf in leaves]
    )


@functools.cache
def jitted(**kwargs):
    """Returns (params, tokens, segment_ids, alpha, dropout_keys) -> (gaps, logits)."""

    @jax.jit
    def run(params, tokens, segment_ids, alpha, dropout_keys=None):
        denoiser = make_denoiser(model(**kwargs), params, dropout_keys)
        encoding = denoiser.encode(tokens, segment_ids, alpha)
        return encoding.gaps, denoiser.decode(encoding.hidden)

    return run


def forward(tokens=TOKENS, segment_ids=SEGMENT_IDS, alpha=ALPHA, keys=None, **kwargs):
    shape = {name: kwargs[name] for name in ("mark_start", "gap_classes") if name in kwargs}
    params = parameters(**shape)
    out = jitted(**kwargs)(params, tokens, segment_ids, alpha, keys)
    return tuple(np.asarray(x) for x in out)


def assert_close(a, b, atol=2e-5):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=atol)


# The description of the network once more, one sequence at a time in NumPy.


def plain_norm(x, weight):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight


def plain_dense(x, p):
    return x @ p["kernel"] + p["bias"]


def silu(x):
    return x * special.expit(x)


def plain_rotary(x):
    """Rotates pairs (i, i + d/2) as complex numbers by position · 10000^(-2i/d)."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None] * 10_000.0 ** (-2 * np.arange(half) / (2 * half))
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[:, None, :]
    return np.concatenate([z.real, z.imag], axis=-1)


def plain_condition(alpha, p):
    frequencies = 10_000.0 ** (-np.arange(128) / 128)
    wave = np.concatenate([np.cos(alpha * frequencies), np.sin(alpha * frequencies)])
    return silu(plain_dense(silu(plain_dense(wave, p["in_proj"])), p["out_proj"]))


def plain_attention(x, p):
    q, k, v = np.moveaxis(np.einsum("ld,dchk->lchk", x, p["qkv"]["kernel"]), 1, 0)
    q, k = plain_rotary(q), plain_rotary(k)
    scores = np.einsum("qhk,shk->hqs", q, k) / np.sqrt(q.shape[-1])
    out = np.einsum("hqs,shk->qhk", special.softmax(scores, axis=-1), v)
    return np.einsum("qhk,hkd->qd", out, p["out"]["kernel"])


def plain_block(x, condition, p):
    chunks = np.split(plain_dense(condition, p["modulation"]["proj"]), 6)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = chunks
    y = plain_norm(x, p["attention_norm"]["norm"]["scale"]) * (1 + scale) + shift
    x = x + gate * plain_attention(y, p)
    y = plain_norm(x, p["mlp_norm"]["norm"]["scale"]) * (1 + mlp_scale) + mlp_shift
    y = plain_dense(y, p["mlp_in"])
    y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    return x + mlp_gate * plain_dense(y, p["mlp_out"])


def plain_dit(tokens, alpha, p):
    """Returns (gaps, logits) of one sequence."""
    condition = plain_condition(alpha, p["time_embedding"])
    x = p["embedding"]["embedding"][tokens]
    if "start" in p:
        x = np.concatenate([x[:1] + p["start"], x[1:]])
    for layer in range(SIZES["num_layers"]):
        x = plain_block(x, condition, jax.tree.map(lambda a, i=layer: a[i], p["blocks"]))

    def modulated(norm, modulation):
        shift, scale = np.split(plain_dense(condition, p[modulation]["proj"]), 2)
        return plain_norm(x, p[norm]["norm"]["scale"]) * (1 + scale) + shift

    logits = plain_dense(modulated("final_norm", "final_modulation"), p["head"])
    y = modulated("gap_norm", "gap_modulation")
    if "proj" in p["gap_head"]:
        chances = special.softmax(plain_dense(y, p["gap_head"]["proj"]), axis=-1)
        return chances @ np.arange(chances.shape[-1]), logits
    y = plain_dense(y, p["gap_head"]["in_proj"])
    y = 0.5 * y * (1 + special.erf(y / np.sqrt(2)))
    raw = plain_dense(y, p["gap_head"]["out_proj"])[:, 0]
    return np.log1p(np.exp(raw)) * SIZES["max_length"], logits


def segments():
    """Yields (row, slots, tokens, alpha) of each sequence in the packed batch."""
    for row in range(2):
        for segment in (1, 2):
            slots = np.flatnonzero(SEGMENT_IDS[row] == segment)
            yield row, slots, np.asarray(TOKENS[row])[slots], float(ALPHA[row, segment - 1])


@pytest.mark.parametrize("kwargs", [{}, {"mark_start": True}, {"gap_classes": 5}])
def test_forward_pass_equals_numpy(kwargs):
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters(**kwargs))
    gaps, logits = forward(**kwargs)
    for row, slots, tokens, alpha in segments():
        expected_gaps, expected_logits = plain_dit(tokens, alpha, params)
        np.testing.assert_allclose(gaps[row, slots], expected_gaps, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(logits[row, slots], expected_logits, rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(gaps[SEGMENT_IDS == 0], 0.0)


def test_packed_sequences_equal_rows_of_their_own():
    """Neighbours in the row, each with a time of its own, change nothing."""
    packed = forward()
    for row, slots, tokens, alpha in segments():
        alone = forward(
            jnp.asarray(tokens)[None], jnp.ones((1, len(slots)), int), jnp.full((1, 1), alpha)
        )
        assert_close([x[row, slots] for x in packed], [x[0] for x in alone])


def test_padding_and_neighbours_in_the_batch_change_nothing():
    short = forward()
    rng = np.random.default_rng(1)
    junk = jnp.asarray(rng.integers(0, 11, size=(2, 3)))
    wide = forward(
        jnp.concatenate([TOKENS, junk], axis=1), jnp.pad(SEGMENT_IDS, ((0, 0), (0, 3))), ALPHA
    )
    real = np.asarray(SEGMENT_IDS) > 0
    assert_close([x[real] for x in short], [x[:, :8][real] for x in wide])
    single = forward(TOKENS[1:], SEGMENT_IDS[1:], ALPHA[1:])
    assert_close([x[1:] for x in short], single)


def test_what_stands_at_padding_is_invisible():
    other = forward(TOKENS.at[0, 6:].set(jnp.asarray([5, 2])))
    real = np.asarray(SEGMENT_IDS) > 0
    for a, b in zip(forward(), other, strict=True):
        np.testing.assert_array_equal(a[real], b[real])


def test_slots_see_their_whole_segment_and_nothing_else():
    """END is seen like any token; another segment's tokens are not seen at all.

    One token may happen to say nearly the same as another; of all ten others none does.
    """
    before = forward()
    for row, slot in [(0, 0), (0, 3), (0, 4), (1, 1), (1, 7)]:
        same = np.zeros(TOKENS.shape, bool)
        same[row] = np.asarray(SEGMENT_IDS[row] == SEGMENT_IDS[row, slot])
        moved = [np.zeros(same.sum()) for _ in before]
        for token in range(SIZES["vocabulary_size"]):
            after = forward(TOKENS.at[row, slot].set(token))
            for i, (a, b) in enumerate(zip(before, after, strict=True)):
                np.testing.assert_array_equal(a[~same], b[~same])
                change = np.abs(a[same] - b[same]).reshape(same.sum(), -1).max(axis=1)
                moved[i] = np.maximum(moved[i], change)
        assert min(x.min() for x in moved) > 1e-5


def test_time_changes_its_own_segment_only():
    before, after = forward(), forward(alpha=ALPHA.at[1, 1].set(0.9))
    own = np.zeros(TOKENS.shape, bool)
    own[1] = np.asarray(SEGMENT_IDS[1] == 2)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[~own], b[~own])
        assert np.abs(a[own] - b[own]).reshape(own.sum(), -1).max(axis=1).min() > 1e-6


HEADS = [{"insertion_head": True}, {"insertion_head": False}, {"gap_classes": 5}]


@pytest.mark.parametrize("kwargs", HEADS)
def test_gradient_reaches_every_parameter(kwargs):
    def loss(params):
        gaps, logits = jitted(**kwargs)(params, TOKENS, SEGMENT_IDS, ALPHA)
        return jnp.sum(jnp.sin(gaps)) + jnp.sum(jnp.sin(logits))

    grads = jax.grad(loss)(parameters(**kwargs))
    for name, grad in traverse_util.flatten_dict(grads, sep="/").items():
        assert np.isfinite(grad).all(), name
        # Of the embedding, only the rows of tokens that occur; elsewhere, layers count apart.
        if name.startswith("blocks/"):
            assert (np.abs(grad).reshape(len(grad), -1).max(axis=1) > 0).all(), name
        else:
            assert np.abs(grad).max() > 0, name


@pytest.mark.parametrize("kwargs", [{"remat": "dots"}, {"remat": "full"}, {"scan_unroll": 2}])
def test_how_layers_run_changes_no_value_and_no_gradient(kwargs):
    def value_and_grad(**kwargs):
        run = jitted(**kwargs)
        loss = lambda p: sum(jnp.sum(jnp.sin(x)) for x in run(p, TOKENS, SEGMENT_IDS, ALPHA))  # noqa: E731
        return jax.value_and_grad(loss)(parameters())

    (a, grads), (b, other) = value_and_grad(), value_and_grad(**kwargs)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), grads, other)


def test_bfloat16_activations_stay_close_and_outputs_are_float32():
    gaps, logits = forward(dtype=jnp.bfloat16)
    exact = forward()
    assert gaps.dtype == logits.dtype == np.float32
    real = np.asarray(SEGMENT_IDS) > 0
    for a, b in zip((gaps, logits), exact, strict=True):
        # A few dozen roundings to 8 bits.
        error = np.sqrt(np.mean((a - b)[real] ** 2) / np.mean(b[real] ** 2))
        assert error < 0.03


def test_logits_of_bfloat16_features_keep_float32_precision():
    narrow = model(dtype=jnp.bfloat16)
    hidden = jax.random.normal(jax.random.key(0), (5, SIZES["hidden_size"]), jnp.bfloat16)
    head = parameters()["head"]
    logits = narrow.apply({"params": parameters()}, hidden, method="decode")
    kernel = np.asarray(head["kernel"].astype(jnp.bfloat16), np.float64)
    bias = np.asarray(head["bias"].astype(jnp.bfloat16), np.float64)
    exact = np.asarray(hidden, np.float64) @ kernel + bias
    # Products of bfloat16 numbers are exact in float32; only their sum is rounded.
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-5)
    assert np.any(logits != logits.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("gap_classes", [0, 1025])
def test_a_fresh_network_is_uniform_and_expects_about_one_token_a_gap(gap_classes):
    """adaLN-zero and the zero head: nothing of the tokens reaches the logits yet."""
    init = jax.jit(model(gap_classes=gap_classes).init)
    variables = init(jax.random.key(1), TOKENS, SEGMENT_IDS, ALPHA)
    gaps, logits = jitted(gap_classes=gap_classes)(
        nn.unbox(variables["params"]), TOKENS, SEGMENT_IDS, ALPHA
    )
    np.testing.assert_array_equal(logits, 0.0)
    real = np.asarray(SEGMENT_IDS) > 0
    assert 0.3 < float(gaps[real].mean()) < 3


# Dropout.


def row_keys(*seeds):
    """Keys of two segments to a row."""
    return jnp.stack([jax.random.split(jax.random.key(seed), 2) for seed in seeds])


def test_dropout_is_keyed_by_sequence():
    one = forward(keys=row_keys(1, 2), dropout_rate=0.3)
    again = forward(TOKENS[::-1], SEGMENT_IDS[::-1], ALPHA[::-1], row_keys(2, 1), dropout_rate=0.3)
    assert_close(one, [x[::-1] for x in again])
    other = forward(keys=row_keys(1, 3), dropout_rate=0.3)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert np.abs(a[1] - b[1]).max() > 1e-3
    wide = forward(
        jnp.pad(TOKENS, ((0, 0), (0, 3))),
        jnp.pad(SEGMENT_IDS, ((0, 0), (0, 3))),
        ALPHA,
        row_keys(1, 2),
        dropout_rate=0.3,
    )
    real = np.asarray(SEGMENT_IDS) > 0
    assert_close([x[real] for x in one], [x[:, :8][real] for x in wide])


def test_without_keys_or_rate_nothing_is_dropped():
    assert_close(forward(dropout_rate=0.3), forward(), atol=1e-6)
    assert_close(forward(keys=row_keys(1, 2)), forward(), atol=1e-6)


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    x = jnp.ones((4, 100, 100))
    keys = keys_of_slots(row_keys(0, 1, 2, 3)[:, :1], jnp.ones((4, 100), int))
    out = np.asarray(dropout(x, keys, salt=0, rate=0.1))
    n = out.size
    assert (out == 0).mean() == pytest.approx(0.1, abs=4.5 * (0.09 / n) ** 0.5 + 1e-5)
    np.testing.assert_allclose(out[out > 0], 1 / 0.9, rtol=1e-6)
    other = np.asarray(dropout(x, keys, salt=1, rate=0.1))
    both = ((out == 0) & (other == 0)).mean()
    assert both == pytest.approx(0.01, abs=4.5 * (0.01 / n) ** 0.5)


@pytest.mark.parametrize("mark_start", [False, True])
def test_only_the_mark_tells_equal_tokens_apart(mark_start):
    """Attention averages values, and those of equal tokens are equal at any number of them."""
    tokens, alpha = jnp.full((2, 6), 3), jnp.full((2, 1), 0.5)
    segment_ids = (jnp.arange(6)[None, :] < jnp.asarray([[4], [6]])).astype(int)
    gaps, _ = forward(tokens, segment_ids, alpha, mark_start=mark_start)
    distinct = np.unique(gaps[segment_ids > 0].round(4))
    assert len(distinct) == (10 if mark_start else 1)


def test_rotary_products_depend_on_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    tile = lambda x: rotary(jnp.broadcast_to(x, (1, 30, 1, 8)))[0, :, 0]  # noqa: E731
    products = np.asarray(tile(q) @ tile(k).T)
    for distance in range(-29, 30):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert np.std(products[0]) > 0.1
    np.testing.assert_allclose(np.linalg.norm(tile(q), axis=-1), np.linalg.norm(q), rtol=1e-5)


def test_distributions_of_gaps_are_float32_and_their_mean_is_the_gap():
    net = model(gap_classes=5, dtype=jnp.bfloat16)

    @jax.jit
    def encode(params):
        encoding = make_denoiser(net, params).encode(TOKENS, SEGMENT_IDS, ALPHA)
        return encoding.gaps, encoding.gap_logits

    gaps, logits = encode(parameters(gap_classes=5))
    assert logits.shape == (*TOKENS.shape, 5)
    assert gaps.dtype == logits.dtype == jnp.float32
    chances = special.softmax(np.asarray(logits, np.float64), axis=-1)
    mean = np.where(SEGMENT_IDS > 0, chances @ np.arange(5), 0.0)
    np.testing.assert_allclose(gaps, mean, rtol=1e-5)


@pytest.mark.parametrize("kwargs", HEADS)
def test_flops_counts_every_matrix_product_on_slots(kwargs):
    """For full rows nothing is left out but the condition, which is computed once a sequence."""
    b, l = 3, 8
    net = model(**kwargs)
    full = jnp.ones((b, l), int)
    jaxpr = jax.make_jaxpr(lambda p: net.apply({"params": p}, full, full, jnp.zeros((b, 1))))(
        parameters(**kwargs)
    ).jaxpr
    d, c = net.hidden_size, net.condition_size
    modulations = 6 * net.num_layers + 2 + 2 * net.insertion_head
    condition = 2 * b * (256 * c + c * c + c * d * modulations)
    # The last product of the mean's head has one column and is not worth counting.
    column = 2 * b * l * d * (net.insertion_head and not net.gap_classes)
    counted = net.flops(num_slots=b * l, num_pairs=b * l * l, num_masks=b * l)
    assert counted == matmul_flops(jaxpr) - condition - column
