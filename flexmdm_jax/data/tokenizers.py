"""Tokenizers: text to ids and back, each with a Vocabulary whose MASK and END are not data."""

import hashlib
import io
import json
import pathlib
from collections.abc import Iterable
from typing import ClassVar, Protocol, runtime_checkable

from flexmdm_jax.errors import UserError
from flexmdm_jax.types import Vocabulary

_SPEC = "tokenizer_spec.json"


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back; decode(encode(text)) == text."""

    kind: ClassVar[str]
    vocabulary: Vocabulary

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        ...

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        ...


def _data_ids(tokens: Iterable[int], size: int) -> list[int]:
    return [int(token) for token in tokens if 0 <= token < size]


class ByteTokenizer:
    """UTF-8 bytes: 256 data ids."""

    kind: ClassVar[str] = "bytes"

    def __init__(self, files: dict[str, bytes]):
        del files
        self.vocabulary = Vocabulary(size=258, mask=256, end=257)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        return list(text.encode("utf-8"))

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return bytes(_data_ids(tokens, 256)).decode("utf-8", errors="replace")

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

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return self._processor.decode(_data_ids(tokens, self.vocabulary.size - 2))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return {self._MODEL: self._model}


# How GPT-2 cuts text into words before merging bytes (Radford et al., 2019, encoder.py).
_GPT2_PATTERN = "|".join(
    (
        r"'(?:s|t|re|ve|m|ll|d)",
        r" ?\p{L}+",
        r" ?\p{N}+",
        r" ?[^\s\p{L}\p{N}]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


class GPT2Tokenizer:
    """GPT-2's byte-level BPE (tiktoken), from encoder.json and vocab.bpe; 50,257 data ids."""

    kind: ClassVar[str] = "gpt2"
    FILES: ClassVar[tuple[str, str]] = ("encoder.json", "vocab.bpe")

    def __init__(self, files: dict[str, bytes]):
        import tiktoken

        self._files = {name: files[name] for name in self.FILES}
        ranks = json.loads(files["encoder.json"])
        self._size = len(ranks)
        special = {"<|endoftext|>": ranks.pop("<|endoftext|>")}
        alphabet = _gpt2_alphabet()
        self._encoding = tiktoken.Encoding(
            name="gpt2",
            pat_str=_GPT2_PATTERN,
            mergeable_ranks={
                bytes(alphabet[char] for char in token): rank for token, rank in ranks.items()
            },
            special_tokens=special,
        )
        self.vocabulary = Vocabulary(size=self._size + 2, mask=self._size, end=self._size + 1)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        return self._encoding.encode_ordinary(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return self._encoding.decode(_data_ids(tokens, self._size))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return self._files


def _gpt2_alphabet() -> dict[str, int]:
    """Returns the byte that each printable stand-in of GPT-2's vocabulary file means.

    Bytes that print stand for themselves; the others are numbered upwards from 256 (Radford et
    al., 2019).
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


class SymbolTokenizer:
    """A list of symbols, written one after another with spaces between them (tasks)."""

    kind: ClassVar[str] = "symbols"
    _SYMBOLS: ClassVar[str] = "symbols.json"

    def __init__(self, files: dict[str, bytes]):
        self._files = {self._SYMBOLS: files[self._SYMBOLS]}
        self._symbols = json.loads(files[self._SYMBOLS])
        self._ids = {symbol: number for number, symbol in enumerate(self._symbols)}
        size = len(self._symbols)
        self.vocabulary = Vocabulary(size=size + 2, mask=size, end=size + 1)

    @classmethod
    def of(cls, symbols: Iterable[str]) -> "SymbolTokenizer":
        """Returns a tokenizer whose ids are the positions of the symbols."""
        return cls({cls._SYMBOLS: json.dumps(list(symbols)).encode()})

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text.

        Raises:
          UserError: If a word of it is no symbol.
        """
        words = text.split()
        unknown = [word for word in words if word not in self._ids]
        if unknown:
            raise UserError(
                f"{unknown[0]!r} is no symbol of this task; write symbols with spaces between "
                f"them, such as {' '.join(self._symbols[:2])!r}"
            )
        return [self._ids[word] for word in words]

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return " ".join(self._symbols[token] for token in _data_ids(tokens, len(self._symbols)))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return self._files


TOKENIZERS = {
    kind.kind: kind
    for kind in (SentencePieceTokenizer, GPT2Tokenizer, ByteTokenizer, SymbolTokenizer)
}


def make_tokenizer(
    spec: str, texts: Iterable[str], directory: pathlib.Path | None = None
) -> Tokenizer:
    """Returns the tokenizer a specification names.

    Args:
      spec: `sentencepiece:SIZE` (trained on texts), `sentencepiece:FILE`, `gpt2` or `bytes`.
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
    if rest.isdigit():
        return SentencePieceTokenizer.train(texts, int(rest))
    if not rest:
        raise UserError("sentencepiece needs a size or a file: sentencepiece:1024")
    return SentencePieceTokenizer({"sentencepiece.model": _read(pathlib.Path(rest))})


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


def load_tokenizer(directory: pathlib.Path) -> Tokenizer:
    """Returns the tokenizer saved in a directory.

    Raises:
      UserError: If files are missing or changed since they were saved.
    """
    spec = json.loads(_read(directory / _SPEC))
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
