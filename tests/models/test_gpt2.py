"""GPT-2: the numbers that PyTorch computes from its description, and what sees what."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_gpt2
from torch_gpt2 import Sizes

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.conversion.gpt2 import gpt2_of, read_gpt2
from flexmdm_jax.conversion.layout import parameter_shapes
from flexmdm_jax.sharding import make_mesh

SIZES = Sizes()
STATE = torch_gpt2.random_state(SIZES)
TOKENS = np.random.default_rng(0).integers(SIZES.rows, size=(2, 17))


def network(sizes, dtype=jnp.float32):
    return gpt2_of(sizes.config(), pathlib.Path("config.json"), dtype)


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, tokens, segment_ids):
    alpha = jnp.zeros((len(tokens), 1))
    encoding = model.apply({"params": params}, tokens, segment_ids, alpha, method="encode")
    return encoding, model.apply({"params": params}, encoding.hidden, method="decode")


def logits_of(tmp_path, sizes, state, dtype=jnp.float32, tokens=TOKENS, segment_ids=None):
    folder = torch_gpt2.save(tmp_path / "gpt2", sizes, state)
    model = network(sizes, dtype)
    params = read_gpt2(folder, model, make_mesh(MeshConfig()))
    segment_ids = np.ones_like(tokens) if segment_ids is None else segment_ids
    return np.asarray(run(model, params, jnp.asarray(tokens), jnp.asarray(segment_ids))[1])


@pytest.mark.parametrize(
    "sizes", [SIZES, Sizes(layers=1, heads=2, inner=40, epsilon=0.1)], ids=["usual", "other"]
)
def test_logits_are_those_of_pytorch(tmp_path, sizes):
    state = torch_gpt2.random_state(sizes, seed=1)
    expected = torch_gpt2.forward(sizes, state, torch.from_numpy(TOKENS))
    assert expected.std() > 0.5
    logits = logits_of(tmp_path, sizes, state)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


def test_bfloat16_rounds_products_and_nothing_else(tmp_path):
    """Within a few of its steps, 2⁻⁸ of the size of logits; features of 3,000 do no harm."""
    state = dict(STATE)
    large = torch.zeros(SIZES.width)
    large[3] = 3000.0
    state["h.0.mlp.c_proj.bias"] = state["h.0.mlp.c_proj.bias"] + large
    rounded = {
        name: x if ".ln_" in name or name.startswith("ln_") else x.bfloat16()
        for name, x in state.items()
    }
    expected = torch_gpt2.forward(SIZES, rounded, torch.from_numpy(TOKENS)).numpy()
    logits = logits_of(tmp_path, SIZES, state, jnp.bfloat16)
    assert np.abs(logits - expected).max() < 8 * 2**-8 * np.abs(expected).max()
    assert np.abs(logits - expected).max() > 1e-6


def test_neither_what_follows_nor_padding_is_seen(tmp_path):
    """Tokens behind slot 9, and what padding holds, change no logit up to it."""
    changed = TOKENS.copy()
    changed[:, 10:] = (changed[:, 10:] + 1) % SIZES.rows
    short = np.where(np.arange(17) < 10, 1, 0)[None].repeat(2, axis=0)
    plain = logits_of(tmp_path / "plain", SIZES, STATE)
    for name, tokens, segment_ids in (("changed", changed, None), ("padded", changed, short)):
        found = logits_of(tmp_path / name, SIZES, STATE, tokens=tokens, segment_ids=segment_ids)
        np.testing.assert_allclose(found[:, :10], plain[:, :10], atol=1e-5, rtol=0)
        assert np.all(np.isfinite(found))


PUBLISHED = {
    "gpt2": (768, 12, 12, 124_439_808),
    "gpt2-medium": (1024, 24, 16, 354_823_168),
    "gpt2-large": (1280, 36, 20, 774_030_080),
    "gpt2-xl": (1600, 48, 25, 1_557_611_200),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_parameters_that_they_are_known_by(name):
    """From shapes alone."""
    width, layers, heads, count = PUBLISHED[name]
    sizes = dataclasses.replace(
        SIZES, rows=50_257, positions=1024, width=width, layers=layers, heads=heads
    )
    shapes = parameter_shapes(network(sizes, jnp.bfloat16))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
    # All but the norms' are as wide as products want them.
    narrow = sum(x.size for x in jax.tree.leaves(shapes) if x.dtype == jnp.bfloat16)
    assert count - narrow == (2 * layers + 1) * 2 * width
