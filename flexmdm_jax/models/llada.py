"""LLaDA's backbone (Nie et al., 2025), and its retrofit into a FlexMDM (paper, Appendix F.3)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from flexmdm_jax.attention import attention
from flexmdm_jax.models.dit import dropout, recomputed, rotary
from flexmdm_jax.models.heads import GapHead, TimeEmbedding, encoding_of
from flexmdm_jax.models.lora import Lora, Projection
from flexmdm_jax.models.segments import hold_several, spread
from flexmdm_jax.models.stack import stack
from flexmdm_jax.types import Encoding, SegmentKeys, keys_of_slots


class RMSNorm(nn.Module):
    """x / rms(x) times a weight, in float32."""

    epsilon: float
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Returns the normalised features in float32."""
        init = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        weight = self.param("scale", init, (x.shape[-1],), self.param_dtype)
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
        return (
            x * jax.lax.rsqrt(mean_square + self.epsilon) * weight.astype(jnp.float32)[None, None]
        )


class Block(nn.Module):
    """Grouped-query attention and SwiGLU, each behind a norm; see LLaDA for the attributes."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    rope_theta: float
    norm_epsilon: float
    causal: bool
    lora: Lora | None
    dtype: Dtype
    param_dtype: Dtype
    attention_implementation: str | None

    def setup(self):
        """Builds the layers."""
        d, m, h, kv = self.hidden_size, self.mlp_size, self.num_heads, self.num_kv_heads
        size = d // h
        self.attention_norm = RMSNorm(self.norm_epsilon, self.param_dtype)
        self.q = self._projection("q", (d,), (h, size), ("embed", "heads", None))
        self.k = self._projection("k", (d,), (kv, size), ("embed", "heads", None))
        self.v = self._projection("v", (d,), (kv, size), ("embed", "heads", None))
        self.out = self._projection("out", (h, size), (d,), ("heads", None, "embed"))
        self.mlp_norm = RMSNorm(self.norm_epsilon, self.param_dtype)
        self.gate = self._projection("gate", (d,), (m,), ("embed", "mlp"))
        self.up = self._projection("up", (d,), (m,), ("embed", "mlp"))
        self.down = self._projection("down", (m,), (d,), ("mlp", "embed"))

    def _projection(self, target, inputs, features, names):
        lora = self.lora.on(target) if self.lora is not None else None
        return Projection(inputs, features, names, self.dtype, self.param_dtype, lora)

    def __call__(self, x, layer, modulation, segment_ids, alpha, noise):
        """Returns (features [b, l, d], None), as nn.scan wants it.

        modulation [b, s, 2 d] holds scale and shift of both norms; None leaves them as they are.
        Of alpha [b, s] only the number of segments that a row may hold is asked.
        """

        def modulated(norm):
            y = norm(x)
            if modulation is not None:
                y = modulate(y, modulation, segment_ids)
            return y.astype(self.dtype)

        def project(target: str, y):
            map_ = getattr(self, target)
            if map_.lora is None:
                return map_(y)
            salt = layer * len(_SALTS) + _SALTS[target]
            flat = y.reshape(*y.shape[:2], -1)
            dropped = dropout(flat, noise, salt, map_.lora.dropout_rate)
            return map_(y, map_.reduce(dropped.reshape(y.shape)))

        y = modulated(self.attention_norm)
        q, k, v = (project(target, y) for target in ("q", "k", "v"))
        y = attention(
            rotary(q, self.rope_theta),
            rotary(k, self.rope_theta),
            v,
            segment_ids,
            causal=self.causal,
            packed=hold_several(alpha),
            implementation=self.attention_implementation,
        )
        x = x + project("out", y)
        y = modulated(self.mlp_norm)
        y = nn.silu(project("gate", y)) * project("up", y)
        return x + project("down", y), None


_SALTS = {name: salt for salt, name in enumerate(("q", "k", "v", "out", "gate", "up", "down"))}
# Layers are numbered from 0, so their salts are not negative.
_HEAD_SALT = -1 % 2**32


@recomputed
def modulate(y, modulation: Float[Array, "b s e"], segment_ids):
    """Returns y · (1 + scale) + shift, each segment with its own halves of the modulation."""
    scale, shift = jnp.split(modulation, 2, axis=-1)
    return y * (1 + spread(scale, segment_ids)) + spread(shift, segment_ids)


def of_slot_before(
    x: Float[Array, "b l d"], segment_ids: Int[Array, "b l"]
) -> Float[Array, "b l d"]:
    """Returns the features of the slot before each; a segment's first slot keeps its own."""
    before = jnp.pad(segment_ids, ((0, 0), (1, 0)))[:, :-1]
    moved = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return jnp.where((segment_ids == before)[:, :, None], moved, x)


