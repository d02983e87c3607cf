"""What a tokenizer.json of Hugging Face says, and what of it makes tokens of a text."""

import pathlib
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.errors import UserError
from flexmdm_jax.foreign import Form, names
from flexmdm_jax.types import Vocabulary

# All that is used is run by the tokenizers library. Truncation and padding are dropped, since texts
# are cut and padded here, and so is the post-processor, which adds what a model's input begins and
# ends with: here END closes a sequence, and nothing opens it.
FILE_FIELDS = Form(
    meaning="tokens",
    used=names("version added_tokens normalizer pre_tokenizer decoder model"),
    harmless=names("truncation padding post_processor"),
)
ADDED_FIELDS = Form(
    meaning="tokens",
    used=names("id content single_word lstrip rstrip normalized special"),
)
MODEL_FIELDS = {
    "BPE": Form(
        meaning="tokens",
        used=names("""
            type vocab merges unk_token continuing_subword_prefix end_of_word_suffix fuse_unk
            byte_fallback ignore_merges
            """),
        # Draws other tokens each time a text is read.
        fixed={"dropout": (None, 0)},
    ),
    "Unigram": Form(meaning="tokens", used=names("type vocab unk_id byte_fallback")),
    "WordLevel": Form(meaning="tokens", used=names("type vocab unk_token")),
    "WordPiece": Form(
        meaning="tokens",
        used=names("type vocab unk_token continuing_subword_prefix max_input_chars_per_word"),
    ),
}
# Unicode keeps this character out of texts.
_UNSPELLED = "\U0010ffff"


def check_fields(description: dict[str, Any], path: pathlib.Path) -> None:
    """Raises UserError for a field that neither this package nor the tokenizers library reads."""
    FILE_FIELDS.check(description, path)
    for token in added_tokens(description):
        ADDED_FIELDS.check(token, path, f"added_tokens: {token['content']!r}: ")
    model = description["model"]
    # Files of old have no type, and the library tries one model after the other.
    if "type" not in model:
        return
    if model["type"] not in MODEL_FIELDS:
        raise UserError(
            f"{path}: model.type = {model['type']!r}; only {', '.join(MODEL_FIELDS)} are known"
        )
    MODEL_FIELDS[model["type"]].check(model, path, "model.")


def added_tokens(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the tokens that are looked for in a text before the model sees it."""
    return description.get("added_tokens") or []


def pieces(description: Mapping[str, Any]) -> dict[str, int]:
    """Returns the ids of the model's own tokens; a Unigram model lists them with their scores."""
    vocab = description["model"]["vocab"]
    if isinstance(vocab, dict):
        return vocab
    return {piece: number for number, (piece, _) in enumerate(vocab)}


def unknown_id(description: Mapping[str, Any]) -> int | None:
    """Returns the id of what the model does not know, if it has one."""
    model = description["model"]
    return model.get("unk_id", pieces(description).get(model.get("unk_token")))


def num_ids(description: Mapping[str, Any]) -> int:
    """Returns the first id that no token has, nor any after it."""
    ids = [*pieces(description).values(), *(token["id"] for token in added_tokens(description))]
    return max(ids) + 1


def plain(description: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns a description that makes tokens of a text and nothing else.

    MASK and END are special tokens in it, and of a name that no text has, where a model would
    find them by their name: all but BPE look up words or pieces in their vocabulary.
    """
    ours = (vocabulary.mask, vocabulary.end)
    added = [
        token | {"special": True} if token["id"] in ours else token
        for token in added_tokens(description)
    ]
    model = description["model"]
    if "merges" not in model:
        found = {token["content"] for token in added if token["id"] in ours}
        hidden = {name: _UNSPELLED + name for name in found - {model.get("unk_token")}}
        rename = lambda name: hidden.get(name, name)  # noqa: E731
        added = [token | {"content": rename(token["content"])} for token in added]
        vocab = model["vocab"]
        if isinstance(vocab, dict):
            vocab = {rename(piece): number for piece, number in vocab.items()}
        else:
            vocab = [[rename(piece), score] for piece, score in vocab]
        model = model | {"vocab": vocab}
    kept = {name: value for name, value in description.items() if name in FILE_FIELDS.used}
    return kept | {"added_tokens": added, "model": model}


# What puts something before a text, or takes spaces away there, and the fields that end that.
_NORMALIZERS = {"Strip": {"strip_left": False}}
_PRE_TOKENIZERS = {
    "ByteLevel": {"add_prefix_space": False},
    "Metaspace": {"prepend_scheme": "never", "add_prefix_space": False},
}


def behind(description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the description of the same tokenizer for what stands behind something.

    It leaves the left end of a text as it is.
    """
    parts = {"normalizer": _NORMALIZERS, "pre_tokenizer": _PRE_TOKENIZERS}
    return dict(description) | {
        name: _behind(description.get(name), changes) for name, changes in parts.items()
    }


def prefixes_words(description: Mapping[str, Any]) -> bool:
    """Returns whether a prefix is put before words that another pre-tokenizer has cut out."""
    cutters = _flat(description.get("pre_tokenizer"))
    return any(_behind(cutter, _PRE_TOKENIZERS) != cutter for cutter in cutters[1:])


def _behind(part: dict[str, Any] | None, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a normalizer or pre-tokenizer that leaves the left end as it is; None for none."""
    if part is None or part["type"] == "Prepend":
        return None
    inner = {
        name: [kept for x in part[name] if (kept := _behind(x, changes)) is not None]
        for name in part.keys() & {"normalizers", "pretokenizers"}
    }
    return part | inner | changes.get(part["type"], {})


def _flat(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the pre-tokenizers of a sequence, or the only one."""
    if part is None or part["type"] != "Sequence":
        return [part] if part else []
    return [flat for inner in part["pretokenizers"] for flat in _flat(inner)]
