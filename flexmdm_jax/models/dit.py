"""The paper's backbone: a diffusion transformer (DiT) conditioned on alpha through adaLN-zero."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from flexmdm_jax.attention import attention
from flexmdm_jax.models.heads import (
    TimeEmbedding,
    bias_init,
    encoding_of,
    linear,
    linear_init,
    make_gap_head,
    vocabulary_head,
)
from flexmdm_jax.models.segments import hold_several, spread
from flexmdm_jax.models.stack import stack
from flexmdm_jax.types import (
    Denoiser,
    Encoding,
    SegmentKeys,
    SlotKeys,
    keys_of_slots,
)

# What is elementwise is computed again in the backward pass, under every choice of remat: it
# costs no matrix product, and its float32 intermediates would be most of a block's memory.
recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@functools.partial(nn.remat, prevent_cse=False)
class ModulatedNorm(nn.Module):
    """LayerNorm with a weight and no bias, then the shift and scale of adaLN, in float32."""

    dtype: Dtype
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        shift: Float[Array, "b s d"],
        scale: Float[Array, "b s d"],
        segment_ids: Int[Array, "b l"],
    ) -> Float[Array, "b l d"]:
        """Returns the features, each segment modulated by its own shift and scale, as dtype."""
        y = nn.LayerNorm(
            epsilon=self.epsilon,
            use_bias=False,
            dtype=jnp.float32,
            scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
            name="norm",
        )(x)
        y = y * (1 + spread(scale, segment_ids)) + spread(shift, segment_ids)
        return y.astype(self.dtype)


class Modulation(nn.Module):
    """Condition [b, s, c] -> num per-segment arrays [b, s, d], all zero at initialisation."""

    num: int
    features: int

    @nn.compact
    def __call__(self, condition: Float[Array, "b s c"]):
        """Returns the shifts, scales and gates of adaLN-zero, in float32."""
        dense = linear(
            self.num * self.features, ("condition", "mlp"), fan_in=1, zero=True, name="proj"
        )
        return jnp.split(dense(condition), self.num, axis=-1)


@recomputed
def gated_sum(x, gate: Float[Array, "b s d"], y, segment_ids):
    """Returns x + gate · y, each segment with its own gate, as the type of x."""
    return (x + spread(gate, segment_ids) * y).astype(x.dtype)


@recomputed
def gelu(x):
    """Returns the tanh approximation of GELU."""
    return nn.gelu(x, approximate=True)


def rotary(x: Float[Array, "b l h d"], base: float = 10_000.0) -> Float[Array, "b l h d"]:
    """Returns x with its two halves rotated by position · base ** (-2i / d), in float32.

    Angles differ by distance only, so segments need no positions of their own.
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequencies[None, :]
    cos, sin = jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def dropout(x: Float[Array, "b l d"], keys: SlotKeys | None, salt, rate: float):
    """Returns x with entries dropped at the given rate, each slot by its own key."""
    if keys is None or rate == 0:
        return x
    # 16 bits place the rate within 1 / 65536 and cost half of what 32 do.
    draw = lambda key: jax.random.bits(jax.random.fold_in(key, salt), x.shape[2:], "uint16")  # noqa: E731
    kept = jax.vmap(jax.vmap(draw))(keys) >= round(rate * 65536)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def attend(
    x: Float[Array, "b l d"],
    segment_ids: Int[Array, "b l"],
    *,
    num_heads: int,
    packed: bool,
    dtype: Dtype,
    implementation: str | None,
    rotate: Callable[[Array], Array] = rotary,
) -> Float[Array, "b l d"]:
    """Returns what slots see of their segments; layers qkv and out belong to the calling module.

    Args:
      x: Features.
      segment_ids: See attention().
      num_heads: Must divide d.
      packed: See attention().
      dtype: Of matrix products.
      implementation: See attention().
      rotate: Heads of queries or keys -> the same, telling their places.
    """
    d = x.shape[-1]
    layer = functools.partial(nn.DenseGeneral, use_bias=False, dtype=dtype)
    init = functools.partial(nn.with_logical_partitioning, linear_init)
    qkv = layer(
        (3, num_heads, d // num_heads),
        kernel_init=init(("embed", None, "heads", None)),
        name="qkv",
    )(x)
    q, k, v = jnp.moveaxis(qkv, 2, 0)
    q, k = rotate(q), rotate(k)
    y = attention(q, k, v, segment_ids, packed=packed, implementation=implementation)
    return layer(d, axis=(-2, -1), kernel_init=init(("heads", None, "embed")), name="out")(y)


def mlp(x: Float[Array, "b l d"], size: int, activation: Callable[[Array], Array], dtype: Dtype):
    """Returns x through two layers, mlp_in and mlp_out, which belong to the calling module."""
    d = x.shape[-1]
    y = linear(size, ("embed", "mlp"), fan_in=d, dtype=dtype, name="mlp_in")(x)
    return linear(d, ("mlp", "embed"), fan_in=size, dtype=dtype, name="mlp_out")(activation(y))


class Block(nn.Module):
    """Attention and MLP, each behind a modulated norm and a gate."""

    num_heads: int
    dropout_rate: float
    dtype: Dtype
    attention_implementation: str | None

    @nn.compact
    def __call__(self, x, layer, condition, segment_ids, noise):
        """Returns (features [b, l, d], None), as nn.scan wants it."""
        d = x.shape[-1]
        drop = functools.partial(dropout, keys=noise, rate=self.dropout_rate)
        modulation = Modulation(6, d, name="modulation")(condition)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        y = ModulatedNorm(self.dtype, name="attention_norm")(x, shift, scale, segment_ids)
        y = attend(
            y,
            segment_ids,
            num_heads=self.num_heads,
            packed=hold_several(condition),
            dtype=self.dtype,
            implementation=self.attention_implementation,
        )
        x = gated_sum(x, gate, drop(y, salt=2 * layer), segment_ids)
        y = ModulatedNorm(self.dtype, name="mlp_norm")(x, mlp_shift, mlp_scale, segment_ids)
        y = drop(mlp(y, 4 * d, gelu, self.dtype), salt=2 * layer + 1)
        return gated_sum(x, mlp_gate, y, segment_ids), None


class DiT(nn.Module):
    """The denoising network (paper, Appendix F.1; the layout of its public code).

    Attributes:
      vocabulary_size: Columns of the logits.
      max_length: Slots of the longest sequence; scales the insertion head.
      hidden_size: Features per slot; num_heads must divide it.
      condition_size: Features of the time embedding.
      insertion_head: Predict gaps; MDM has no such head.
      gap_classes: Of a gap's distribution: 0, 1, … missing tokens, the last class that many or
        more. 0: predict means only.
      mark_start: Tell a segment's first slot from the others. Attention knows distances only, so
        otherwise nothing but END says where a sequence lies (the paper's network, the default).
      dropout_rate: On the output of attention and of the MLP.
      dtype: Of activations and matrix products; norms, gates and parameters stay float32.
      remat: What the backward pass computes again, a name in REMAT.
      scan_unroll: Blocks per iteration of the layer loop.
      attention_implementation: See attention().
      table_size: Rows of the embedding and columns of the head; those beyond vocabulary_size are
        spare, 0 and never trained. 0: vocabulary_size. See training/tables.py.
    """

    vocabulary_size: int
    max_length: int
    hidden_size: int
    num_layers: int
    num_heads: int
    condition_size: int = 128
    insertion_head: bool = True
    gap_classes: int = 0
    mark_start: bool = False
    dropout_rate: float = 0.0
    dtype: Dtype = jnp.float32
    remat: str = "none"
    scan_unroll: int = 1
    attention_implementation: str | None = None
    table_size: int = 0

    def setup(self):
        """Builds the layers."""
        d = self.hidden_size
        rows = self.table_size or self.vocabulary_size
        self.embedding = nn.Embed(
            rows,
            d,
            dtype=self.dtype,
            embedding_init=nn.with_logical_partitioning(self._draw_embedding, ("vocab", "embed")),
        )
        if self.mark_start:
            initial = nn.with_logical_partitioning(bias_init(d), ("embed",))
            self.start = self.param("start", initial, (d,))
        self.time_embedding = TimeEmbedding(self.condition_size)
        shared = nn.broadcast
        blocks = stack(
            Block,
            self.num_layers,
            (0, shared, shared, shared),
            remat=self.remat,
            unroll=self.scan_unroll,
        )
        self.blocks = blocks(
            self.num_heads, self.dropout_rate, self.dtype, self.attention_implementation
        )
        self.final_norm = ModulatedNorm(self.dtype)
        self.final_modulation = Modulation(2, d)
        self.head = vocabulary_head(rows, fan_in=d, dtype=self.dtype)
        if self.insertion_head:
            self.gap_norm = ModulatedNorm(jnp.float32)
            self.gap_modulation = Modulation(2, d)
            self.gap_head = make_gap_head(self.gap_classes, self.max_length)

    def _draw_embedding(self, key, shape, dtype=jnp.float32):
        rows, features = shape
        drawn = bias_init(features)(key, (self.vocabulary_size, features), dtype)
        return jnp.pad(drawn, ((0, rows - self.vocabulary_size), (0, 0)))

    def encode(
        self,
        tokens: Int[Array, "b l"],
        segment_ids: Int[Array, "b l"],
        alpha: Float[Array, "b s"],
        dropout_keys: SegmentKeys | None = None,
    ) -> Encoding:
        """Returns hidden features and gaps; dropout only where keys are given."""
        noise = dropout_keys if dropout_keys is None else keys_of_slots(dropout_keys, segment_ids)
        x = self.embedding(tokens)
        if self.mark_start:
            before = jnp.pad(segment_ids, ((0, 0), (1, 0)))[:, :-1]
            start = self.start.astype(x.dtype)[None, None, :]
            x = jnp.where((segment_ids != before)[:, :, None], x + start, x)
        condition = self.time_embedding(alpha)
        layers = jnp.arange(self.num_layers)
        x, _ = self.blocks(x, layers, condition, segment_ids, noise)
        hidden = self.final_norm(x, *self.final_modulation(condition), segment_ids)
        told = None
        if self.insertion_head:
            told = self.gap_head(self.gap_norm(x, *self.gap_modulation(condition), segment_ids))
        return encoding_of(hidden, segment_ids, told)

    def decode(self, hidden: Float[Array, "*slots d"]) -> Float[Array, "*slots v"]:
        """Returns float32 logits of hidden features at any slots."""
        return self.head(hidden).astype(jnp.float32)[..., : self.vocabulary_size]

    def __call__(self, tokens, segment_ids, alpha):
        """Touches every parameter, for initialisation; returns (gaps, logits)."""
        encoding = self.encode(tokens, segment_ids, alpha)
        return encoding.gaps, self.decode(encoding.hidden)

    def flops(self, num_slots, num_pairs, num_masks):
        """Returns the floating-point operations of one forward pass, matrix products only.

        Counts work that real slots need: padding, recomputation and skipped slots are left out.

        Args:
          num_slots: Slots that hold a token.
          num_pairs: Sum over sequences of their length squared.
          num_masks: Slots the vocabulary head runs on.
        """
        d = self.hidden_size
        gap_features = (self.gap_classes or d) * self.insertion_head
        per_slot = 24 * d * d * self.num_layers + 2 * d * gap_features
        attention_flops = 4 * d * self.num_layers * num_pairs
        return per_slot * num_slots + attention_flops + 2 * d * self.vocabulary_size * num_masks


def make_denoiser(model: nn.Module, params, dropout_keys: SegmentKeys | None = None) -> Denoiser:
    """Returns the model with its parameters as losses and samplers take it."""
    variables = {"params": params}

    def encode(tokens, segment_ids, alpha):
        return model.apply(variables, tokens, segment_ids, alpha, dropout_keys, method="encode")

    def decode(hidden):
        return model.apply(variables, hidden, method="decode")

    return Denoiser(encode=encode, decode=decode)
