"""Linear maps with low-rank adapters (Hu et al., 2022), and which parameters a retrofit trains."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import traverse_util
from flax.typing import Dtype
from jaxtyping import Array, Float

from flexmdm_jax.models.heads import linear_init

# What a retrofit adds to a backbone besides adapters; all else is the frozen base.
_ADDED_MODULES = frozenset({"time_embedding", "modulation", "mask_shift", "gap_norm", "gap_head"})
FACTORS = ("lora_a", "lora_b")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters: x W becomes x W + (alpha / rank) · dropout(x) A B.

    Attributes:
      rank: Columns of A.
      alpha: See above.
      dropout_rate: On the input of A.
      targets: The linear maps that have adapters, of q, k, v, out, gate, up, down and head.
      rslora: Divide alpha by the root of the rank instead (Kalajdzievski, 2023).
    """

    rank: int = 128
    alpha: float = 128.0
    dropout_rate: float = 0.0
    targets: tuple[str, ...] = ("q", "k", "v", "head")
    rslora: bool = False

    @property
    def scale(self) -> float:
        """Returns the factor of A B."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def on(self, target: str) -> "Lora | None":
        """Returns the adapters of a linear map, None if it has none."""
        return self if target in self.targets else None


class Projection(nn.Module):
    """A linear map without bias from the last axes of its input, with or without an adapter.

    Attributes:
      inputs: Lengths of the axes it takes.
      features: Lengths of the axes it gives.
      names: Logical axes of the kernel [*inputs, *features].
      dtype: Of the product.
      param_dtype: Of the kernel; adapters are float32.
      lora: The adapter; None: none.
      output_dtype: Of the result; None: dtype.
    """

    inputs: tuple[int, ...]
    features: tuple[int, ...]
    names: tuple[str | None, ...]
    dtype: Dtype
    param_dtype: Dtype = jnp.float32
    lora: Lora | None = None
    output_dtype: Dtype | None = None

    def setup(self):
        """Makes the kernel and, with an adapter, its two factors; the second starts at zero."""
        cut = len(self.inputs)
        self.kernel = self._matrix("kernel", self.inputs, self.features, self.names)
        if self.lora is not None:
            rank = (self.lora.rank,)
            names = (*self.names[:cut], "rank"), ("rank", *self.names[cut:])
            self.lora_a = self._matrix("lora_a", self.inputs, rank, names[0])
            self.lora_b = self._matrix("lora_b", rank, self.features, names[1])

    def _matrix(self, name, inputs, features, names):
        def init(key, shape, dtype):
            if name == "lora_b":
                return jnp.zeros(shape, dtype)
            return linear_init(key, (math.prod(inputs), math.prod(features)), dtype).reshape(shape)

        dtype = jnp.float32 if name in FACTORS else self.param_dtype
        init = nn.with_logical_partitioning(init, names)
        return self.param(name, init, (*inputs, *features), dtype)

    def reduce(self, x: Float[Array, "..."]) -> Float[Array, "... r"] | None:
        """Returns x A, which is all the adapter needs of x; None without an adapter."""
        if self.lora is None:
            return None
        return self._product(x, self.lora_a, len(self.inputs), self.dtype)

    def __call__(
        self, x: Float[Array, "..."], low: Float[Array, "... r"] | None = None
    ) -> Float[Array, "..."]:
        """Returns x W + scale · low B, where low = reduce(x), or reduce(dropout(x))."""
        dtype = self.output_dtype or self.dtype
        out = self._product(x, self.kernel, len(self.inputs), dtype)
        if low is None:
            return out
        return out + self.lora.scale * self._product(low, self.lora_b, 1, dtype)

    def _product(self, x, kernel, num_axes, dtype):
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return jnp.tensordot(x, kernel, num_axes, preferred_element_type=dtype)


def is_trained(path: tuple[str, ...]) -> bool:
    """Returns whether a retrofit trains the parameter at a path; the rest is the frozen base."""
    return path[-1] in FACTORS or path[0] in _ADDED_MODULES


def split_base(params: Any) -> tuple[Any, Any]:
    """Returns (what a retrofit trains, the frozen base) of a tree of parameters."""
    flat = traverse_util.flatten_dict(params)
    parts = ({p: x for p, x in flat.items() if is_trained(p) == kept} for kept in (True, False))
    trained, base = (traverse_util.unflatten_dict(part) for part in parts)
    return trained, base


def join_base(trained: Any, base: Any) -> Any:
    """Returns the tree that split_base() took apart."""
    flat = traverse_util.flatten_dict(base) | traverse_util.flatten_dict(trained)
    return traverse_util.unflatten_dict(flat)


def trained_sizes(params: Any) -> dict[str, int]:
    """Returns how many parameters a retrofit trains, by group (as in the paper's account).

    Args:
      params: Arrays or shapes.
    """
    sizes: dict[str, int] = {}
    for path, leaf in traverse_util.flatten_dict(split_base(params)[0]).items():
        group = _group(path)
        sizes[group] = sizes.get(group, 0) + math.prod(leaf.shape)
    return sizes


def _group(path: tuple[str, ...]) -> str:
    if path[-1] in FACTORS:
        return "LoRA of the head" if path[0] == "head" else "LoRA of the blocks"
    named = {"time_embedding": "time embedding", "modulation": "AdaLN", "mask_shift": "MASK"}
    return named.get(path[0], "insertion head")
