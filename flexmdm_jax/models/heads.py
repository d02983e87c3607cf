"""Time embedding, vocabulary head, and the insertion heads."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from flexmdm_jax.types import Encoding


def linear_init(key, shape, dtype=jnp.float32):
    """Returns PyTorch's default for linear layers: uniform within 1/√fan_in either way."""
    return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)


def bias_init(fan_in: int):
    """Returns PyTorch's default initialiser for the bias of a linear layer."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def linear(features: int, names: tuple[str, str], *, fan_in: int, zero: bool = False, **kwargs):
    """Returns a Dense layer with PyTorch's default initialisation, or all zeros.

    names are the logical axes of its kernel, see sharding.py.
    """
    kernel = nn.initializers.zeros if zero else linear_init
    bias = nn.initializers.zeros if zero else bias_init(fan_in)
    return nn.Dense(
        features,
        kernel_init=nn.with_logical_partitioning(kernel, names),
        bias_init=nn.with_logical_partitioning(bias, names[1:]),
        **kwargs,
    )


def vocabulary_head(rows: int, *, fan_in: int, dtype: Dtype, use_bias: bool = True) -> nn.Dense:
    """Returns the layer of the logits, all zero at first.

    It multiplies numbers of its dtype, but logits are never rounded to bfloat16.
    """
    product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
    return linear(
        rows,
        ("embed", "vocab"),
        fan_in=fan_in,
        zero=True,
        use_bias=use_bias,
        dtype=dtype,
        dot_general=product,
    )


def sinusoid(alpha: Float[Array, "b s"], size: int) -> Float[Array, "b s size"]:
    """Returns [cos, sin] of alpha at size / 2 frequencies from 1 down to 1e-4."""
    half = size // 2
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = alpha[..., None] * frequencies[None, None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """alpha [b, s] -> condition [b, s, features], always in float32.

    Attributes:
      features: Of the condition.
      sinusoid_size: Features of the sinusoid the MLP sees.
      hidden_size: Of the MLP; None: as many as features.
      axes: Logical axes of the two kernels, in and out.
      activate: Apply silu to the condition, which the DiT wants.
    """

    features: int
    sinusoid_size: int = 256
    hidden_size: int | None = None
    axes: tuple[tuple[str, str], tuple[str, str]] = (("condition_in", "condition"),) * 2
    activate: bool = True

    @nn.compact
    def __call__(self, alpha: Float[Array, "b s"]) -> Float[Array, "b s c"]:
        """Returns MLP(sinusoid(alpha)), or silu of it."""
        x = sinusoid(alpha, self.sinusoid_size)
        hidden = self.hidden_size or self.features
        x = linear(hidden, self.axes[0], fan_in=self.sinusoid_size, name="in_proj")(x)
        x = linear(self.features, self.axes[1], fan_in=hidden, name="out_proj")(nn.silu(x))
        return nn.silu(x) if self.activate else x


class GapHead(nn.Module):
    """Features [b, l, d] -> expected gaps [b, l]: Linear, GELU, Linear, softplus × scale."""

    scale: float

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l"]:
        """Returns g(x, t), computed in float32; it starts near one token a gap."""
        d = x.shape[-1]
        hidden = linear(d, ("embed", "mlp"), fan_in=d, dtype=jnp.float32, name="in_proj")(x)
        start = jnp.log(jnp.expm1(1.0 / self.scale))
        out = nn.Dense(
            1,
            kernel_init=nn.with_logical_partitioning(linear_init, ("mlp", None)),
            bias_init=nn.with_logical_partitioning(nn.initializers.constant(start), (None,)),
            dtype=jnp.float32,
            name="out_proj",
        )(nn.gelu(hidden, approximate=False))
        return nn.softplus(out[..., 0]) * self.scale


class GapDistribution(nn.Module):
    """Features [b, l, d] -> logits [b, l, classes] of the number of missing tokens: one Linear.

    The layout of the paper's public code. It starts alike at all slots.
    """

    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l k"]:
        """Returns the logits of 0, 1, … tokens, in float32."""

        def start(_key, shape, dtype=jnp.float32):
            # Chances fall as (1 + m) ** -2.5: about one token a gap, as the other head starts, with
            # a tail heavy enough for gaps of any length to be learned. Alike for all classes, as in
            # the public code, a gap would start at half of the longest sequence.
            return -2.5 * jnp.log1p(jnp.arange(shape[0], dtype=dtype))

        return nn.Dense(
            self.classes,
            kernel_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed", None)),
            bias_init=nn.with_logical_partitioning(start, (None,)),
            dtype=jnp.float32,
            name="proj",
        )(x)


def mean_gap(logits: Float[Array, "b l k"]) -> Float[Array, "b l"]:
    """Returns the mean number of missing tokens; the last class counts as its smallest number."""
    number = jnp.arange(logits.shape[-1], dtype=jnp.float32)
    # No product of matrices, which a TPU would round to bfloat16.
    return jnp.sum(jax.nn.softmax(logits, axis=-1) * number[None, None, :], axis=-1)


def make_gap_head(gap_classes: int, max_length: int) -> GapHead | GapDistribution:
    """Returns the head of means, or where there are classes that of distributions."""
    return GapDistribution(gap_classes) if gap_classes else GapHead(float(max_length))


def encoding_of(
    hidden: Float[Array, "b l d"],
    segment_ids: Int[Array, "b l"],
    told: Float[Array, "b l"] | Float[Array, "b l k"] | None,
) -> Encoding:
    """Returns what a network says of its input.

    Args:
      hidden: Its features.
      segment_ids: Of the slots; padding has no gap.
      told: What a gap head says, means or logits of a distribution; None if there is no such head,
        and nothing is missing.
    """
    if told is None:
        return Encoding(hidden=hidden, gaps=jnp.zeros(segment_ids.shape, jnp.float32))
    logits = told if told.ndim == 3 else None
    gaps = told if logits is None else mean_gap(logits)
    return Encoding(hidden, jnp.where(segment_ids > 0, gaps, 0.0), logits)
