"""The network of xlm-core's FlexMDM: a relative of the DiT, whose public weights it takes."""

import functools
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from flexmdm_jax.models.dit import (
    ModulatedNorm,
    Modulation,
    attend,
    dropout,
    gated_sum,
    mlp,
    rotary,
)
from flexmdm_jax.models.heads import (
    TimeEmbedding,
    bias_init,
    encoding_of,
    linear,
    make_gap_head,
    vocabulary_head,
)
from flexmdm_jax.models.segments import hold_several, spread
from flexmdm_jax.models.stack import stack
from flexmdm_jax.types import Encoding, SegmentKeys, keys_of_slots

Activation = Literal["relu", "gelu"]
# GELU is PyTorch's, by the error function.
_ACTIVATIONS = {"relu": nn.relu, "gelu": functools.partial(nn.gelu, approximate=False)}


class Block(nn.Module):
    """Attention and MLP; see Xlm for the attributes.

    Unlike the DiT's, attention is added to what it reads, the modulated norm, so what the blocks
    before it have summed up goes on through the norm alone.
    """

    num_heads: int
    mlp_size: int
    rotary_size: int
    activation: Activation
    norm_epsilon: float
    dropout_rate: float
    dtype: Dtype
    attention_implementation: str | None

    @nn.compact
    def __call__(self, x, layer, condition, segment_ids, noise):
        """Returns (features [b, l, d], None), as nn.scan wants it."""
        drop = functools.partial(dropout, keys=noise, rate=self.dropout_rate)
        norm = functools.partial(ModulatedNorm, self.dtype, self.norm_epsilon)
        modulation = Modulation(6, x.shape[-1], name="modulation")(condition)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        x = norm(name="attention_norm")(x, shift, scale, segment_ids)
        y = attend(
            x,
            segment_ids,
            num_heads=self.num_heads,
            packed=hold_several(condition),
            dtype=self.dtype,
            implementation=self.attention_implementation,
            rotate=self._rotated,
        )
        x = gated_sum(x, gate, drop(y, salt=2 * layer), segment_ids)
        y = norm(name="mlp_norm")(x, mlp_shift, mlp_scale, segment_ids)
        y = mlp(y, self.mlp_size, _ACTIVATIONS[self.activation], self.dtype)
        return gated_sum(x, mlp_gate, drop(y, salt=2 * layer + 1), segment_ids), None

    def _rotated(self, x):
        """Returns heads whose first features tell their place, and whose others do not."""
        size = self.rotary_size
        return jnp.concatenate([rotary(x[..., :size]), x[..., size:]], axis=-1)


class GapMlp(nn.Module):
    """What stands before a distribution of gaps: x + gate · MLP(y), tanh between its halves."""

    @nn.compact
    def __call__(self, x, y, gate, segment_ids):
        """Returns features [b, l, d] in float32."""
        d = x.shape[-1]
        y = linear(2 * d, ("embed", "mlp"), fan_in=d, dtype=jnp.float32, name="in_proj")(y)
        y = linear(d, ("mlp", "embed"), fan_in=2 * d, dtype=jnp.float32, name="out_proj")(
            jnp.tanh(y)
        )
        return x.astype(jnp.float32) + spread(gate, segment_ids) * y


