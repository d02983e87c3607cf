"""The FlexMDM of xlm-core in PyTorch, written from its description, to compare with."""

import dataclasses
import json
import math

import safetensors.torch
import torch
from torch.nn import functional

MAX_LENGTH = 16


@dataclasses.dataclass(frozen=True)
class Sizes:
    rows: int = 64
    width: int = 16
    layers: int = 2
    heads: int = 2
    mlp: int | None = 24
    cond: int = 8
    rotary: int = 4
    activation: str = "gelu"
    gaps: str = "expectation"
    head: str = "mlp"
    pad: int = 62
    mask: int = 63

    def config(self) -> dict:
        return {
            "activation": self.activation,
            "compile": False,
            "d_cond": self.cond,
            "d_model": self.width,
            "dim_feedforward": self.mlp,
            "dropout": 0.1,
            "force_flash_attn": False,
            "inner_autocast": False,
            "layer_norm_eps": 1e-3,
            "len_head_type": self.head,
            "len_predict_type": self.gaps,
            "mask_idx": self.mask,
            "max_length": MAX_LENGTH,
            "nhead": self.heads,
            "num_embeddings": self.rows,
            "num_layers": self.layers,
            "padding_idx": self.pad,
            "rotary_emb_dim": self.rotary,
        }


def random_state(sizes: Sizes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns weights drawn at random, buffers among them."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 0.3 * torch.randn(*shape, generator=generator)  # noqa: E731
    d, m = sizes.width, sizes.mlp or 4 * sizes.width
    state = {"embed_tokens.weight": draw(sizes.rows, d), "sigma_map.freqs": draw(128)}

    def linear(name, out, inputs, bias=True):
        state[f"{name}.weight"] = draw(out, inputs)
        if bias:
            state[f"{name}.bias"] = draw(out)

    linear("sigma_map.mlp.0", sizes.cond, 256)
    linear("sigma_map.mlp.2", sizes.cond, sizes.cond)
    for block in (f"encoder.{layer}" for layer in range(sizes.layers)):
        state[f"{block}.rotary_emb.inv_freq"] = draw(sizes.rotary // 2)
        linear(f"{block}.ada_ln_modulations.modulation", 6 * d, sizes.cond)
        linear(f"{block}.attn_qkv", 3 * d, d, bias=False)
        linear(f"{block}.o_proj", d, d, bias=False)
        linear(f"{block}.mlp.0", m, d)
        linear(f"{block}.mlp.2", d, m)
        for norm in ("norm1", "norm2"):
            state[f"{block}.{norm}.norm"] = 1 + draw(d)
    linear("output_layer.adaLN_modulation.modulation", 2 * d, sizes.cond)
    linear("output_layer.linear", sizes.rows, d, bias=False)
    state["output_layer.norm_final.norm"] = 1 + draw(d)
    mlp = sizes.gaps == "distribution" and sizes.head == "mlp"
    linear("len_pred.adaLN_modulation.modulation", (2 + mlp) * d, sizes.cond)
    if sizes.gaps == "expectation":
        state["len_pred.norm.norm"] = 1 + draw(d)
        linear("len_pred.proj1", d, d)
        linear("len_pred.proj2", 1, d)
    else:
        state["len_pred.norm_final.norm"] = 1 + draw(d)
        linear("len_pred.linear", MAX_LENGTH, d)
    if mlp:
        linear("len_pred.mlp.0", 2 * d, d)
        linear("len_pred.mlp.2", d, 2 * d)
    return state


def save(folder, sizes: Sizes, state):
    """Writes a folder as xlm-core does."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(sizes.config()))
    safetensors.torch.save_file(state, folder / "model.safetensors")
    return folder


def rotate(x, size):
    """x [b, h, l, k]: of the first features, i and i + size / 2 are turned together."""
    turned, kept = x[..., :size], x[..., size:]
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(x.shape[2])[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    a, b = turned.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, kept], -1)


@torch.no_grad()
def forward(config: dict, state, tokens, lengths, alpha):
    """Returns (logits [b, l, rows], gaps [b, l] or their logits [b, l, classes])."""
    d, heads = config["d_model"], config["nhead"]
    real = torch.arange(tokens.shape[1])[None] < lengths[:, None]
    linear = lambda x, name: functional.linear(  # noqa: E731
        x, state[f"{name}.weight"], state.get(f"{name}.bias")
    )
    norm = lambda x, name: functional.layer_norm(  # noqa: E731
        x, (d,), state[f"{name}.norm"], None, config["layer_norm_eps"]
    )
    angles = alpha[:, None] * torch.exp(-math.log(10_000.0) * torch.arange(128) / 128)
    sinusoid = torch.cat([angles.cos(), angles.sin()], -1)
    hidden = functional.silu(linear(sinusoid, "sigma_map.mlp.0"))
    condition = functional.silu(linear(hidden, "sigma_map.mlp.2"))
    parts = lambda name: linear(condition, f"{name}.modulation")[:, None].split(d, -1)  # noqa: E731
    activation = {"relu": functional.relu, "gelu": functional.gelu}[config["activation"]]
    x = state["embed_tokens.weight"][tokens]
    for block in (f"encoder.{layer}" for layer in range(config["num_layers"])):
        shift, scale, gate, *mlp = parts(f"{block}.ada_ln_modulations")
        x = norm(x, f"{block}.norm1") * (1 + scale) + shift
        qkv = linear(x, f"{block}.attn_qkv").chunk(3, -1)
        q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in qkv)
        q, k = (rotate(y, config["rotary_emb_dim"]) for y in (q, k))
        seen = real[:, None, None, :]
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + gate * linear(y.transpose(1, 2).flatten(2), f"{block}.o_proj")
        y = norm(x, f"{block}.norm2") * (1 + mlp[1]) + mlp[0]
        x = x + mlp[2] * linear(activation(linear(y, f"{block}.mlp.0")), f"{block}.mlp.2")
    shift, scale = parts("output_layer.adaLN_modulation")
    y = norm(x, "output_layer.norm_final") * (1 + scale) + shift
    logits = linear(y, "output_layer.linear")
    shift, scale, *gate = parts("len_pred.adaLN_modulation")
    if config["len_predict_type"] == "expectation":
        y = linear(norm(x, "len_pred.norm") * (1 + scale) + shift, "len_pred.proj1")
        y = linear(functional.gelu(y), "len_pred.proj2")[..., 0]
        return logits, functional.softplus(y) * config["max_length"]
    y = norm(x, "len_pred.norm_final") * (1 + scale) + shift
    if gate:
        y = gate[0] * linear(torch.tanh(linear(y, "len_pred.mlp.0")), "len_pred.mlp.2") + x
    return logits, linear(y, "len_pred.linear")
