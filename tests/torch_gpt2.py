"""GPT-2 in PyTorch, written from its description, to compare with and to read."""

import dataclasses
import json
import math
import pathlib

import safetensors.torch
import torch
from torch.nn import functional

from flexmdm_jax.data.tokenizers import byte_level

END = "<|endoftext|>"
MERGES = ("t h", "th e", "Ġ the", "c a", "a t", "ca t")
VOCABULARY = (
    *(byte_level.written(bytes([byte])) for byte in range(256)),
    *(merge.replace(" ", "") for merge in MERGES),
    END,
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    rows: int = len(VOCABULARY)
    positions: int = 40
    width: int = 24
    layers: int = 3
    heads: int = 4
    inner: int | None = None
    epsilon: float = 1e-5

    def config(self) -> dict:
        """Returns the fields that OpenAI's own models have."""
        return {
            "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1,
            "bos_token_id": len(VOCABULARY) - 1,
            "embd_pdrop": 0.1,
            "eos_token_id": len(VOCABULARY) - 1,
            "initializer_range": 0.02,
            "layer_norm_epsilon": self.epsilon,
            "model_type": "gpt2",
            "n_ctx": self.positions,
            "n_embd": self.width,
            "n_head": self.heads,
            "n_inner": self.inner,
            "n_layer": self.layers,
            "n_positions": self.positions,
            "n_special": 0,
            "predict_special_tokens": True,
            "resid_pdrop": 0.1,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "vocab_size": self.rows,
        }


def random_state(sizes: Sizes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns weights drawn at random, by the names that the model without its head gives them."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    d, m = sizes.width, sizes.inner or 4 * sizes.width
    state = {"wte.weight": draw(sizes.rows, d) / 3, "wpe.weight": draw(sizes.positions, d)}
    maps = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, m)}
    maps["mlp.c_proj"] = (m, d)
    for block in (f"h.{layer}" for layer in range(sizes.layers)):
        for name, shape in maps.items():
            state[f"{block}.{name}.weight"] = draw(*shape) / math.sqrt(shape[0])
            state[f"{block}.{name}.bias"] = draw(shape[1]) / 3
        for name in (f"{block}.ln_1", f"{block}.ln_2"):
            state |= {f"{name}.weight": 1 + draw(d) / 5, f"{name}.bias": draw(d) / 5}
    return state | {"ln_f.weight": 1 + draw(d) / 5, "ln_f.bias": draw(d) / 5}


def save(folder: pathlib.Path, sizes: Sizes, state, **changes) -> pathlib.Path:
    """Writes a folder of Hugging Face's form; changes are of its config's fields."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(sizes.config() | changes))
    tensors = {name: tensor.clone() for name, tensor in state.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = ("#version: 0.2", *MERGES, "")
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@torch.no_grad()
def features(sizes: Sizes, state, tokens: torch.Tensor) -> torch.Tensor:
    """Returns what the final norm gives [b, l, d] of full rows of tokens [b, l], in float64."""
    w = {name: tensor.double() for name, tensor in state.items()}
    b, l = tokens.shape

    def norm(x, name):
        return functional.layer_norm(
            x, (sizes.width,), w[f"{name}.weight"], w[f"{name}.bias"], sizes.epsilon
        )

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    future = torch.ones(l, l, dtype=torch.bool).triu(1)
    x = w["wte.weight"][tokens] + w["wpe.weight"][:l]
    for block in (f"h.{layer}" for layer in range(sizes.layers)):
        qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(sizes.width, -1)
        q, k, v = (y.view(b, l, sizes.heads, -1).transpose(1, 2) for y in qkv)
        scores = q @ k.transpose(-1, -2) / math.sqrt(sizes.width // sizes.heads)
        y = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        x = x + linear(y.transpose(1, 2).reshape(b, l, -1), f"{block}.attn.c_proj")
        y = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + linear(y, f"{block}.mlp.c_proj")
    return norm(x, "ln_f")


def forward(sizes: Sizes, state, tokens: torch.Tensor) -> torch.Tensor:
    """Returns the logits [b, l, rows] of full rows of tokens [b, l], in float64."""
    return features(sizes, state, tokens) @ state["wte.weight"].double().T
