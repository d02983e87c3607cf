"""GPT-2's tokenizer in a Hugging Face folder: tokenizer.json, or vocab.json and merges.txt."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.conversion.gguf_tokenizer import CONTROL, NORMAL, tokenizer_json
from flexmdm_jax.data.tokenizers import HuggingFaceTokenizer, Tokenizer, make_tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.foreign import flag, read_json, reading_fields

_VOCAB, _MERGES = "vocab.json", "merges.txt"
# Closes texts; no text has it.
_SEPARATOR = "<|endoftext|>"
_VERSION = "#version"


def open_tokenizer(folder: pathlib.Path, config: Mapping[str, Any]) -> Tokenizer:
    """Returns the tokenizer in a folder.

    Args:
      folder: Of the model.
      config: The fields of its config.json.

    Raises:
      UserError: If there is none, it is damaged, or files beside it change what tokens mean.
    """
    if (folder / HuggingFaceTokenizer.TOKENIZER).is_file():
        return make_tokenizer(f"hf:{folder}", ())
    if not all((folder / name).is_file() for name in (_VOCAB, _MERGES)):
        raise UserError(
            f"{folder} holds no tokenizer: neither {HuggingFaceTokenizer.TOKENIZER} nor {_VOCAB} "
            f"and {_MERGES}; copy it there"
        )
    added = folder / "added_tokens.json"
    if added.is_file() and read_json(added, "copy it again"):
        raise UserError(
            f"{added} has tokens that {_VOCAB} lacks; save the tokenizer as "
            f"{HuggingFaceTokenizer.TOKENIZER}, which says what they do"
        )
    vocab, merges = ((folder / name).read_bytes() for name in (_VOCAB, _MERGES))
    return tokenizer_of(vocab, merges, config, folder, prefix_space=_prefix_space(folder))


def _prefix_space(folder: pathlib.Path) -> bool:
    """Returns whether a space is put before texts; GPT-2 puts none."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return False
    with reading_fields(path):
        return flag(read_json(path, "copy it again"), "add_prefix_space", default=False)


def tokenizer_of(
    vocab: bytes,
    merges: bytes,
    config: Mapping[str, Any],
    folder: pathlib.Path,
    *,
    prefix_space: bool = False,
) -> HuggingFaceTokenizer:
    """Returns the tokenizer that two files of GPT-2's form describe.

    Args:
      vocab: Tokens and their ids, in JSON.
      merges: Pairs of tokens that become one, first ones first, a line each.
      config: What a config.json beside them says, of MASK and END too.
      folder: Where they lie, for messages.
      prefix_space: Whether a space is put before texts.

    Raises:
      UserError: If a file is damaged, or MASK or END are ordinary tokens or lie outside the rows.
    """
    tokens = _tokens(vocab, folder)
    values = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [CONTROL if token == _SEPARATOR else NORMAL for token in tokens],
        "merges": _pairs(merges, frozenset(tokens), folder),
        "add_space_prefix": prefix_space,
    }
    return HuggingFaceTokenizer.of_json(tokenizer_json(values, folder), config, folder)


def _tokens(vocab: bytes, folder: pathlib.Path) -> list[str]:
    """Returns the tokens in the order of their ids."""
    try:
        ids = json.loads(vocab)
        tokens = sorted(ids, key=ids.get)
    except (ValueError, TypeError, AttributeError):
        ids, tokens = {}, []
    if not tokens or [ids[token] for token in tokens] != list(range(len(tokens))):
        raise UserError(
            f"{folder}: {_VOCAB} is no list of tokens with the ids from 0 on; copy it again"
        )
    return tokens


def _pairs(merges: bytes, tokens: frozenset[str], folder: pathlib.Path) -> list[str]:
    """Returns the lines of pairs, which have to make tokens of tokens."""
    lines = merges.decode(errors="replace").splitlines()
    pairs = [line for line in lines if line and not line.startswith(_VERSION)]
    for pair in pairs:
        parts = pair.split(" ")
        if len(parts) != 2 or not tokens.issuperset([*parts, "".join(parts)]):
            raise UserError(
                f"{folder}: {_MERGES}: {pair[:80]!r} does not make a token of {_VOCAB} of two "
                "others; copy both files again"
            )
    return pairs