class Xlm(nn.Module):
    """The denoising network of xlm-core's FlexMDM.

    Attributes:
      vocabulary_size: Rows of the embedding and of the output head.
      max_length: Slots of the longest sequence; scales the insertion head.
      hidden_size: Features per slot; num_heads must divide it.
      mlp_size: Features between the halves of an MLP.
      rotary_size: Features of a head that are rotated, an even number; the first ones.
      activation: Between the halves of an MLP.
      norm_epsilon: Of LayerNorm.
      pad: An id that has a row and is no token; it is never drawn. -1: there is none.
      condition_size: Features of the time embedding.
      insertion_head: Predict gaps; MDM has no such head.
      gap_classes: Of a gap's distribution, see DiT; 0: predict means only.
      gap_mlp: Put an MLP before a distribution.
      dropout_rate: On the output of attention and of the MLP.
      dtype: Of activations and matrix products; norms, gates and parameters stay float32.
      remat: What the backward pass computes again, a name in REMAT.
      scan_unroll: Blocks per iteration of the layer loop.
      attention_implementation: See attention().
    """

    vocabulary_size: int
    max_length: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    rotary_size: int
    activation: Activation = "relu"
    norm_epsilon: float = 1e-5
    pad: int = -1
    condition_size: int = 128
    insertion_head: bool = True
    gap_classes: int = 0
    gap_mlp: bool = False
    dropout_rate: float = 0.0
    dtype: Dtype = jnp.float32
    remat: str = "none"
    scan_unroll: int = 1
    attention_implementation: str | None = None

    def setup(self):
        """Builds the layers."""
        d = self.hidden_size
        self.embedding = nn.Embed(
            self.vocabulary_size,
            d,
            dtype=self.dtype,
            embedding_init=nn.with_logical_partitioning(bias_init(d), ("vocab", "embed")),
        )
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
            self.num_heads,
            self.mlp_size,
            self.rotary_size,
            self.activation,
            self.norm_epsilon,
            self.dropout_rate,
            self.dtype,
            self.attention_implementation,
        )
        self.final_norm = ModulatedNorm(self.dtype, self.norm_epsilon)
        self.final_modulation = Modulation(2, d)
        self.head = vocabulary_head(
            self.vocabulary_size, fan_in=d, dtype=self.dtype, use_bias=False
        )
        if self.insertion_head:
            self.gap_norm = ModulatedNorm(jnp.float32, self.norm_epsilon)
            self.gap_modulation = Modulation(2 + self.gap_mlp, d)
            if self.gap_mlp:
                self.gap_features = GapMlp()
            self.gap_head = make_gap_head(self.gap_classes, self.max_length)

    def encode(
        self,
        tokens: Int[Array, "b l"],
        segment_ids: Int[Array, "b l"],
        alpha: Float[Array, "b s"],
        dropout_keys: SegmentKeys | None = None,
    ) -> Encoding:
        """Returns hidden features and gaps; dropout only where keys are given."""
        noise = dropout_keys if dropout_keys is None else keys_of_slots(dropout_keys, segment_ids)
        condition = self.time_embedding(alpha)
        layers = jnp.arange(self.num_layers)
        x, _ = self.blocks(self.embedding(tokens), layers, condition, segment_ids, noise)
        hidden = self.final_norm(x, *self.final_modulation(condition), segment_ids)
        told = self._gaps(x, condition, segment_ids) if self.insertion_head else None
        return encoding_of(hidden, segment_ids, told)

    def _gaps(self, x, condition, segment_ids):
        shift, scale, *gates = self.gap_modulation(condition)
        y = self.gap_norm(x, shift, scale, segment_ids)
        if self.gap_mlp:
            y = self.gap_features(x, y, *gates, segment_ids)
        return self.gap_head(y)

    def decode(self, hidden: Float[Array, "*slots d"]) -> Float[Array, "*slots v"]:
        """Returns float32 logits of hidden features at any slots; pad's is -inf."""
        logits = self.head(hidden).astype(jnp.float32)
        if self.pad < 0:
            return logits
        return logits.at[..., self.pad].set(-jnp.inf)

    def __call__(self, tokens, segment_ids, alpha):
        """Touches every parameter, for initialisation; returns (gaps, logits)."""
        encoding = self.encode(tokens, segment_ids, alpha)
        return encoding.gaps, self.decode(encoding.hidden)

    def flops(self, num_slots, num_pairs, num_masks):
        """Returns the floating-point operations of one forward pass, as DiT.flops() counts them."""
        d, layers = self.hidden_size, self.num_layers
        gap_features = (self.gap_classes or d) + 4 * d * self.gap_mlp
        per_slot = (8 * d * d + 4 * d * self.mlp_size) * layers
        per_slot += 2 * d * gap_features * self.insertion_head
        pairs = 4 * d * layers * num_pairs
        return per_slot * num_slots + pairs + 2 * d * self.vocabulary_size * num_masks
