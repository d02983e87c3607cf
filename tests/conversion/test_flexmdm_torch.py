"""Checkpoints of the paper's code: the same network, and nothing in them is ever run."""

import dataclasses
import functools
import pathlib
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional

from flexmdm_jax.config import read_config
from flexmdm_jax.conversion.flexmdm_torch import exchange_rows, read_flexmdm
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.model import load
from flexmdm_jax.models.dit import make_denoiser
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.imports import import_run
from flexmdm_jax.training.state import Setup, parameter_shapes

D, HEADS, LAYERS, COND, ROWS = 16, 2, 2, 8, 258
# Theirs: the pad token right after the bytes, then MASK; ours have MASK first.
PAD, MASK = 256, 257


def random_state(seed=0, classes=0):
    """Returns weights under the names of the paper's code.

    With classes, its head of gaps is like the one of tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 0.3 * torch.randn(*shape, generator=generator)  # noqa: E731
    state = {"vocab_embed.embedding": draw(ROWS, D), "rotary_emb.inv_freq": draw(4)}

    def linear(name, out, inputs, bias=True):
        state[f"{name}.weight"] = draw(out, inputs)
        if bias:
            state[f"{name}.bias"] = draw(out)

    linear("sigma_map.mlp.0", COND, 256)
    linear("sigma_map.mlp.2", COND, COND)
    for block in (f"blocks.{i}" for i in range(LAYERS)):
        linear(f"{block}.adaLN_modulation", 6 * D, COND)
        linear(f"{block}.attn_qkv", 3 * D, D, bias=False)
        linear(f"{block}.attn_out", D, D, bias=False)
        linear(f"{block}.mlp.0", 4 * D, D)
        linear(f"{block}.mlp.2", D, 4 * D)
        state[f"{block}.norm1.weight"] = 1 + draw(D)
        state[f"{block}.norm2.weight"] = 1 + draw(D)
    linear("output_layer.adaLN_modulation", 2 * D, COND)
    linear("output_layer.linear", ROWS, D)
    state["output_layer.norm_final.weight"] = 1 + draw(D)
    if classes:
        linear("len_pred.adaLN_modulation", 2 * D, COND)
        linear("len_pred.linear", classes, D)
        state["len_pred.norm_final.weight"] = 1 + draw(D)
        return state
    linear("len_pred.adaLN", 2 * D, COND)
    linear("len_pred.proj1", D, D)
    linear("len_pred.proj2", 1, D)
    state["len_pred.norm.weight"] = 1 + draw(D)
    return state


def forward(w, tokens, t):
    """Returns (logits, gaps) of one sequence that ends in the pad token, from the definition."""
    linear = lambda name, x: functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))  # noqa: E731
    norm = lambda name, x: functional.layer_norm(x, [D]) * w[f"{name}.weight"]  # noqa: E731
    angle = t * torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(128) / 128)
    wave = torch.cat([angle.cos(), angle.sin()])
    c = functional.silu(linear("sigma_map.mlp.2", functional.silu(linear("sigma_map.mlp.0", wave))))
    x = w["vocab_embed.embedding"][tokens]
    k = D // HEADS
    angle = torch.arange(len(tokens))[:, None] * 10_000.0 ** (-torch.arange(k // 2) * 2 / k)
    cos, sin = (torch.cat([y, y], -1)[:, None, None] for y in (angle.cos(), angle.sin()))
    for block in (f"blocks.{i}" for i in range(LAYERS)):
        chunks = linear(f"{block}.adaLN_modulation", c).chunk(6)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = chunks
        y = norm(f"{block}.norm1", x) * (1 + scale) + shift
        qkv = linear(f"{block}.attn_qkv", y).view(-1, 3, HEADS, k)
        turned = torch.cat([-qkv[..., k // 2 :], qkv[..., : k // 2]], -1)
        q, key, _ = (qkv * cos + turned * sin).unbind(1)
        v = qkv[:, 2]
        weights = torch.softmax(torch.einsum("qhk,shk->hqs", q, key) / k**0.5, -1)
        y = torch.einsum("hqs,shk->qhk", weights, v).reshape(-1, D)
        x = x + gate * linear(f"{block}.attn_out", y)
        y = norm(f"{block}.norm2", x) * (1 + mlp_scale) + mlp_shift
        y = functional.gelu(linear(f"{block}.mlp.0", y), approximate="tanh")
        x = x + mlp_gate * linear(f"{block}.mlp.2", y)

    def final_layer(name):
        shift, scale = linear(f"{name}.adaLN_modulation", c).chunk(2)
        return linear(f"{name}.linear", norm(f"{name}.norm_final", x) * (1 + scale) + shift)

    logits = final_layer("output_layer")
    if "len_pred.linear.weight" in w:
        chances = torch.softmax(final_layer("len_pred"), -1)
        return logits, chances @ torch.arange(chances.shape[-1], dtype=torch.float32)
    shift, scale = linear("len_pred.adaLN", c).chunk(2)
    y = norm("len_pred.norm", x) * (1 + scale) + shift
    y = linear("len_pred.proj2", functional.gelu(linear("len_pred.proj1", y)))
    return logits, functional.softplus(y[:, 0]) * tiny.LENGTH


def wrapped(state, prefix="model."):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.fixture
def config():
    return read_config(tiny.config_at(pathlib.Path("nowhere")))


def read(path, _setup, shapes):
    params = read_flexmdm(path, shapes)
    return exchange_rows(params, {"mask": MASK, "end": PAD}, {"mask": 256, "end": 257})


def with_distribution(config, classes=0):
    model = dataclasses.replace(config.model, gap_head="distribution", gap_classes=classes)
    return dataclasses.replace(config, model=model)


@pytest.mark.parametrize(
    ("prefix", "classes"),
    [("model.", 0), ("model._orig_mod.", tiny.LENGTH + 1)],
)
def test_an_imported_checkpoint_is_the_same_network(tmp_path, config, prefix, classes):
    """Its average is taken, and its pad row is our END; MASK changes places with it."""
    config = with_distribution(config) if classes else config
    averaged = random_state(1, classes)
    content = {"state_dict": wrapped(random_state(2, classes), prefix)}
    content["ema_params"] = wrapped(averaged, prefix)
    torch.save(content, tmp_path / "last.ckpt")
    import_run(
        tmp_path / "run", config, ByteTokenizer({}), functools.partial(read, tmp_path / "last.ckpt")
    )
    run = load(tmp_path / "run")
    theirs = torch.tensor([3, MASK, 7, 200, MASK, PAD])
    ours = jnp.asarray([[3, 256, 7, 200, 256, 257]])
    for t in (0.0, 0.7):
        logits, gaps = forward(averaged, theirs, torch.tensor(t))
        denoiser = make_denoiser(run.setup.model, run.params)
        encoding = denoiser.encode(ours, jnp.ones_like(ours), jnp.full((1, 1), t))
        columns = [*range(256), MASK, PAD]
        np.testing.assert_allclose(encoding.gaps[0], gaps, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(
            denoiser.decode(encoding.hidden)[0], logits[:, columns], rtol=2e-4, atol=2e-4
        )


@pytest.fixture
def omegaconf(monkeypatch):
    """Modules by that name, with a class for Lightning to save; gone when the file is read."""
    package, module = types.ModuleType("omegaconf"), types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __init__(self):
            self.content = {"interpolant": {"tokens": ROWS}}

    DictConfig.__module__, DictConfig.__qualname__ = module.__name__, "DictConfig"
    module.DictConfig = DictConfig
    monkeypatch.setitem(sys.modules, "omegaconf", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield DictConfig()
    monkeypatch.undo()


def shapes_of(config):
    setup = Setup.of(config, ByteTokenizer({}).vocabulary, make_mesh(config.mesh))
    return parameter_shapes(setup)[0]


def test_the_other_head_of_gaps_is_named(tmp_path, config):
    for classes in (0, 9):
        torch.save({"state_dict": wrapped(random_state(0, classes))}, tmp_path / f"{classes}.ckpt")
    with pytest.raises(UserError, match=r"gaps in 9 classes; set config.model.gap_head='distrib"):
        read_flexmdm(tmp_path / "9.ckpt", shapes_of(config))
    with pytest.raises(UserError, match=r"has means of gaps; set config.model.gap_head='mean'"):
        read_flexmdm(tmp_path / "0.ckpt", shapes_of(with_distribution(config)))
    with pytest.raises(UserError, match=r"len_pred.linear.weight \(9, 16\) instead of \(25, 16\)"):
        read_flexmdm(tmp_path / "9.ckpt", shapes_of(with_distribution(config)))
    params = read_flexmdm(tmp_path / "9.ckpt", shapes_of(with_distribution(config, 9)))
    assert params["gap_head"]["proj"]["kernel"].shape == (D, 9)


def test_a_config_of_another_library_beside_the_weights_is_passed_over(tmp_path, config, omegaconf):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": wrapped(random_state()), "config": omegaconf}, path)
    params = read_flexmdm(path, shapes_of(config))
    expected = random_state()["vocab_embed.embedding"]
    np.testing.assert_array_equal(params["embedding"]["embedding"], expected)


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def _state(**changes):
    state = wrapped(random_state()) | changes
    return {"state_dict": {name: x for name, x in state.items() if x is not None}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda p: _state() | {"hook": Exploit(p / "executed")}, r"holds code \(.*open\)"),
        (lambda p: {"weights": {}}, "has no state_dict"),
        (lambda p: _state(**{"model.blocks.1.mlp.0.bias": None}), "missing: blocks.1.mlp.0.bias"),
        (lambda p: _state(**{"model.blocks.2.x": torch.zeros(1)}), "unexpected: blocks.2.x"),
        (
            lambda p: _state(**{"model.len_pred.proj1.weight": torch.zeros(D, 4)}),
            r"another shape: len_pred.proj1.weight \(16, 4\) instead of \(16, 16\)",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, config, content, message):
    torch.save(content(tmp_path), tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=message):
        read_flexmdm(tmp_path / "last.ckpt", shapes_of(config))
    assert not (tmp_path / "executed").exists()
