"""Which tensor of a PyTorch model is which parameter of ours, and how they lie."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
from flax import traverse_util
from flax.core import meta
from jax.sharding import Mesh

from flexmdm_jax.conversion.architecture import Architecture
from flexmdm_jax.errors import UserError
from flexmdm_jax.models.gpt2 import GPT2
from flexmdm_jax.models.llada import LLaDA
from flexmdm_jax.sharding import state_shardings

Path = tuple[str, ...]
Form = Literal["family", "gguf"]
# Names are those of a family in Hugging Face's form, or GGUF's, which are the same for both.
_TOP: dict[Path, dict[str, str]] = {
    ("embedding", "embedding"): {
        "llada": "model.transformer.wte.weight",
        "llama": "model.embed_tokens.weight",
        "gguf": "token_embd.weight",
    },
    ("final_norm", "scale"): {
        "llada": "model.transformer.ln_f.weight",
        "llama": "model.norm.weight",
        "gguf": "output_norm.weight",
    },
    ("head", "kernel"): {
        "llada": "model.transformer.ff_out.weight",
        "llama": "lm_head.weight",
        "gguf": "output.weight",
    },
}
_BLOCK = {
    "llada": "model.transformer.blocks.{}.",
    "llama": "model.layers.{}.",
    "gguf": "blk.{}.",
}
_IN_BLOCK: dict[Path, dict[str, str]] = {
    ("attention_norm", "scale"): {
        "llada": "attn_norm.weight",
        "llama": "input_layernorm.weight",
        "gguf": "attn_norm.weight",
    },
    ("q", "kernel"): {
        "llada": "q_proj.weight",
        "llama": "self_attn.q_proj.weight",
        "gguf": "attn_q.weight",
    },
    ("k", "kernel"): {
        "llada": "k_proj.weight",
        "llama": "self_attn.k_proj.weight",
        "gguf": "attn_k.weight",
    },
    ("v", "kernel"): {
        "llada": "v_proj.weight",
        "llama": "self_attn.v_proj.weight",
        "gguf": "attn_v.weight",
    },
    ("out", "kernel"): {
        "llada": "attn_out.weight",
        "llama": "self_attn.o_proj.weight",
        "gguf": "attn_output.weight",
    },
    ("mlp_norm", "scale"): {
        "llada": "ff_norm.weight",
        "llama": "post_attention_layernorm.weight",
        "gguf": "ffn_norm.weight",
    },
    ("gate", "kernel"): {
        "llada": "ff_proj.weight",
        "llama": "mlp.gate_proj.weight",
        "gguf": "ffn_gate.weight",
    },
    ("up", "kernel"): {
        "llada": "up_proj.weight",
        "llama": "mlp.up_proj.weight",
        "gguf": "ffn_up.weight",
    },
    ("down", "kernel"): {
        "llada": "ff_out.weight",
        "llama": "mlp.down_proj.weight",
        "gguf": "ffn_down.weight",
    },
}
# Axes that a linear map takes; all others take one.
_NUM_INPUTS = {"out": 2}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter of ours and the tensors it is made of.

    Attributes:
      path: Where it stands in the tree.
      shape: Of the parameter, layers first if it is stacked.
      names: Its tensors: one, or one per layer.
      num_inputs: Input axes of a linear map, whose tensor is transposed; 0: the tensor as it is.
      stacked: Whether it has an axis of layers.
    """

    path: Path
    shape: tuple[int, ...]
    names: tuple[str, ...]
    num_inputs: int
    stacked: bool

    @property
    def inner(self) -> tuple[int, ...]:
        """Returns the shape without the axis of layers."""
        return self.shape[1:] if self.stacked else self.shape

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Returns the shape of each tensor."""
        if not self.num_inputs:
            return self.inner
        cut = self.num_inputs
        return (math.prod(self.inner[cut:]), math.prod(self.inner[:cut]))

    @property
    def rows_per_step(self) -> int:
        """Returns how many rows of a tensor make one step along our first output axis."""
        return math.prod(self.inner[self.num_inputs + 1 :]) if self.num_inputs else 1

    def place(self, start: int, stop: int) -> tuple[slice, ...]:
        """Returns where rows start to stop of a tensor stand in the parameter, layers left out."""
        step = self.rows_per_step
        rows = slice(start // step, stop // step)
        return (slice(None),) * self.num_inputs + (rows,)

    def to_ours(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows of a tensor as they stand in the parameter."""
        if not self.num_inputs:
            return rows
        cut = self.num_inputs
        outputs = (len(rows) // self.rows_per_step, *self.inner[cut + 1 :])
        return np.ascontiguousarray(rows.T).reshape(*self.inner[:cut], *outputs)

    def to_theirs(self, part: np.ndarray) -> np.ndarray:
        """Returns the rows of a tensor that a part of the parameter, cut at place(), makes."""
        if not self.num_inputs:
            return part
        inputs = math.prod(self.inner[: self.num_inputs])
        return np.ascontiguousarray(part.reshape(inputs, -1).T)


def make_model(architecture: Architecture, **kwargs) -> LLaDA:
    """Returns the bare backbone; kwargs are further attributes of LLaDA."""
    sizes = dataclasses.asdict(architecture)
    causal = sizes.pop("family") == "llama"
    defaults = {"vocabulary_size": architecture.embedding_size, "max_length": 2, "causal": causal}
    return LLaDA(**{**sizes, **defaults, **kwargs})


def parameter_shapes(model: LLaDA | GPT2, mesh: Mesh | None = None) -> Any:
    """Returns shapes and types of a model's parameters, and their shardings; nothing is computed.

    Args:
      model: Any network that is called as LLaDA is.
      mesh: None leaves the shardings out.
    """
    slots = jax.ShapeDtypeStruct((1, 2), np.int32)
    alpha = jax.ShapeDtypeStruct((1, 1), np.float32)
    boxed = jax.eval_shape(model.init, jax.random.key(0), slots, slots, alpha)["params"]
    if mesh is None:
        return meta.unbox(boxed)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        meta.unbox(boxed),
        state_shardings(mesh, boxed),
    )


