"""SentencePiece models, trained here or read from a file."""

import functools
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from flexmdm_jax.data.tokenizers.base import joined, shares
from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.types import Vocabulary

# How the library spells a space.
_SPACE = "▁"


class SentencePieceTokenizer:
    """A SentencePiece model; MASK and END follow its own ids."""

    kind: ClassVar[str] = "sentencepiece"
    MODEL: ClassVar[str] = "sentencepiece.model"

    def __init__(self, files: dict[str, bytes]):
        import sentencepiece

        self._model = files[self.MODEL]
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        self._removes_spaces = not self._processor.normalize(" ")
        size = self._processor.vocab_size()
        self.vocabulary = Vocabulary(size=size + 2, mask=size, end=size + 1)

    @functools.cached_property
    def _behind(self) -> Any:
        """The model without a dummy prefix and without removing spaces."""
        import sentencepiece

        # What is appended to a message of protobuf overrides its fields: normalizer_spec (3) has
        # add_dummy_prefix (3) and remove_extra_whitespaces (4).
        changed = self._processor.serialized_model_proto() + b"\x1a\x04\x18\x00\x20\x00"
        return sentencepiece.SentencePieceProcessor(model_proto=changed)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> "SentencePieceTokenizer":
        """Returns a tokenizer trained on texts; its Vocabulary has vocabulary_size entries.

        Bytes are its fallback and nothing is normalised, so decoding is exact for any text.

        Raises:
          UserError: If the texts are too few for a vocabulary of that size, or too many characters
            occur in them. What the texts themselves raise is raised again.
        """
        import sentencepiece

        model, source = io.BytesIO(), _Texts(texts)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(source),
                model_writer=model,
                # So that of 0 too the library says what it needs.
                vocab_size=max(vocabulary_size - 2, 1),
                model_type="bpe",
                byte_fallback=True,
                character_coverage=1.0,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                user_defined_symbols=["\n"],
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                max_sentence_length=4 * _LONGEST,
                num_threads=1,
                minloglevel=2,
            )
        # The library raises several kinds, and its own in place of what the texts raise.
        except Exception as error:
            raise source.error or _untrainable(vocabulary_size, source.count, error) from None
        return cls({cls.MODEL: model.getvalue()})

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """Returns the token ids of a text; behind something it gets no dummy prefix.

        A model that removes extra spaces leaves one of them, behind something also before a text.
        """
        if first:
            return self._processor.encode(text)
        if self._removes_spaces:
            spelled = re.sub(rf"{_SPACE}+", _SPACE, self._behind.normalize(text))
            text = spelled.rstrip(_SPACE) or spelled
        return self._behind.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        encoded = self._processor.encode(list(texts), num_threads=1)
        return [np.asarray(tokens, np.uint32) for tokens in encoded]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del tokens
        found = self._processor.encode(text, return_type="proto").pieces
        return np.asarray([piece.end for piece in found], np.int64)

    def piece(self, token: int) -> bytes:
        """Returns the UTF-8 bytes that a token stands for; b"" for control and no data."""
        processor = self._processor
        if not 0 <= token < processor.vocab_size() or processor.is_control(token):
            return b""
        if processor.is_unknown(token):
            return processor.decode([token]).encode()
        spelled = processor.id_to_piece(token)
        if processor.is_byte(token):
            return bytes.fromhex(spelled[3:5])
        return spelled.replace(_SPACE, " ").encode()

    def spell(self, tokens: Iterable[int], *, mask: bytes = b"") -> list[bytes]:
        """Returns piece() of each token, or mask for MASK; the first lacks the dummy prefix."""
        processor, tokens = self._processor, [int(token) for token in tokens]
        pieces = [mask if token == self.vocabulary.mask else b"" for token in tokens]
        # A space is the dummy prefix if nothing is before it, and a mask that is written is not
        # nothing: what the model does not know is written too, so it stands in.
        shown = zip(tokens, pieces, strict=True)
        ids = [processor.unk_id() if piece else token for token, piece in shown]
        places = [place for place, token in enumerate(ids) if 0 <= token < processor.vocab_size()]
        found = self._shares([ids[place] for place in places])
        for place, share in zip(places, found, strict=True):
            pieces[place] = pieces[place] or share
        return pieces

    def _shares(self, tokens: list[int]) -> list[bytes]:
        """Returns the share of each token of the model in their text."""
        found = self._processor.decode(tokens, return_type="proto")
        surfaces = [piece.surface for piece in found.pieces]
        if "".join(surfaces) != found.text:  # The model rewrites decoded texts.
            return shares(self._processor.decode, tokens)
        return [
            self.piece(token) if self._processor.is_byte(token) else surface.encode()
            for token, surface in zip(tokens, surfaces, strict=True)
        ]

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return joined(self.spell(tokens))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return {self.MODEL: self._model}


# Characters of a training text, of at most four bytes; the library passes over longer ones.
_LONGEST = 1 << 18


class _Texts:
    """Training texts, cut where they are too long, and the error that ended them."""

    def __init__(self, texts: Iterable[str]):
        self._texts = texts
        self.count, self.error = 0, None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self._texts:
                self.count += bool(text)
                for start in range(0, len(text), _LONGEST):
                    yield text[start : start + _LONGEST]
        except BaseException as error:
            self.error = error
            raise


def _untrainable(size: int, texts: int, error: Exception) -> UserError:
    """Returns the error of a vocabulary that cannot be trained, with a size that can if known."""
    what = f"sentencepiece:{size}: "
    if not texts:
        return UserError(
            f"{what}there is no text to train it on; name a trained model (sentencepiece:FILE) "
            "or another tokenizer"
        )
    reason = str(error)
    # Both bounds are without MASK and END.
    if most := re.search(r"value <= (\d+)", reason):
        return UserError(
            f"{what}the text is too short for so many pieces; give more of it, or a size of at "
            f"most {int(most[1]) + 2}"
        )
    if least := re.search(r"\d+ vs (\d+)", reason):
        return UserError(
            f"{what}too few for the characters of this text and the 256 bytes; give a size of at "
            f"least {int(least[1]) + 2}"
        )
    return UserError(f"{what}cannot be trained ({first_line(error)}); choose another size")
