"""The paper's backbone: a diffusion transformer (DiT) conditioned on alpha through adaLN-zero."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from flexmdm_jax.attention import attention
from flexmdm_jax.models.heads import (
    GapDistribution,
    GapHead,
    TimeEmbedding,
    bias_init,
    linear,
    linear_init,
    mean_gap,
)
from flexmdm_jax.models.remat import REMAT
from flexmdm_jax.models.segments import spread
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
        # As many conditions as a row may hold segments.
        packed = condition.shape[1] > 1
        y = drop(self._attend(y, segment_ids, packed), salt=2 * layer)
        x = gated_sum(x, gate, y, segment_ids)
        y = ModulatedNorm(self.dtype, name="mlp_norm")(x, mlp_shift, mlp_scale, segment_ids)
        y = linear(4 * d, ("embed", "mlp"), fan_in=d, dtype=self.dtype, name="mlp_in")(y)
        y = gelu(y)
        y = linear(d, ("mlp", "embed"), fan_in=4 * d, dtype=self.dtype, name="mlp_out")(y)
        y = drop(y, salt=2 * layer + 1)
        return gated_sum(x, mlp_gate, y, segment_ids), None

    def _attend(self, x, segment_ids, packed):
        d = x.shape[-1]
        names = ("embed", None, "heads", None)
        qkv = nn.DenseGeneral(
            (3, self.num_heads, d // self.num_heads),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.with_logical_partitioning(linear_init, names),
            name="qkv",
        )(x)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        y = attention(
            rotary(q),
            rotary(k),
            v,
            segment_ids,
            packed=packed,
            implementation=self.attention_implementation,
        )
        return nn.DenseGeneral(
            d,
            axis=(-2, -1),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.with_logical_partitioning(linear_init, ("heads", None, "embed")),
            name="out",
        )(y)


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
        block = REMAT[self.remat](Block)
        self.blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.num_layers,
            unroll=self.scan_unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(self.num_heads, self.dropout_rate, self.dtype, self.attention_implementation)
        self.final_norm = ModulatedNorm(self.dtype)
        self.final_modulation = Modulation(2, d)
        # Products of bfloat16 numbers, but logits that are never rounded to bfloat16.
        product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
        self.head = linear(
            rows,
            ("embed", "vocab"),
            fan_in=d,
            zero=True,
            dtype=self.dtype,
            dot_general=product,
        )
        if self.insertion_head:
            self.gap_norm = ModulatedNorm(jnp.float32)
            self.gap_modulation = Modulation(2, d)
            if self.gap_classes:
                self.gap_head = GapDistribution(self.gap_classes)
            else:
                self.gap_head = GapHead(float(self.max_length))

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
        if not self.insertion_head:
            return Encoding(hidden=hidden, gaps=jnp.zeros(tokens.shape, jnp.float32))
        told = self.gap_head(self.gap_norm(x, *self.gap_modulation(condition), segment_ids))
        logits = told if self.gap_classes else None
        gaps = told if logits is None else mean_gap(logits)
        return Encoding(hidden, jnp.where(segment_ids > 0, gaps, 0.0), logits)

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
