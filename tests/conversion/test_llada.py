"""LLaDA and LLaMA from PyTorch's files: the same function, and the same bytes on the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_llada
from scipy import special
from torch_llada import Sizes

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.conversion.base import open_base
from flexmdm_jax.conversion.layout import make_model, parameter_shapes
from flexmdm_jax.conversion.llada import import_model
from flexmdm_jax.sharding import make_mesh

LENGTH = 160
VARIANTS = {
    "llada": Sizes(),
    "grouped": Sizes(kv_heads=2),
    "tied": Sizes(tied=True, kv_heads=1),
    "llama": Sizes(family="llama", kv_heads=2, theta=10_000.0),
    "llama tied": Sizes(family="llama", tied=True),
}


@pytest.fixture(scope="module", params=VARIANTS)
def converted(request, tmp_path_factory):
    """(sizes, weights, their folder, the base folder) of every variant."""
    sizes = VARIANTS[request.param]
    state = torch_llada.random_state(sizes)
    home = tmp_path_factory.mktemp("converted")
    source = torch_llada.save(home / "source", sizes, state)
    import_model(source, home / "base")
    return sizes, state, source, open_base(home / "base")


def restored(base):
    """Returns the parameters of a base folder, spread over all devices."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    return base.restore(parameter_shapes(make_model(base.architecture), mesh))


def logits_of(base, params, tokens):
    model = make_model(base.architecture)

    @jax.jit
    def run(params, tokens):
        ones = jnp.ones_like(tokens)
        return model.apply({"params": params}, tokens, ones, jnp.zeros((len(tokens), 1)))[1]

    return np.asarray(run(params, tokens))


def test_logits_equal_pytorch(converted):
    """In float32, at every position of rows longer than 100."""
    sizes, state, _, base = converted
    tokens = torch.randint(sizes.rows, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    expected = torch_llada.forward(sizes, state, tokens).numpy()
    logits = logits_of(base, jax.device_get(restored(base)), jnp.asarray(tokens.numpy()))
    np.testing.assert_allclose(logits, expected, atol=2e-5, rtol=0)
    p, q = (special.log_softmax(x.astype(np.float64), axis=-1) for x in (expected, logits))
    assert np.sum(np.exp(p) * (p - q), axis=-1).max() <= 1e-6
