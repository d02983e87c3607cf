"""The tokenizer in a GGUF file, as a tokenizer.json says it."""

import pathlib
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.errors import UserError
from flexmdm_jax.foreign import Form, names

FIELDS = Form(
    meaning="tokens",
    used=names("""
        model pre tokens token_type scores merges unknown_token_id add_space_prefix
        bos_token_id eos_token_id mask_token_id
        """),
    # Whitespace as it is: what LLaMA's and byte-level tokenizers do.
    fixed={"remove_extra_whitespaces": (False,), "precompiled_charsmap": ([],)},
    # Texts are closed by END here and opened by nothing.
    harmless=names("""
        add_bos_token add_eos_token add_sep_token padding_token_id seperator_token_id cls_token_id
        eot_token_id eom_token_id fim_pre_token_id fim_suf_token_id fim_mid_token_id
        fim_pad_token_id fim_rep_token_id fim_sep_token_id prefix_token_id suffix_token_id
        middle_token_id token_type_count
        """),
)
# gguf.TokenType.
NORMAL, CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_SPACE = "▁"


def tokenizer_json(values: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Returns a tokenizer.json that makes the tokens that a file's metadata describe.

    Args:
      values: The fields of the group tokenizer.ggml.
      path: Of the file, for messages.

    Raises:
      UserError: If a field is unknown or missing, or the tokenizer of another kind.
    """
    FIELDS.check(values, path, "tokenizer.ggml.")
    kind = values.get("model")
    if kind not in _KINDS:
        known = " and ".join(map(repr, _KINDS))
        raise UserError(f"{path}: tokenizer.ggml.model = {kind!r}; only {known} are known")
    needed, make = _KINDS[kind]
    for name in ("tokens", "token_type", *needed):
        if name not in values:
            raise UserError(f"{path} has no field tokenizer.ggml.{name}")
    for name in {"token_type", "scores"} & {"token_type", *needed}:
        if len(values[name]) != len(values["tokens"]):
            raise UserError(
                f"{path}: tokenizer.ggml.{name} has {len(values[name])} entries for "
                f"{len(values['tokens'])} tokens; convert the model to GGUF again"
            )
    return {"version": "1.0", "added_tokens": _added(values), **make(values, path)}


def _added(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the tokens that are looked for in a text before it is cut."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": number, "content": token, **flags, "special": kind == CONTROL}
        for number, (token, kind) in enumerate(
            zip(values["tokens"], values["token_type"], strict=True)
        )
        if kind in (CONTROL, _USER_DEFINED)
    ]


def _ids(values: Mapping[str, Any]) -> dict[str, int]:
    """Returns the ids of the model's own tokens; what fills up the rows is never text."""
    return {
        token: number
        for number, (token, kind) in enumerate(
            zip(values["tokens"], values["token_type"], strict=True)
        )
        if kind != _UNUSED
    }


# How a text is cut into words, by the name that llama.cpp gives to a kind of pre-tokenizer. GPT-2's
# words are ByteLevel's own.
_GPT2_WORDS: dict[str, Any] = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
_LLAMA3_WORDS = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_DIGITS = {"type": "Digits", "individual_digits": True}
_BY_PATTERN = {
    "type": "Split",
    "pattern": {"Regex": _LLAMA3_WORDS},
    "behavior": "Isolated",
    "invert": False,
}
_CUTTERS = {
    "gpt-2": ([], _GPT2_WORDS),
    "smollm": ([_DIGITS], _GPT2_WORDS),
    "llama-bpe": ([_BY_PATTERN], _GPT2_WORDS | {"use_regex": False}),
}
# Words that are tokens are not put together from smaller ones.
_WHOLE_WORDS = frozenset({"llama-bpe"})


def _byte_level(values: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Returns byte-level BPE."""
    pre = values["pre"]
    if pre not in _CUTTERS:
        known = ", ".join(map(repr, _CUTTERS))
        raise UserError(f"{path}: tokenizer.ggml.pre = {pre!r}; only {known} are known")
    cutters, last = _CUTTERS[pre]
    last = last | {"add_prefix_space": bool(values.get("add_space_prefix", False))}
    merges = [merge.split(" ", 1) for merge in values["merges"]]
    if broken := [merge for merge in merges if len(merge) != 2]:
        raise UserError(f"{path}: tokenizer.ggml.merges: {broken[0][0]!r} is no pair of tokens")
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cutters, last]},
        "decoder": last,
        "model": {
            "type": "BPE",
            "vocab": _ids(values),
            "merges": merges,
            "ignore_merges": pre in _WHOLE_WORDS,
        },
    }


def _sentencepiece(values: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Returns LLaMA's tokenizer: SentencePiece's BPE, which falls back to bytes."""
    tokens, unknown = values["tokens"], values.get("unknown_token_id", 0)
    spelled = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    read = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    normalizers, strips = [spelled], []
    if values.get("add_space_prefix", True):
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
        strips.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [read, {"type": "ByteFallback"}, {"type": "Fuse"}, *strips],
        },
        "model": {
            "type": "BPE",
            "vocab": _ids(values),
            "merges": _merges(values),
            "unk_token": tokens[unknown],
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def _merges(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the pairs that make up each piece, best first: SentencePiece keeps scores only."""
    pieces = {
        token: score
        for token, score, kind in zip(
            values["tokens"], values["scores"], values["token_type"], strict=True
        )
        if kind == NORMAL
    }
    pairs = [
        (-score, piece[:cut], piece[cut:])
        for piece, score in pieces.items()
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    # Of equals, in the order of the vocabulary.
    return [(left, right) for _, left, right in sorted(pairs, key=lambda pair: pair[0])]


# By kind: fields that it needs, and what makes it.
_KINDS = {
    "gpt2": (("pre", "merges"), _byte_level),
    "llama": (("scores",), _sentencepiece),
}
