"""Tokenizers by name, and saved ones: their files, and what says that nobody has changed them."""

import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterable

from flexmdm_jax.data.tokenizers.base import Tokenizer, failure_of
from flexmdm_jax.data.tokenizers.gpt2 import GPT2Tokenizer
from flexmdm_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from flexmdm_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from flexmdm_jax.data.tokenizers.symbols import SymbolTokenizer
from flexmdm_jax.data.tokenizers.utf8 import ByteTokenizer
from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.fields import nearest
from flexmdm_jax.files import check_local, json_text

_SPEC = "tokenizer_spec.json"
# The last of the arguments behind a folder.
_ARGUMENT = re.compile(r",(\w+)=([^,/]*)\Z")

TOKENIZERS = {
    kind.kind: kind
    for kind in (
        SentencePieceTokenizer,
        GPT2Tokenizer,
        HuggingFaceTokenizer,
        ByteTokenizer,
        SymbolTokenizer,
    )
}


def make_tokenizer(
    spec: str, texts: Iterable[str], directory: pathlib.Path | None = None
) -> Tokenizer:
    """Returns the tokenizer a specification names.

    Args:
      spec: `sentencepiece:SIZE` (trained on texts), `sentencepiece:FILE`, `gpt2`, `hf:DIR` (with
        `,mask=ID` and `,end=ID`, if they are to be chosen), `bytes` or `symbols:FILE`, a JSON list.
      texts: What a SentencePiece model is trained on.
      directory: Where encoder.json and vocab.bpe of GPT-2 lie.

    Raises:
      UserError: If the kind is unknown, its files are missing, or what they say is.
    """
    kind, _, rest = spec.partition(":")
    if kind not in TOKENIZERS:
        raise UserError(f"unknown tokenizer {spec!r}; choose one of {', '.join(TOKENIZERS)}")
    check_local(rest)
    if rest and kind in ("bytes", "gpt2"):
        raise UserError(f"tokenizer {spec!r}: nothing follows {kind}, write {kind!r}")
    if kind == "bytes":
        return ByteTokenizer({})
    if kind == "gpt2":
        if directory is None:
            raise UserError("gpt2 needs --tokenizer_dir=DIR with encoder.json and vocab.bpe in it")
        files = {name: _read(directory / name) for name in GPT2Tokenizer.FILES}
        return _made(GPT2Tokenizer, files, f"{directory}: not the two files of GPT-2")
    if kind == "symbols":
        files = {SymbolTokenizer.FILE: _read(pathlib.Path(rest))}
        return _made(SymbolTokenizer, files, f"{rest} is no list of symbols")
    if kind == "hf":
        return _huggingface(rest)
    if rest.isdigit():
        return SentencePieceTokenizer.train(texts, int(rest))
    if not rest:
        raise UserError("sentencepiece needs a size or a file: sentencepiece:1024")
    files = {SentencePieceTokenizer.MODEL: _read(pathlib.Path(rest))}
    what = f"{rest} is no SentencePiece model; name another file or a size"
    return _made(SentencePieceTokenizer, files, what)


def _made(kind: Callable[..., Tokenizer], files: dict[str, bytes], wrong: str) -> Tokenizer:
    """Returns a tokenizer of files, or raises UserError that says what is wrong with them."""
    try:
        return kind(files)
    except UserError:
        raise
    # Each library raises kinds of its own.
    except BaseException as error:
        raise UserError(f"{wrong} ({failure_of(error)})") from None


def _huggingface(rest: str) -> HuggingFaceTokenizer:
    path, ids = _folder_and_ids(rest)
    files = {HuggingFaceTokenizer.TOKENIZER: _read(path / HuggingFaceTokenizer.TOKENIZER)}
    if (path / HuggingFaceTokenizer.CONFIG).exists():
        files[HuggingFaceTokenizer.CONFIG] = _read(path / HuggingFaceTokenizer.CONFIG)
    return HuggingFaceTokenizer.of_folder(files, path, ids)


def _folder_and_ids(rest: str) -> tuple[pathlib.Path, dict[str, int]]:
    """Returns what `DIR` or `DIR,mask=ID,end=ID` says; what exists is a name, commas and all."""
    folder, arguments = rest, []
    while not pathlib.Path(folder).exists() and (last := _ARGUMENT.search(folder)):
        arguments.insert(0, last.groups())
        folder = folder[: last.start()]
    if not folder:
        raise UserError("hf needs a folder with tokenizer.json in it: hf:DIR")
    for name, value in arguments:
        if name not in ("mask", "end"):
            known = nearest(name, ("mask", "end"))
            raise UserError(f"tokenizer 'hf:{rest}' has no argument {name!r}{known}")
        if not value.isascii() or not value.isdigit():
            raise UserError(f"tokenizer 'hf:{rest}': {name} = {value!r} is no id")
    return pathlib.Path(folder), {name: int(value) for name, value in arguments}


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
    (directory / _SPEC).write_text(json_text(spec, indent=2) + "\n")


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
    try:
        spec = json.loads(tokenizer_spec(directory))
        kind, sha256 = TOKENIZERS[spec["kind"]], spec["sha256"]
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{directory / _SPEC} is damaged ({first_line(error)}); prepare it again"
        ) from None
    names = [path.name for path in directory.iterdir() if path.name != _SPEC]
    files = {name: _read(directory / name) for name in names}
    tokenizer = _made(kind, files, f"{directory}: unusable tokenizer; prepare it again")
    if tokenizer_hash(tokenizer) != sha256:
        raise UserError(f"{directory}: tokenizer files differ from when they were saved")
    return tokenizer


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
