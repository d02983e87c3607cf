"""What a backbone is, read from the config.json of a LLaDA or LLaMA in Hugging Face's form."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from flexmdm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes of a LLaMA-style backbone.

    Attributes:
      family: Whose names its tensors have.
      embedding_size: Rows of the embedding and of the head.
      hidden_size: Features per slot.
      num_layers: Blocks.
      num_heads: Heads of the queries.
      num_kv_heads: Heads of keys and values.
      mlp_size: Features between the halves of SwiGLU.
      rope_theta: Base of the rotary frequencies.
      norm_epsilon: Of RMSNorm.
      tied: The head is the embedding transposed.
    """

    family: Literal["llada", "llama"]
    embedding_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    rope_theta: float
    norm_epsilon: float
    tied: bool

    def __post_init__(self):
        if self.hidden_size % (2 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.hidden_size} features, {self.num_heads} heads and {self.num_kv_heads} "
                "key-value heads do not divide each other"
            )


# What a config.json may say besides sizes; a field that is absent has the first value.
_LLADA_FIXED = {
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "bias_for_layer_norm": (False, None),
    "layer_norm_with_affine": (True,),
    "attention_layer_norm": (False,),
    "rope": (True,),
    "alibi": (False,),
    "scale_logits": (False,),
    "input_emb_norm": (False,),
    "clip_qkv": (None,),
}
_LLAMA_FIXED = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    # LLaMA 3.1 and later stretch the rotary frequencies, which is not implemented.
    "rope_scaling": (None,),
}


def read_architecture(folder: pathlib.Path) -> Architecture:
    """Returns the architecture in a model folder's config.json.

    Raises:
      UserError: If there is none, it is damaged, or it is of another kind of network.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; name the folder of a downloaded model"
        ) from None
    except ValueError:
        raise UserError(f"{path} is not JSON; copy or download it again") from None
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in _READERS:
        raise UserError(f"{path}: model_type = {kind!r}; only {' and '.join(_READERS)} are known")
    fixed, read = _READERS[kind]
    for name, allowed in fixed.items():
        if values.get(name, allowed[0]) not in allowed:
            raise UserError(
                f"{path}: {name} = {values[name]!r}; only {allowed[0]!r} can be imported"
            )
    try:
        return read(values)
    except KeyError as error:
        raise UserError(f"{path} has no field {error}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path}: {error}") from None


def _read_llada(values: Mapping[str, Any]) -> Architecture:
    heads = values["n_heads"]
    kv_heads = 1 if values.get("multi_query_attention") else values.get("n_kv_heads")
    return Architecture(
        family="llada",
        embedding_size=values.get("embedding_size") or values["vocab_size"],
        hidden_size=values["d_model"],
        num_layers=values["n_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads or heads,
        mlp_size=values.get("mlp_hidden_size") or values["mlp_ratio"] * values["d_model"],
        rope_theta=float(values.get("rope_theta", 10_000.0)),
        norm_epsilon=float(values.get("rms_norm_eps", 1e-5)),
        tied=values.get("weight_tying", True),
    )


def _read_llama(values: Mapping[str, Any]) -> Architecture:
    heads, width = values["num_attention_heads"], values["hidden_size"]
    if values.get("head_dim") not in (None, width // heads):
        raise ValueError(f"head_dim = {values['head_dim']}; only hidden_size / heads is known")
    return Architecture(
        family="llama",
        embedding_size=values["vocab_size"],
        hidden_size=width,
        num_layers=values["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads") or heads,
        mlp_size=values["intermediate_size"],
        rope_theta=float(values.get("rope_theta", 10_000.0)),
        norm_epsilon=float(values.get("rms_norm_eps", 1e-6)),
        tied=values.get("tie_word_embeddings", False),
    )


_READERS = {"llada": (_LLADA_FIXED, _read_llada), "llama": (_LLAMA_FIXED, _read_llama)}
