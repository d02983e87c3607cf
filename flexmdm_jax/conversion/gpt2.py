"""GPT-2 in a Hugging Face folder, which is read as it comes: what it is, and its weights."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from flax.typing import Dtype
from jax.sharding import Mesh

from flexmdm_jax.conversion.architecture import HARMLESS
from flexmdm_jax.conversion.base import block_rows
from flexmdm_jax.conversion.layout import Path, check_tensors, parameter_shapes
from flexmdm_jax.conversion.sources import same_numbers
from flexmdm_jax.conversion.tensors import Tensor, open_tensors
from flexmdm_jax.errors import UserError
from flexmdm_jax.foreign import Form, names, positive, reading_fields, whole
from flexmdm_jax.models.gpt2 import GPT2

_KIND = "gpt2"
FIELDS = Form(
    meaning="weights",
    used=names("""
        model_type vocab_size n_positions n_embd n_layer n_head n_inner layer_norm_epsilon
        """),
    fixed={
        # Two names of GELU's approximation by tanh.
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    # Dropout, further heads, and what GPT-2's code never asks. Products are summed up in float32
    # here, as reorder_and_upcast_attn wants it.
    harmless=HARMLESS
    | names("""
        resid_pdrop embd_pdrop attn_pdrop gradient_checkpointing reorder_and_upcast_attn
        summary_type summary_use_proj summary_activation summary_proj_to_labels
        summary_first_dropout
        n_ctx n_special predict_special_tokens output_past _num_labels chunk_size_feed_forward
        """),
)
# Which slots see which, by code of old.
_BUFFERS = (".attn.bias", ".attn.masked_bias")
# What the names begin with where the model was saved with its head.
_PREFIX = "transformer."
_EMBEDDING, _HEAD = "wte.weight", "lm_head.weight"


def gpt2_of(values: Mapping[str, Any], path: pathlib.Path, dtype: Dtype) -> GPT2:
    """Returns the network that the fields of a config.json describe.

    Args:
      values: The fields.
      path: Where they stand, for messages.
      dtype: See GPT2.

    Raises:
      UserError: If one is missing or damaged, or they are of another kind of network.
    """
    kind = values.get("model_type")
    if kind != _KIND:
        raise UserError(
            f"{path}: model_type = {kind!r}; only {_KIND!r} is read as it comes, and a LLaMA is "
            "converted first: python -m flexmdm_jax.convert llada --mask=none --from=… --out=…"
        )
    FIELDS.check(values, path)
    values = {name: value for name, value in values.items() if value is not None}
    with reading_fields(path):
        width, heads = whole(values, "n_embd"), whole(values, "n_head")
        if width % heads:
            raise ValueError(f"n_head = {heads} does not divide n_embd = {width}")
        return GPT2(
            vocabulary_size=whole(values, "vocab_size"),
            max_length=whole(values, "n_positions", least=2),
            hidden_size=width,
            num_layers=whole(values, "n_layer"),
            num_heads=heads,
            mlp_size=whole({"n_inner": 4 * width} | values, "n_inner"),
            norm_epsilon=positive({"layer_norm_epsilon": 1e-5} | values, "layer_norm_epsilon"),
            dtype=dtype,
        )


def read_gpt2(folder: pathlib.Path, model: GPT2, mesh: Mesh) -> Any:
    """Returns the parameters in a folder, on the devices.

    One parameter at a time is on the host, so memory there does not grow with the model's depth.

    Args:
      folder: Holds model.safetensors, or its shards and their index.
      model: What its config.json describes.
      mesh: The devices.

    Raises:
      UserError: If files are missing or damaged, or their tensors are not those of the model.
    """
    tensors = open_tensors(folder, _BUFFERS)
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in tensors) else ""
    head = tensors.pop(_HEAD, None)
    flat = traverse_util.flatten_dict(parameter_shapes(model, mesh))
    theirs = {path: _tensors_of(path, model, prefix) for path in flat}
    expected = {name: shape for parts in theirs.values() for name, shape in parts.items()}
    check_tensors(tensors, expected, folder)
    if head is not None and not same_numbers(head, tensors[prefix + _EMBEDDING]):
        raise UserError(
            f"{folder}: {_HEAD} differs from {prefix + _EMBEDDING}, but the head of a GPT-2 is its "
            "embedding; remove that tensor if the model was trained so"
        )
    parameters = {
        path: _placed(leaf, [tensors[name] for name in theirs[path]]) for path, leaf in flat.items()
    }
    return traverse_util.unflatten_dict(parameters)


def _tensors_of(path: Path, model: GPT2, prefix: str) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the tensors that a parameter of ours is, layer by layer.

    They lie as ours do, inputs first.
    """
    *modules, kind = path
    d, m = model.hidden_size, model.mlp_size
    module, *shape = {
        "embedding": ("wte", model.vocabulary_size, d),
        "positions": ("wpe", model.max_length, d),
        "attention_norm": ("ln_1", d),
        "qkv": ("attn.c_attn", d, 3 * d),
        "out": ("attn.c_proj", d, d),
        "mlp_norm": ("ln_2", d),
        "mlp_in": ("mlp.c_fc", d, m),
        "mlp_out": ("mlp.c_proj", m, d),
        "final_norm": ("ln_f", d),
    }[modules[-1]]
    name = f"{module}.bias" if kind == "bias" else f"{module}.weight"
    shape = tuple(shape[-1:] if kind == "bias" else shape)
    if modules[0] != "blocks":
        return {prefix + name: shape}
    return {f"{prefix}h.{layer}.{name}": shape for layer in range(model.num_layers)}


def _placed(leaf: jax.ShapeDtypeStruct, parts: Sequence[Tensor]) -> jax.Array:
    """Returns a parameter that is made of tensors, one after another, on its devices."""
    value = np.empty(leaf.shape, leaf.dtype)
    for part, tensor in zip(value.reshape(-1, *parts[0].shape), parts, strict=True):
        for start, stop in block_rows(tensor.shape, tensor.dtype):
            part[start:stop] = tensor.rows(start, stop)
    return jax.device_put(value, leaf.sharding)
