"""The DiT checkpoints of the paper's public code: Lightning files with a PyTorch state_dict."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from flexmdm_jax.conversion.modulated import read_parameters
from flexmdm_jax.conversion.pickles import load_pickle
from flexmdm_jax.conversion.tensors import tensors_of_torch
from flexmdm_jax.errors import UserError

# See read_parameters().
_NAMES = {
    "embedding/embedding": "vocab_embed.embedding",
    "time_embedding/in_proj": "sigma_map.mlp.0",
    "time_embedding/out_proj": "sigma_map.mlp.2",
    "blocks/modulation/proj": "blocks.%s.adaLN_modulation",
    "blocks/qkv": "blocks.%s.attn_qkv",
    "blocks/out": "blocks.%s.attn_out",
    "blocks/mlp_in": "blocks.%s.mlp.0",
    "blocks/mlp_out": "blocks.%s.mlp.2",
    "final_modulation/proj": "output_layer.adaLN_modulation",
    "head": "output_layer.linear",
    # The head of a mean, and that of a distribution.
    "gap_head/in_proj": "len_pred.proj1",
    "gap_head/out_proj": "len_pred.proj2",
    "gap_head/proj": "len_pred.linear",
    "blocks/attention_norm/norm": "blocks.%s.norm1",
    "blocks/mlp_norm/norm": "blocks.%s.norm2",
    "final_norm/norm": "output_layer.norm_final",
}
# What stands before either head; a distribution's is a layer like the output's.
_BEFORE_MEAN = {"gap_modulation/proj": "len_pred.adaLN", "gap_norm/norm": "len_pred.norm"}
_BEFORE_DISTRIBUTION = {
    "gap_modulation/proj": "len_pred.adaLN_modulation",
    "gap_norm/norm": "len_pred.norm_final",
}
# Buffers that hold no parameters.
_IGNORED = re.compile(r"rotary_emb\.")


def read_flexmdm(path: pathlib.Path, shapes: Any, *, averaged: bool = True) -> Any:
    """Returns the parameters of a DiT from a checkpoint of the paper's code, as NumPy arrays.

    Args:
      path: A Lightning checkpoint.
      shapes: Of our parameters.
      averaged: Take the moving average, if the file has one.

    Raises:
      UserError: If the file is damaged or holds code, or its tensors are not those of the shapes.
    """
    flat = traverse_util.flatten_dict(shapes)
    distribution = ("gap_head", "proj", "kernel") in flat
    content = load_pickle(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path} has no state_dict; give a checkpoint that Lightning saved")
    state = (averaged and content.get("ema_params")) or content["state_dict"]
    state = {_plain_name(name): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not _IGNORED.match(name)}
    tensors = tensors_of_torch(state, path)
    _check_gap_head(tensors, path, distribution=distribution)
    before_head = _BEFORE_DISTRIBUTION if distribution else _BEFORE_MEAN
    return read_parameters(tensors, shapes, _NAMES | before_head, path)


def _plain_name(name: str) -> str:
    """Returns a name without what Lightning and torch.compile put before it."""
    return name.replace("_orig_mod.", "").removeprefix("model.")


def _check_gap_head(tensors: Mapping[str, Any], path: pathlib.Path, *, distribution: bool) -> None:
    """Raises UserError if the file has the other of the two heads."""
    linear = tensors.get("len_pred.linear.weight")
    if linear is not None and not distribution:
        raise UserError(
            f"{path} has distributions of gaps in {linear.shape[0]} classes; set "
            "config.model.gap_head='distribution'"
        )
    if distribution and "len_pred.proj1.weight" in tensors:
        raise UserError(f"{path} has means of gaps; set config.model.gap_head='mean'")


def exchange_rows(params: Any, source: dict[str, int], target: dict[str, int]) -> Any:
    """Returns the parameters with the rows of special tokens where our tokenizer has their ids.

    Their pad token plays the part of END. The ids in between move up or down to make room.

    Args:
      params: With an embedding and a head over the same ids.
      source: Ids of "mask" and "end" (their pad) in the checkpoint.
      target: Ids of the same in our vocabulary.

    Raises:
      UserError: If an id lies outside the embedding.
    """
    size = len(params["embedding"]["embedding"])
    if not all(0 <= i < size for i in source.values()) or len(set(source.values())) < 2:
        raise UserError(f"pad and mask ids {source} do not fit the checkpoint's {size} rows")
    order = [i for i in range(size) if i not in source.values()]
    for name in sorted(target, key=target.__getitem__):
        order.insert(target[name], source[name])
    rows = np.asarray(order)
    embedding = {"embedding": params["embedding"]["embedding"][rows]}
    head = {name: value[..., rows] for name, value in params["head"].items()}
    return params | {"embedding": embedding, "head": head}