def leaves(architecture: Architecture, form: Form = "family") -> list[Leaf]:
    """Returns every parameter of a backbone with the tensors it is made of.

    Args:
      architecture: Of the backbone.
      form: Whose names the tensors have: the family's own, or GGUF's.
    """
    family = architecture.family if form == "family" else form
    found = []
    flat = traverse_util.flatten_dict(parameter_shapes(make_model(architecture)))
    for path, leaf in sorted(flat.items()):
        num_inputs = _NUM_INPUTS.get(path[-2], 1) if path[-1] == "kernel" else 0
        stacked = path[0] == "blocks"
        if stacked:
            name = _BLOCK[family] + _IN_BLOCK[path[1:]][family]
            names = tuple(name.format(layer) for layer in range(architecture.num_layers))
        else:
            names = (_TOP[path][family],)
        found.append(Leaf(path, leaf.shape, names, num_inputs, stacked))
    return found


def head_name(architecture: Architecture) -> str:
    """Returns the name of the head's tensor, which a tied model may carry a second time."""
    return _TOP["head", "kernel"][architecture.family]


def embedding_name(architecture: Architecture) -> str:
    """Returns the name of the embedding's tensor."""
    return _TOP["embedding", "embedding"][architecture.family]


def module_name(architecture: Architecture, target: str, layer: int | None) -> str:
    """Returns the PyTorch module that is a linear map of ours (None: outside the blocks)."""
    family = architecture.family
    if layer is None:
        return _TOP[target, "kernel"][family].removesuffix(".weight")
    name = _BLOCK[family].format(layer) + _IN_BLOCK[target, "kernel"][family]
    return name.removesuffix(".weight")


def check_tensors(found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], where) -> None:
    """Raises UserError unless the tensors are those expected; all that differ are named."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshaped = [
        f"{name} {tuple(found[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
    wrong = [f"{what}: {', '.join(names)}" for what, names in parts if names]
    if wrong:
        raise UserError(f"{where}: {'; '.join(wrong)}")