class LLaDA(nn.Module):
    """A LLaMA-style transformer that sees both ways, with or without what makes it a FlexMDM.

    Added to the backbone (paper, Appendix F.3; layout of its public code): a time embedding, one
    scale and shift for both norms of a block, shared by each group of layers; an insertion head on
    the normed features; and LoRA. All of it starts as if it were not there.

    Attributes:
      vocabulary_size: Columns of the logits.
      embedding_size: Rows of the embedding and of the head; those beyond vocabulary_size are spare.
      max_length: Slots of the longest sequence; scales the insertion head.
      hidden_size: Features per slot; num_heads must divide it.
      num_kv_heads: Heads of keys and values; must divide num_heads.
      mlp_size: Features between the two halves of SwiGLU.
      rope_theta: Base of the rotary frequencies.
      norm_epsilon: Of RMSNorm.
      tied: The head is the embedding transposed.
      causal: Slots see only themselves and what stands before them, as in an autoregressive LLaMA.
      layers_per_group: Layers that share scale and shift; 0: no time conditioning (an MDM).
      told_before: A token is told by the features of the slot before its own, as an autoregressive
        model tells it; by its own where a segment begins.
      trained_mask: Id of MASK, to whose embedding something trained is added; -1: none.
      insertion_head: Predict gaps.
      lora: Adapters; None: none.
      dtype: Of activations and matrix products; norms and softmax are float32.
      param_dtype: Of the backbone's parameters; all that is added is float32.
      remat: What the backward pass computes again, a name in REMAT.
      scan_unroll: Blocks per iteration of the layer loop.
      attention_implementation: See attention().
    """

    vocabulary_size: int
    embedding_size: int
    max_length: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    rope_theta: float = 500_000.0
    norm_epsilon: float = 1e-5
    tied: bool = False
    causal: bool = False
    layers_per_group: int = 0
    told_before: bool = False
    trained_mask: int = -1
    insertion_head: bool = False
    lora: Lora | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    remat: str = "none"
    scan_unroll: int = 1
    attention_implementation: str | None = None

    @property
    def dropout_rate(self) -> float:
        """Returns the rate of dropout, which only adapters have."""
        return self.lora.dropout_rate if self.lora is not None else 0.0

    def setup(self):
        """Builds the layers."""
        d = self.hidden_size
        self.embedding = nn.Embed(
            self.embedding_size,
            d,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            embedding_init=nn.with_logical_partitioning(
                nn.initializers.normal(0.02), ("vocab", "embed")
            ),
        )
        if self.trained_mask >= 0:
            init = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
            self.mask_shift = self.param("mask_shift", init, (d,))
        shared = nn.broadcast
        blocks = stack(
            Block,
            self.num_layers,
            (0, 0, shared, shared, shared),
            remat=self.remat,
            unroll=self.scan_unroll,
        )
        self.blocks = blocks(
            d,
            self.num_heads,
            self.num_kv_heads,
            self.mlp_size,
            self.rope_theta,
            self.norm_epsilon,
            self.causal,
            self.lora,
            self.dtype,
            self.param_dtype,
            self.attention_implementation,
        )
        self.final_norm = RMSNorm(self.norm_epsilon, self.param_dtype)
        if not self.tied:
            self.head = Projection(
                (d,),
                (self.embedding_size,),
                ("embed", "vocab"),
                self.dtype,
                self.param_dtype,
                self.lora.on("head") if self.lora is not None else None,
                # Products of bfloat16 numbers, but logits that are never rounded to bfloat16.
                output_dtype=jnp.float32,
            )
        if self.layers_per_group:
            axes = (("embed", "mlp"), ("mlp", "embed"))
            self.time_embedding = TimeEmbedding(d, d, 4 * d, axes, activate=False)
            self.modulation = GroupModulation(-(-self.num_layers // self.layers_per_group), d)
        if self.insertion_head:
            init = nn.initializers.ones, nn.initializers.zeros
            weight, bias = (nn.with_logical_partitioning(i, ("embed",)) for i in init)
            self.gap_norm = nn.LayerNorm(
                epsilon=1e-5, dtype=jnp.float32, scale_init=weight, bias_init=bias
            )
            self.gap_head = GapHead(float(self.max_length))

    def encode(
        self,
        tokens: Int[Array, "b l"],
        segment_ids: Int[Array, "b l"],
        alpha: Float[Array, "b s"],
        dropout_keys: SegmentKeys | None = None,
    ) -> Encoding:
        """Returns features and expected gaps; dropout only where keys are given.

        The features are followed by what the head's adapter needs of them, since the head may run
        on slots of many rows and dropout is drawn per slot of a sequence.
        """
        noise = dropout_keys if dropout_keys is None else keys_of_slots(dropout_keys, segment_ids)
        x = self._embed(tokens)
        layers = jnp.arange(self.num_layers)
        modulation = None
        if self.layers_per_group:
            groups = self.modulation(self.time_embedding(alpha))
            modulation = groups[layers // self.layers_per_group]
        x, _ = self.blocks(x, layers, modulation, segment_ids, alpha, noise)
        normed = self.final_norm(x)
        hidden = normed.astype(self.dtype)
        if not self.tied and self.head.lora is not None:
            dropped = dropout(hidden, noise, _HEAD_SALT, self.dropout_rate)
            hidden = jnp.concatenate([hidden, self.head.reduce(dropped)], axis=-1)
        if self.told_before:
            hidden = of_slot_before(hidden, segment_ids)
        gaps = self.gap_head(self.gap_norm(normed)) if self.insertion_head else None
        return encoding_of(hidden, segment_ids, gaps)

    def _embed(self, tokens):
        x = self.embedding(tokens)
        if self.trained_mask < 0:
            return x
        shift = self.mask_shift.astype(x.dtype)[None, None, :]
        return jnp.where((tokens == self.trained_mask)[:, :, None], x + shift, x)

    def decode(self, hidden: Float[Array, "*slots d"]) -> Float[Array, "*slots v"]:
        """Returns float32 logits of encode()'s features at any slots."""
        if self.tied:
            product = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
            logits = product(hidden, self.embedding.embedding.astype(self.dtype).T)
        else:
            features, low = hidden[..., : self.hidden_size], hidden[..., self.hidden_size :]
            logits = self.head(features, low if self.head.lora is not None else None)
        return logits[..., : self.vocabulary_size]

    def __call__(self, tokens, segment_ids, alpha):
        """Touches every parameter, for initialisation; returns (gaps, logits)."""
        encoding = self.encode(tokens, segment_ids, alpha)
        return encoding.gaps, self.decode(encoding.hidden)

    def flops(self, num_slots, num_pairs, num_masks):
        """Returns the floating-point operations of one forward pass, as DiT.flops() counts them."""
        d, m, layers = self.hidden_size, self.mlp_size, self.num_layers
        kv = d * self.num_kv_heads // self.num_heads
        sizes = {"q": (d, d), "k": (d, kv), "v": (d, kv), "out": (d, d)}
        sizes |= {"gate": (d, m), "up": (d, m), "down": (m, d)}
        targets = self.lora.targets if self.lora is not None else ()
        rank = self.lora.rank if self.lora is not None else 0
        kernels = 2 * d * d + 2 * d * kv + 3 * d * m
        adapters = sum(rank * sum(sizes[name]) for name in targets if name != "head")
        of_head = rank * ("head" in targets and not self.tied)
        per_slot = 2 * layers * (kernels + adapters) + 2 * d * (d * self.insertion_head + of_head)
        per_mask = 2 * self.embedding_size * (d + of_head)
        pairs = 4 * d * layers * num_pairs // (2 if self.causal else 1)
        return per_slot * num_slots + pairs + per_mask * num_masks


class GroupModulation(nn.Module):
    """Condition [b, s, d] -> scale and shift [g, b, s, 2 d] of each group of layers, zero at first.

    A group has one linear map (the paper: four maps, each shared by eight layers).
    """

    num_groups: int
    features: int

    @nn.compact
    def __call__(self, condition: Float[Array, "b s d"]) -> Float[Array, "g b s e"]:
        """Returns scales followed by shifts, in float32."""
        d = self.features
        zeros = nn.initializers.zeros
        kernel_init = nn.with_logical_partitioning(zeros, ("layers", "embed", "mlp"))
        kernel = self.param("kernel", kernel_init, (self.num_groups, d, 2 * d))
        bias_init = nn.with_logical_partitioning(zeros, ("layers", "mlp"))
        bias = self.param("bias", bias_init, (self.num_groups, 2 * d))
        return jnp.einsum("bsd,gde->gbse", condition, kernel) + bias[:, None, None, :]
