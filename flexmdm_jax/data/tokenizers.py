"""Tokenizers: text to ids and back, each with a Vocabulary whose MASK and END are not data."""

import hashlib
import io
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from flexmdm_jax.data.gpt2 import GPT2Tokenizer
from flexmdm_jax.data.huggingface import HuggingFaceTokenizer
from flexmdm_jax.data.tokenization import Tokenizer, byte_offsets, data_ids
from flexmdm_jax.errors import UserError
from flexmdm_jax.types import Vocabulary

_SPEC = "tokenizer_spec.json"


class ByteTokenizer:
    """UTF-8 bytes: 256 data ids."""

    kind: ClassVar[str] = "bytes"

    def __init__(self, files: dict[str, bytes]):
        del files
        self.vocabulary = Vocabulary(size=258, mask=256, end=257)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        return list(text.encode("utf-8"))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del text
        return np.arange(1, len(tokens) + 1)

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return bytes(data_ids(tokens, 256)).decode("utf-8", errors="replace")

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return {}


class SentencePieceTokenizer:
    """A SentencePiece model; MASK and END follow its own ids."""

    kind: ClassVar[str] = "sentencepiece"
    _MODEL: ClassVar[str] = "sentencepiece.model"

    def __init__(self, files: dict[str, bytes]):
        import sentencepiece

        self._model = files[self._MODEL]
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        size = self._processor.vocab_size()
        self.vocabulary = Vocabulary(size=size + 2, mask=size, end=size + 1)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> "SentencePieceTokenizer":
        """Returns a tokenizer trained on texts; its Vocabulary has vocabulary_size entries.

        Bytes are its fallback and nothing is normalised, so decoding is exact for any text.

        Raises:
          UserError: If the texts are too few for a vocabulary of that size.
        """
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=vocabulary_size - 2,
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
                max_sentence_length=1 << 20,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise UserError(
                f"a SentencePiece vocabulary of {vocabulary_size} cannot be trained on this "
                f"corpus ({reason}); choose another size"
            ) from None
        return cls({cls._MODEL: model.getvalue()})

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        encoded = self._processor.encode(list(texts), num_threads=1)
        return [np.asarray(tokens, np.uint32) for tokens in encoded]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del tokens
        found = self._processor.encode(text, out_type="immutable_proto").pieces
        return byte_offsets(text, [piece.end for piece in found])

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return self._processor.decode(data_ids(tokens, self.vocabulary.size - 2))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return {self._MODEL: self._model}


TOKENIZERS = {
    kind.kind: kind
    for kind in (SentencePieceTokenizer, GPT2Tokenizer, HuggingFaceTokenizer, ByteTokenizer)
}


def make_tokenizer(
    spec: str, texts: Iterable[str], directory: pathlib.Path | None = None
) -> Tokenizer:
    """Returns the tokenizer a specification names.

    Args:
      spec: `sentencepiece:SIZE` (trained on texts), `sentencepiece:FILE`, `gpt2`, `hf:DIR` or
        `bytes`.
      texts: What a SentencePiece model is trained on.
      directory: Where encoder.json and vocab.bpe of GPT-2 lie.

    Raises:
      UserError: If the kind is unknown or its files are missing.
    """
    kind, _, rest = spec.partition(":")
    if kind not in TOKENIZERS:
        raise UserError(f"unknown tokenizer {spec!r}; choose one of {', '.join(TOKENIZERS)}")
    if kind == "bytes":
        return ByteTokenizer({})
    if kind == "gpt2":
        if directory is None:
            raise UserError("gpt2 needs --tokenizer_dir=DIR with encoder.json and vocab.bpe in it")
        return GPT2Tokenizer({name: _read(directory / name) for name in GPT2Tokenizer.FILES})
    if kind == "hf":
        return _huggingface(rest)
    if rest.isdigit():
        return SentencePieceTokenizer.train(texts, int(rest))
    if not rest:
        raise UserError("sentencepiece needs a size or a file: sentencepiece:1024")
    return SentencePieceTokenizer({"sentencepiece.model": _read(pathlib.Path(rest))})


def _huggingface(folder: str) -> HuggingFaceTokenizer:
    if not folder:
        raise UserError("hf needs a folder with tokenizer.json in it: hf:DIR")
    path = pathlib.Path(folder)
    files = {HuggingFaceTokenizer.TOKENIZER: _read(path / HuggingFaceTokenizer.TOKENIZER)}
    if (path / HuggingFaceTokenizer.CONFIG).exists():
        files[HuggingFaceTokenizer.CONFIG] = _read(path / HuggingFaceTokenizer.CONFIG)
    return HuggingFaceTokenizer(files)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Returns the SHA-256 of a tokenizer's kind and files."""
    digest = hashlib.sha256(tokenizer.kind.encode())
    for name, data in sorted(tokenizer.files().items()):
        digest.update(name.encode() + hashlib.sha256(data).digest())
    return digest.hexdigest()


def save_tokenizer(tokenizer: Tokenizer, directory: pathlib.Path) -> None:
    """Writes a tokenizer's files and its kind into a new or empty directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in tokenizer.files().items():
        (directory / name).write_bytes(data)
    spec = {"kind": tokenizer.kind, "sha256": tokenizer_hash(tokenizer)}
    (directory / _SPEC).write_text(json.dumps(spec, indent=2) + "\n")


def tokenizer_spec(directory: pathlib.Path) -> str:
    """Returns what save_tokenizer() noted of the tokenizer in a directory: kind and hash, as JSON.

    Raises:
      UserError: If there is no tokenizer.
    """
    return _read(directory / _SPEC).decode()


def load_tokenizer(directory: pathlib.Path) -> Tokenizer:
    """Returns the tokenizer saved in a directory.

    Raises:
      UserError: If files are missing or changed since they were saved.
    """
    spec = json.loads(tokenizer_spec(directory))
    names = [path.name for path in directory.iterdir() if path.name != _SPEC]
    try:
        tokenizer = TOKENIZERS[spec["kind"]]({name: _read(directory / name) for name in names})
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{directory}: unusable tokenizer ({error}); prepare it again") from None
    if tokenizer_hash(tokenizer) != spec["sha256"]:
        raise UserError(f"{directory}: tokenizer files differ from when they were saved")
    return tokenizer


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
