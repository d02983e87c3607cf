"""LLaDA and LLaMA in PyTorch, written from their definition, to compare with and to convert."""

import dataclasses
import json
import math
import pathlib

import safetensors.torch
import torch
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Sizes:
    family: str = "llada"
    rows: int = 40
    width: int = 24
    layers: int = 3
    heads: int = 4
    kv_heads: int = 4
    mlp: int = 40
    theta: float = 500_000.0
    tied: bool = False

    def config(self) -> dict:
        if self.family == "llama":
            return {
                "model_type": "llama",
                "vocab_size": self.rows,
                "hidden_size": self.width,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "intermediate_size": self.mlp,
                "rope_theta": self.theta,
                "rms_norm_eps": 1e-5,
                "tie_word_embeddings": self.tied,
                "hidden_act": "silu",
            }
        return {
            "model_type": "llada",
            "block_type": "llama",
            "activation_type": "silu",
            "layer_norm_type": "rms",
            "vocab_size": self.rows - 3,
            "embedding_size": self.rows,
            "d_model": self.width,
            "n_layers": self.layers,
            "n_heads": self.heads,
            "n_kv_heads": self.kv_heads,
            "mlp_hidden_size": self.mlp,
            "rope_theta": self.theta,
            "rms_norm_eps": 1e-5,
            "weight_tying": self.tied,
            "include_bias": False,
        }


LLADA = {
    "embed": "model.transformer.wte.weight",
    "norm": "model.transformer.ln_f.weight",
    "head": "model.transformer.ff_out.weight",
    "block": "model.transformer.blocks.{}.",
    "norm1": "attn_norm",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "attn_out",
    "norm2": "ff_norm",
    "gate": "ff_proj",
    "up": "up_proj",
    "down": "ff_out",
}
LLAMA = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "block": "model.layers.{}.",
    "norm1": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def random_state(sizes: Sizes, dtype=torch.float32, seed=0) -> dict[str, torch.Tensor]:
    """Returns weights drawn at random, under the names of the model's family."""
    names = LLAMA if sizes.family == "llama" else LLADA
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    d, kv = sizes.width, sizes.width // sizes.heads * sizes.kv_heads
    state = {names["embed"]: draw(sizes.rows, d), names["norm"]: 1 + 0.2 * draw(d)}
    if not sizes.tied:
        state[names["head"]] = draw(sizes.rows, d) / math.sqrt(d)
    shapes = {"q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d)}
    shapes |= {"gate": (sizes.mlp, d), "up": (sizes.mlp, d), "down": (d, sizes.mlp)}
    for layer in range(sizes.layers):
        prefix = names["block"].format(layer)
        for name, shape in shapes.items():
            state[f"{prefix}{names[name]}.weight"] = draw(*shape) / math.sqrt(shape[1])
        for name in ("norm1", "norm2"):
            state[f"{prefix}{names[name]}.weight"] = 1 + 0.2 * draw(d)
    return {name: tensor.to(dtype) for name, tensor in state.items()}


def save(folder: pathlib.Path, sizes: Sizes, state, shards: int = 2) -> pathlib.Path:
    """Writes a Hugging Face folder with the safetensors library."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(sizes.config()))
    names, where = sorted(state), {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: state[name].contiguous() for name in names[number::shards]}
        safetensors.torch.save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def rms_norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def rotate(x, theta):
    """x [b, h, l, k]: pairs (i, i + k / 2) turned by position · theta^(-2i / k)."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequencies
    angles = angles.to(x.dtype)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos + turned * sin


@torch.no_grad()
def forward(sizes: Sizes, state, tokens: torch.Tensor) -> torch.Tensor:
    """Returns the logits [b, l, rows] of full rows of tokens [b, l]."""
    names = LLAMA if sizes.family == "llama" else LLADA
    b, l = tokens.shape
    x = state[names["embed"]][tokens]
    for layer in range(sizes.layers):
        w = {k: state.get(names["block"].format(layer) + f"{names[k]}.weight") for k in names}
        y = rms_norm(x, w["norm1"])
        split = lambda y, heads: y.view(b, l, heads, -1).transpose(1, 2)  # noqa: E731
        q = rotate(split(y @ w["q"].T, sizes.heads), sizes.theta)
        k = rotate(split(y @ w["k"].T, sizes.kv_heads), sizes.theta)
        v = split(y @ w["v"].T, sizes.kv_heads)
        repeat = sizes.heads // sizes.kv_heads
        k, v = (z.repeat_interleave(repeat, dim=1) for z in (k, v))
        causal = sizes.family == "llama"
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + y.transpose(1, 2).reshape(b, l, -1) @ w["o"].T
        y = rms_norm(x, w["norm2"])
        x = x + (functional.silu(y @ w["gate"].T) * (y @ w["up"].T)) @ w["down"].T
    x = rms_norm(x, state[names["norm"]])
    return x @ state[names["embed" if sizes.tied else "head"]].T
