"""An autoregressive model as a reference: how likely it finds texts, and what it makes of them."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.conversion.base import DESCRIPTION, open_base
from flexmdm_jax.conversion.gpt2 import gpt2_of, read_gpt2
from flexmdm_jax.conversion.gpt2_tokenizer import open_tokenizer
from flexmdm_jax.conversion.layout import make_model, parameter_shapes
from flexmdm_jax.conversion.sources import CONFIG
from flexmdm_jax.data.tokenizers import Tokenizer, make_tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.causal import (
    last_features,
    likeliest_next,
    padded,
    padded_length,
    token_nats,
)
from flexmdm_jax.foreign import read_json
from flexmdm_jax.sharding import make_mesh, num_batch_shards, spread_rows

PIECE = 128  # Tokens that nats() scores together; the first of each is given.
CONTEXT = 1024  # Tokens that a model without a limit of its own is shown at once.
_NO_NATS = np.zeros(0, np.float32)


@dataclasses.dataclass(frozen=True)
class Reference:
    """A causal LLaMA or a GPT-2 with its tokenizer.

    MASK, where it has a row, has probability zero.

    Attributes:
      model: Its network.
      params: Its parameters, spread over the mesh.
      mesh: The devices.
      tokenizer: Its own.
      context: Most tokens that it can see at once; None: no limit is known.
      end: Id of the token that closes its texts; None: it names none.
    """

    model: Any
    params: Any
    mesh: Mesh
    tokenizer: Tokenizer
    context: int | None
    end: int | None

    def nats(
        self, texts: Sequence[str], *, piece: int = PIECE, batch_size: int = 8
    ) -> Float[np.ndarray, "_"]:
        """Returns scores() of all texts as one array, by default of short pieces.

            >>> open_reference("data/smollm2").nats([text]).mean()

        Args:
          texts: See scores().
          piece: Tokens of a piece.
          batch_size: See scores().

        Raises:
          UserError: If the model cannot see so many tokens at once.
        """
        scores = self.scores(texts, piece=piece, batch_size=batch_size)
        return np.concatenate([_NO_NATS, *scores])

    def scores(
        self, texts: Sequence[str], *, piece: int | None = None, batch_size: int = 8
    ) -> list[Float[np.ndarray, "_"]]:
        """Returns of each text -log p of each token given those before it in its piece, in nats.

        A text of less than two tokens has none. But for rounding, what a text gets does not depend
        on the others.

            >>> [nats.mean() for nats in reference.scores(texts)]

        Args:
          texts: Each is cut into pieces of so many tokens; a piece's first token is not scored.
          piece: Tokens of a piece, at least 2; None: the model's context, or CONTEXT.
          batch_size: Pieces at a time, rounded up to a multiple of the devices that share them.

        Raises:
          UserError: If the model cannot see so many tokens at once.
        """
        length = self._length("piece", piece, least=2)
        # A last piece of one token has nothing to score.
        cut = [
            [tokens[start : start + length] for start in range(0, len(tokens) - 1, length)]
            for tokens in self.tokenizer.encode_batch(texts)
        ]
        pieces = [part for parts in cut for part in parts]
        found = iter(self._answers(self._nats, pieces, length, batch_size))
        return [
            np.concatenate([_NO_NATS, *(next(found)[: len(part) - 1] for part in parts)])
            for parts in cut
        ]

    def features(
        self, texts: Sequence[str], *, max_tokens: int | None = None, batch_size: int = 8
    ) -> Float[np.ndarray, "n d"]:
        """Returns what the model has made of each text by its last token: MAUVE's embedding.

        That is what the final norm gives there (Pillutla et al., 2021). A text without tokens is
        its END alone, GPT-2's <|endoftext|>.

        Args:
          texts: Each is cut behind so many tokens.
          max_tokens: At least 1; None: the model's context, or CONTEXT.
          batch_size: Texts at a time, rounded up to a multiple of the devices that share them.

        Raises:
          UserError: If the model cannot see so many tokens at once, or a text has none and the
            model names no END.
        """
        length = self._length("max_tokens", max_tokens, least=1)
        rows = [tokens[:length] for tokens in self.tokenizer.encode_batch(texts)]
        if self.end is None and not all(map(len, rows)):
            raise UserError(
                "a text has no tokens, and this model's config.json names no eos_token_id that "
                "could stand for it; leave empty texts out"
            )
        rows = [row if len(row) else [self.end] for row in rows]
        found = self._answers(self._last, rows, length, batch_size)
        return np.array(found, np.float32).reshape(len(rows), self.model.hidden_size)

    def _length(self, name: str, asked: int | None, least: int) -> int:
        """Returns how many tokens the model sees at once: as many as asked for, or as it can."""
        if asked is None:
            return self.context or CONTEXT
        if asked < least:
            raise UserError(f"{name} = {asked}; choose a number from {least} on")
        if self.context is not None and asked > self.context:
            raise UserError(
                f"{name} = {asked}, but this model sees no more than {self.context} tokens at "
                "once; choose fewer"
            )
        return asked

    def _answers(
        self,
        program: Callable,
        rows: Sequence[Sequence[int] | np.ndarray],
        longest: int,
        batch_size: int,
    ) -> list[np.ndarray]:
        """Returns what a program says of each row of tokens, in their order.

        Rows of about the same length go together, padded to one of a few lengths.
        """
        shares = num_batch_shards(self.mesh)
        num_rows = -(-min(batch_size, max(len(rows), 1)) // shares) * shares
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
        answers: dict[int, np.ndarray] = {}
        for start in range(0, len(order), num_rows):
            numbers = order[start : start + num_rows]
            length = padded_length(len(rows[numbers[0]]), longest)
            tokens, segment_ids = padded([rows[n] for n in numbers], num_rows, length)
            with jax.set_mesh(self.mesh):
                values = jax.device_get(program(self.params, tokens, segment_ids))
            answers |= zip(numbers, values, strict=False)
        return [answers[number] for number in range(len(rows))]

    @functools.cached_property
    def _nats(self) -> Callable:
        mask = self.tokenizer.vocabulary.mask
        return spread_rows(self.mesh, functools.partial(token_nats, self.model, mask))

    @functools.cached_property
    def _last(self) -> Callable:
        return spread_rows(self.mesh, functools.partial(last_features, self.model))

    def greedy(self, prompt: str, num: int) -> str:
        """Returns the likeliest tokens, one after another, that follow a prompt.

        All is computed anew for each token: this is a check, no way to write long texts.

        Args:
          prompt: At least a token of text.
          num: Tokens to write; fewer if END comes first.

        Raises:
          UserError: If the prompt is empty, or the model cannot see it and the answer at once.
        """
        given = self.tokenizer.encode(prompt)
        if not given:
            raise UserError("an empty prompt leaves nothing to go on from; write a word")
        tokens = list(given)
        mask = self.tokenizer.vocabulary.mask
        length = self._length("the prompt's tokens and num together", len(given) + num, least=1)
        for _ in range(num):
            rows = padded([tokens], 1, length)
            with jax.set_mesh(self.mesh):
                (following,) = likeliest_next(self.model, mask, self.params, *rows).tolist()
            if following == self.end:
                break
            tokens.append(following)
        return self.tokenizer.decode(tokens[len(given) :])


def open_reference(folder: str | pathlib.Path, *, dtype: Any = jnp.float32) -> Reference:
    """Returns the autoregressive model in a folder.

        >>> open_reference("path/to/gpt2").scores(texts)

    Args:
      folder: A GPT-2 as it is downloaded, in Hugging Face's form; or the base of a LLaMA that
        `convert llada` wrote, which is used as it was trained: causal. The tokenizer is among its
        files.
      dtype: Of parameters and products.

    Raises:
      UserError: If there is none, it is damaged, or it is no autoregressive model.
    """
    folder = pathlib.Path(folder)
    if (folder / CONFIG).is_file():
        return _open_gpt2(folder, dtype)
    if (folder / DESCRIPTION).is_file():
        return _open_llama(folder, dtype)
    raise UserError(
        f"no reference in {folder}: neither {CONFIG} of a GPT-2 nor {DESCRIPTION} of a LLaMA that "
        "`python -m flexmdm_jax.convert llada` has converted; name the folder of one"
    )


def _open_gpt2(folder: pathlib.Path, dtype: Any) -> Reference:
    config = read_json(folder / CONFIG, "name the folder of a downloaded model")
    model = gpt2_of(config, folder / CONFIG, dtype)
    tokenizer = open_tokenizer(folder, config)
    _check_ids(tokenizer, model.vocabulary_size, folder)
    mesh = make_mesh(MeshConfig())
    params = read_gpt2(folder, model, mesh)
    # GPT-2's own, where it is not written down.
    end = _end({"eos_token_id": 50_256} | config, model.vocabulary_size)
    return Reference(model, params, mesh, tokenizer, model.max_length, end)


def _open_llama(folder: pathlib.Path, dtype: Any) -> Reference:
    base = open_base(folder)
    architecture = base.architecture
    if architecture.family != "llama":
        raise UserError(f"{folder} holds a LLaDA, which is not autoregressive; name a LLaMA's base")
    config = read_json(base.files / CONFIG, "convert the model again")
    tokenizer = make_tokenizer(f"hf:{base.files}", ())
    _check_ids(tokenizer, architecture.embedding_size, folder)
    mesh = make_mesh(MeshConfig())
    model = make_model(architecture, dtype=dtype, param_dtype=dtype)
    params = base.restore(parameter_shapes(model, mesh))
    context = config.get("max_position_embeddings")
    context = context if type(context) is int and context > 1 else None
    end = _end(config, architecture.embedding_size)
    return Reference(model, params, mesh, tokenizer, context, end)


def _end(config: Mapping[str, Any], rows: int) -> int | None:
    """Returns the id that a config.json says closes texts, the first if it names several."""
    ends = config.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if type(end) is int and 0 <= end < rows:
            return end
    return None


def _check_ids(tokenizer: Tokenizer, rows: int, folder: pathlib.Path) -> None:
    """Raises UserError if a text may have tokens that the model has no row for."""
    for token in range(rows, tokenizer.vocabulary.size):
        if piece := tokenizer.piece(token):
            raise UserError(
                f"{folder}: {piece.decode(errors='replace')!r} is token {token}, but the model has "
                f"{rows} rows; copy the tokenizer that it was trained with"
            )
