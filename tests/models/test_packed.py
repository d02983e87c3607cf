"""Every network says whether its rows may hold several segments, from shapes alone."""

import importlib

import jax
import jax.numpy as jnp
import pytest

from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.llada import LLaDA
from flexmdm_jax.models.xlm import Xlm

SIZES = {
    "vocabulary_size": 11,
    "max_length": 6,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
}
NETWORKS = {
    "dit": DiT(**SIZES),
    "llada": LLaDA(**SIZES, embedding_size=11, num_kv_heads=2, mlp_size=16),
    "xlm": Xlm(**SIZES, mlp_size=16, rotary_size=4),
}
# Whose module calls attention(): xlm's network does it by way of the DiT's.
CALLERS = {"dit": "dit", "llada": "llada", "xlm": "dit"}


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_attention_is_told_whether_rows_are_packed(monkeypatch, kind, segments):
    """What stands in the rows is not asked: rows of one sequence may be packed all the same."""
    told = []

    def attention(q, k, v, segment_ids, *, packed=True, **_):
        told.append(packed)
        return q

    monkeypatch.setattr(
        importlib.import_module(f"flexmdm_jax.models.{CALLERS[kind]}"), "attention", attention
    )
    slots = jnp.ones((2, 8), jnp.int32)
    jax.eval_shape(NETWORKS[kind].init, jax.random.key(0), slots, slots, jnp.zeros((2, segments)))
    assert set(told) == {segments > 1}
