"""GPT-2 (Radford et al., 2019), which tells each token from those before it: a reference."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from flexmdm_jax.attention import attention
from flexmdm_jax.models.stack import stack
from flexmdm_jax.types import Encoding

_NORMAL = nn.initializers.normal(0.02)


def layer_norm(epsilon: float, **kwargs) -> nn.LayerNorm:
    """Returns LayerNorm with weight and bias, computed and stored in float32.

    Some of GPT-2's features are hundreds of times larger than the others, so the variance is not
    taken as a difference of two large numbers.
    """
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    return nn.LayerNorm(
        epsilon=epsilon,
        use_fast_variance=False,
        dtype=jnp.float32,
        scale_init=nn.with_logical_partitioning(ones, ("embed",)),
        bias_init=nn.with_logical_partitioning(zeros, ("embed",)),
        **kwargs,
    )


class Block(nn.Module):
    """Attention and MLP, each behind a norm; see GPT2 for the attributes."""

    num_heads: int
    mlp_size: int
    norm_epsilon: float
    dtype: Dtype
    attention_implementation: str | None

    @nn.compact
    def __call__(self, x, segment_ids):
        """Returns (features [b, l, d] in float32, None), as nn.scan wants it."""
        d = x.shape[-1]
        heads = (self.num_heads, d // self.num_heads)
        y = self._normed(x, "attention_norm")
        qkv = self._linear((3, *heads), ("embed",), (None, "heads", None), "qkv")(y)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        y = attention(
            q,
            k,
            v,
            segment_ids,
            causal=True,
            packed=False,
            implementation=self.attention_implementation,
        )
        x = x + self._linear(d, ("heads", None), ("embed",), "out")(y)
        y = self._normed(x, "mlp_norm")
        y = nn.gelu(self._linear(self.mlp_size, ("embed",), ("mlp",), "mlp_in")(y))
        return x + self._linear(d, ("mlp",), ("embed",), "mlp_out")(y), None

    def _normed(self, x, name):
        return layer_norm(self.norm_epsilon, name=name)(x).astype(self.dtype)

    def _linear(self, features, inputs, outputs, name):
        """Returns a linear map with a bias; inputs and outputs are logical axes, see sharding."""
        return nn.DenseGeneral(
            features,
            axis=tuple(range(-len(inputs), 0)),
            dtype=self.dtype,
            param_dtype=self.dtype,
            kernel_init=nn.with_logical_partitioning(_NORMAL, (*inputs, *outputs)),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, outputs),
            name=name,
        )


class GPT2(nn.Module):
    """The network of GPT-2: causal attention, positions that are learned, a tied head.

    It is called as the denoising networks are, so that what asks a causal LLaMA can ask it too.

    Attributes:
      vocabulary_size: Rows of the embedding, which is the head as well.
      max_length: Positions that it knows; no row may be longer.
      hidden_size: Features per slot; num_heads must divide it.
      mlp_size: Features between the halves of an MLP.
      norm_epsilon: Of LayerNorm.
      dtype: Of matrix products and their parameters. Norms, softmax, logits and the sum to which
        every block adds are float32.
      attention_implementation: See attention().
    """

    vocabulary_size: int
    max_length: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    norm_epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    attention_implementation: str | None = None

    def setup(self):
        """Builds the layers."""
        table = functools.partial(
            nn.Embed, features=self.hidden_size, dtype=self.dtype, param_dtype=self.dtype
        )
        rows, places = (
            nn.with_logical_partitioning(_NORMAL, axes)
            for axes in (("vocab", "embed"), (None, "embed"))
        )
        self.embedding = table(self.vocabulary_size, embedding_init=rows)
        self.positions = table(self.max_length, embedding_init=places)
        blocks = stack(Block, self.num_layers, (nn.broadcast,), remat="none", unroll=1)
        self.blocks = blocks(
            self.num_heads,
            self.mlp_size,
            self.norm_epsilon,
            self.dtype,
            self.attention_implementation,
        )
        self.final_norm = layer_norm(self.norm_epsilon)

    def encode(
        self,
        tokens: Int[Array, "b l"],
        segment_ids: Int[Array, "b l"],
        alpha: Float[Array, "b 1"],
    ) -> Encoding:
        """Returns the features behind the final norm.

        Args:
          tokens: One sequence a row, at most max_length slots.
          segment_ids: 1 at tokens, 0 at the padding behind them.
          alpha: Nothing here depends on a time.
        """
        del alpha
        places = self.positions.embedding[: tokens.shape[1]]
        x = self.embedding(tokens).astype(jnp.float32) + places.astype(jnp.float32)[None]
        x, _ = self.blocks(x, segment_ids)
        hidden = self.final_norm(x).astype(self.dtype)
        return Encoding(hidden=hidden, gaps=jnp.zeros(tokens.shape, jnp.float32))

    def decode(self, hidden: Float[Array, "*slots d"]) -> Float[Array, "*slots v"]:
        """Returns float32 logits of the token that follows each slot, from encode()'s features."""
        head = self.embedding.embedding.T
        return jnp.dot(hidden, head, preferred_element_type=jnp.float32)

    def __call__(self, tokens, segment_ids, alpha):
        """Touches every parameter, for initialisation; returns (gaps, logits)."""
        encoding = self.encode(tokens, segment_ids, alpha)
        return encoding.gaps, self.decode(encoding.hidden)
