"""Parameters of the DiT and its relatives from the tensors that PyTorch keeps them in."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from flexmdm_jax.conversion.layout import Path, check_tensors
from flexmdm_jax.conversion.tensors import Tensor


def read_parameters(
    tensors: Mapping[str, Tensor], shapes: Any, names: Mapping[str, str], path: pathlib.Path
) -> Any:
    """Returns the parameters that some tensors are, as NumPy arrays in float32.

    Linear maps are transposed, and layers stacked.

    Args:
      tensors: By name; each has to be a part of a parameter.
      shapes: Of our parameters.
      names: Ours -> theirs: a parameter's path to the name of its tensor, or a module's to that of
        a module whose tensors end in .weight and .bias. %s is the layer.
      path: Where the tensors lie, for messages.

    Raises:
      UserError: If tensors are missing, unexpected or of another shape.
    """
    flat = traverse_util.flatten_dict(shapes)
    theirs = {leaf: _their_names(leaf, shape.shape[0], names) for leaf, shape in flat.items()}
    expected = {
        name: _their_shape(leaf, flat[leaf].shape) for leaf in flat for name in theirs[leaf]
    }
    check_tensors(tensors, expected, path)
    parameters = {}
    for leaf, shape in flat.items():
        parts = [_to_ours(leaf, tensors[name].all()) for name in theirs[leaf]]
        value = np.stack(parts) if leaf[0] == "blocks" else parts[0]
        parameters[leaf] = value.astype(np.float32).reshape(shape.shape)
    return traverse_util.unflatten_dict(parameters)


def _their_names(leaf: Path, num_layers: int, names: Mapping[str, str]) -> list[str]:
    name = names.get("/".join(leaf))
    if name is None:
        name = names["/".join(leaf[:-1])] + (".bias" if leaf[-1] == "bias" else ".weight")
    return [name % layer for layer in range(num_layers)] if "%s" in name else [name]


def _their_shape(leaf: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    inner = shape[1:] if leaf[0] == "blocks" else shape
    if leaf[-1] != "kernel":
        return inner
    # The attention kernels are [d, 3, h, k] and [h, k, d]; all others have two axes.
    width = inner[-1] if leaf[-2] != "qkv" else 3 * inner[0]
    return (width, int(np.prod(inner)) // width)


def _to_ours(leaf: Path, tensor: np.ndarray) -> np.ndarray:
    return tensor.T if leaf[-1] == "kernel" else tensor
