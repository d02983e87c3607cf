"""What the decoder of a tokenizer.json makes of each token, where the library gives whole texts.

A decoder is a chain of steps from tokens to tokens, which the library joins in the end. Steps look
at one token at a time and at whether it is the first or the last, so each has its share of the
text. Shares are bytes: unlike in the library, a token may hold a part of a character.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flexmdm_jax.data.tokenizers import byte_level


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads tokens, given in UTF-8, as a chain of steps does."""

    steps: tuple[Any, ...]

    def __call__(self, tokens: Sequence[bytes]) -> list[bytes]:
        """Returns what each token of a text comes to."""
        read = list(tokens)
        for step in self.steps:
            read = step(read)
        return read

    def without_joints(self) -> "Reader":
        """Returns one that puts no spaces between words, where they are no part of either."""
        changed = [
            dataclasses.replace(step, joint=b"") if hasattr(step, "joint") else step
            for step in self.steps
        ]
        return Reader(tuple(changed))


def reader_of(decoder: Mapping[str, Any] | None) -> Reader | None:
    """Returns the reader of a decoder; None if it has a step or a field that is not known here.

    Args:
      decoder: As tokenizer.json has it, or None: the library puts spaces between tokens.
    """
    if decoder is None:
        return Reader((_Joined(),))
    state, steps = "tokens", []
    for fields in _flat(decoder):
        kind = dict(fields)
        known = _STEPS.get((state, kind.pop("type")))
        if known is None:
            return None
        step, state = known
        try:
            steps.append(step(**kind))
        except TypeError:
            return None
    return Reader(tuple(steps))


def begins_byte_level(decoder: Mapping[str, Any] | None) -> bool:
    """Returns whether tokens are written in the alphabet of byte_level.py."""
    return decoder is not None and next(_flat(decoder), {}).get("type") == "ByteLevel"


def _flat(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder["type"] != "Sequence":
        yield decoder
        return
    for step in decoder["decoders"]:
        yield from _flat(step)


@dataclasses.dataclass(frozen=True)
class _Joined:
    """No decoder: tokens are words."""

    joint: bytes = b" "

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        return [self.joint + token if number else token for number, token in enumerate(tokens)]


@dataclasses.dataclass(frozen=True)
class _ByteLevel:
    """Tokens in an alphabet of bytes; the fields are the pre-tokenizer's of that name."""

    add_prefix_space: bool = True
    trim_offsets: bool = True
    use_regex: bool = True

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        return list(map(self._read, tokens))

    def _read(self, token: bytes) -> bytes:
        try:
            return byte_level.read(token.decode())
        except KeyError:
            return token


@dataclasses.dataclass(frozen=True)
class _ByteFallback:
    """Tokens such as <0xC3> are bytes."""

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        found = [re.fullmatch(rb"<0x([0-9A-Fa-f]{2})>", token) for token in tokens]
        return [
            bytes([int(match[1], 16)]) if match else token
            for match, token in zip(found, tokens, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class _Fuse:
    """Tells the library to join tokens; each keeps its share here."""

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        return tokens


@dataclasses.dataclass(frozen=True)
class _Replace:
    """One string for another, mostly a space for what spells it."""

    pattern: Mapping[str, str]
    content: str

    def __post_init__(self):
        if not self.pattern.get("String"):
            raise TypeError("a regular expression, which may mean something else in Python")

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        old, new = self.pattern["String"].encode(), self.content.encode()
        return [token.replace(old, new) for token in tokens]


@dataclasses.dataclass(frozen=True)
class _Metaspace:
    """Spaces are spelled; those of the first token are left out if one was put before the text."""

    replacement: str
    prepend_scheme: str = "always"
    # The pre-tokenizer's of that name.
    split: bool = True
    add_prefix_space: bool = True
    str_rep: str = ""

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        space, opening = self.replacement.encode(), b" " * (self.prepend_scheme == "never")
        first = [token.replace(space, opening) for token in tokens[:1]]
        return first + [token.replace(space, b" ") for token in tokens[1:]]


@dataclasses.dataclass(frozen=True)
class _WordPiece:
    """Words, and the later parts of words, which have a prefix."""

    prefix: str
    cleanup: bool
    joint: bytes = b" "

    # In this order (cleanup() of the library).
    _CLEANED = (
        *((b" .", b"."), (b" ?", b"?"), (b" !", b"!"), (b" ,", b","), (b" ' ", b"'")),
        *((b" n't", b"n't"), (b" 'm", b"'m"), (b" do not", b" don't"), (b" 's", b"'s")),
        *((b" 've", b"'ve"), (b" 're", b"'re")),
    )

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        inner = self.prefix.encode()
        words = [
            token.removeprefix(inner) if token.startswith(inner) else self.joint + token
            for token in tokens[1:]
        ]
        return list(map(self._clean, [*tokens[:1], *words]))

    def _clean(self, word: bytes) -> bytes:
        for old, new in self._CLEANED if self.cleanup else ():
            word = word.replace(old, new)
        return word


@dataclasses.dataclass(frozen=True)
class _BPEDecoder:
    """Words end in a suffix."""

    suffix: str
    joint: bytes = b" "

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        end = self.suffix.encode()
        last = [token.replace(end, b"") for token in tokens[-1:]]
        return [token.replace(end, self.joint) for token in tokens[:-1]] + last


@dataclasses.dataclass(frozen=True)
class _Strip:
    """Some characters fewer at the ends of each token, or of all of them once they are joined."""

    content: str
    start: int
    stop: int

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        return [self._cut([token])[0] for token in tokens]

    def _cut(self, tokens: list[bytes]) -> list[bytes]:
        flipped, content = lambda x: [token[::-1] for token in reversed(x)], self.content.encode()
        tokens = _without_first(tokens, content, self.start)
        return flipped(_without_first(flipped(tokens), content[::-1], self.stop))


class _StripWhole(_Strip):
    """Strip behind Fuse."""

    def __call__(self, tokens: list[bytes]) -> list[bytes]:
        return self._cut(tokens)


def _without_first(tokens: list[bytes], content: bytes, most: int) -> list[bytes]:
    """Returns tokens without the content that they begin with together, repeated so often."""
    kept = []
    for token in tokens:
        while most and token.startswith(content):
            token, most = token.removeprefix(content), most - 1
        most = 0 if token else most
        kept.append(token)
    return kept


# (state, type) -> the step and the state behind it. A state says what the library has joined so
# far: nothing ("tokens"), runs of bytes ("bytes"), or all ("whole").
_STEPS = {
    ("tokens", "ByteLevel"): (_ByteLevel, "whole"),
    ("tokens", "Replace"): (_Replace, "tokens"),
    ("tokens", "Metaspace"): (_Metaspace, "tokens"),
    ("tokens", "WordPiece"): (_WordPiece, "tokens"),
    ("tokens", "BPEDecoder"): (_BPEDecoder, "tokens"),
    ("tokens", "Strip"): (_Strip, "tokens"),
    ("tokens", "ByteFallback"): (_ByteFallback, "bytes"),
    ("tokens", "Fuse"): (_Fuse, "whole"),
    ("bytes", "Fuse"): (_Fuse, "whole"),
    ("whole", "Fuse"): (_Fuse, "whole"),
    ("whole", "Strip"): (_StripWhole, "whole"),
}
