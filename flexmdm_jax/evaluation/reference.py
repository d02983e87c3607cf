"""An autoregressive model as a reference: how likely it finds texts, and what it goes on with."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.conversion.base import open_base
from flexmdm_jax.conversion.layout import make_model, parameter_shapes
from flexmdm_jax.data.tokenizers import Tokenizer, make_tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.sharding import make_mesh, num_batch_shards, spread_rows

PIECE = 128  # Tokens that are scored together; the first of each is given.


@dataclasses.dataclass(frozen=True)
class Reference:
    """A causal LLaMA with its tokenizer.

    MASK, where it has a row, has probability zero.

    Attributes:
      model: Its network.
      params: Its parameters, spread over the mesh.
      mesh: The devices.
      tokenizer: Its own.
    """

    model: Any
    params: Any
    mesh: Mesh
    tokenizer: Tokenizer

    def nats(
        self, texts: Sequence[str], *, piece: int = PIECE, batch_size: int = 8
    ) -> Float[np.ndarray, "_"]:
        """Returns -log p of each token given those before it in its piece of a text, in nats.

            >>> open_reference("data/smollm2").nats([text]).mean()

        Args:
          texts: Each is cut into pieces of so many tokens; a piece's first token is not scored.
          piece: Tokens of a piece, at least 2.
          batch_size: Pieces at a time, rounded up to a multiple of the devices that share them.
        """
        pieces = [
            tokens[start : start + piece]
            for tokens in map(self.tokenizer.encode, texts)
            for start in range(0, len(tokens), piece)
        ]
        mask = self.tokenizer.vocabulary.mask
        shares = num_batch_shards(self.mesh)
        rows = -(-batch_size // shares) * shares
        found = []
        for start in range(0, len(pieces), rows):
            tokens, segment_ids = _padded(pieces[start : start + rows], rows, piece)
            with jax.set_mesh(self.mesh):
                values = jax.device_get(self._nats(self.params, tokens, segment_ids, mask))
            found.append(values[segment_ids[:, 1:] > 0])
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    @functools.cached_property
    def _nats(self) -> Callable:
        return spread_rows(self.mesh, functools.partial(_nats, self.model))

    def greedy(self, prompt: str, num: int) -> str:
        """Returns the likeliest tokens, one after another, that follow a prompt.

        All is computed anew for each token: this is a check, no way to write long texts.

        Args:
          prompt: At least a token of text.
          num: Tokens to write; fewer if END comes first.

        Raises:
          UserError: If the prompt is empty.
        """
        given = self.tokenizer.encode(prompt)
        if not given:
            raise UserError("an empty prompt leaves nothing to go on from; write a word")
        tokens = list(given)
        length, mask = len(given) + num, self.tokenizer.vocabulary.mask
        for _ in range(num):
            slots, segment_ids = _padded([tokens], 1, length)
            with jax.set_mesh(self.mesh):
                following = int(_next(self.model, self.params, slots, segment_ids, mask))
            if following == self.tokenizer.vocabulary.end:
                break
            tokens.append(following)
        return self.tokenizer.decode(tokens[len(given) :])


def open_reference(folder: str | pathlib.Path, *, dtype: Any = jnp.float32) -> Reference:
    """Returns the LLaMA in a base folder that `convert llada` wrote, as it was trained: causal.

    Args:
      folder: The base, with its tokenizer among its files.
      dtype: Of parameters and products.

    Raises:
      UserError: If there is none, it is damaged, or it is no autoregressive model.
    """
    base = open_base(folder)
    if base.architecture.family != "llama":
        raise UserError(f"{folder} holds a LLaDA, which is not autoregressive; name a LLaMA's base")
    tokenizer = make_tokenizer(f"hf:{base.files}", ())
    mesh = make_mesh(MeshConfig())
    model = make_model(base.architecture, dtype=dtype, param_dtype=dtype)
    params = base.restore(parameter_shapes(model, mesh))
    return Reference(model, params, mesh, tokenizer)


def _padded(
    rows: Sequence[Sequence[int]], num_rows: int, length: int
) -> tuple[Int[np.ndarray, "b l"], Int[np.ndarray, "b l"]]:
    """Returns (tokens, segment ids) of rows that padding fills."""
    tokens = np.zeros((num_rows, length), np.int32)
    segment_ids = np.zeros((num_rows, length), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        segment_ids[number, : len(row)] = 1
    return tokens, segment_ids


def _nats(
    model: Any,
    params: Any,
    tokens: Int[Array, "b l"],
    segment_ids: Int[Array, "b l"],
    mask: Int[Array, ""],
) -> Float[Array, "b k"]:
    """Returns -log p of each slot but the first, k = l - 1."""
    hidden = _hidden(model, params, tokens, segment_ids)

    def of_row(row):
        features, following = row
        logits = _logits(model, params, features, mask)
        chosen = jnp.take_along_axis(logits, following[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    # A row's logits at a time.
    return jax.lax.map(of_row, (hidden[:, :-1], tokens[:, 1:]))


@functools.partial(jax.jit, static_argnums=0)
def _next(
    model: Any,
    params: Any,
    tokens: Int[Array, "b l"],
    segment_ids: Int[Array, "b l"],
    mask: Int[Array, ""],
) -> Int[Array, ""]:
    """Returns the likeliest token behind the only row."""
    hidden = _hidden(model, params, tokens, segment_ids)[0]
    last = jnp.sum(segment_ids) - 1
    return jnp.argmax(_logits(model, params, hidden[last][None], mask))


def _hidden(model, params, tokens, segment_ids):
    alpha = jnp.zeros((len(tokens), 1))
    return model.apply({"params": params}, tokens, segment_ids, alpha, method="encode").hidden


def _logits(model, params, features, mask):
    logits = model.apply({"params": params}, features, method="decode")
    # A model that knows no MASK has no such row.
    return logits.at[:, mask].set(-jnp.inf, mode="drop")
