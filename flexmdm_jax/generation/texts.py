"""Text into tokens with gaps between them, and the tokens of a finished row back into text.

A tokenizer's decode() gives the text of a whole row. Here it is taken apart: what was given, what
was generated in each gap, and what can be shown of a row that still has masks.
"""

import bisect
import codecs
import itertools
import re
from collections.abc import Iterable, Sequence

from flexmdm_jax.data.tokenizers import Tokenizer, encode_at

# How a token that is still hidden is shown.
MASK_MARK = "░"
_EXCERPT = 24  # characters of a part in a message


def encode_parts(
    tokenizer: Tokenizer, parts: Sequence[str], starts_with_gap: bool
) -> list[list[int]]:
    """Returns the token ids of texts that have gaps between them.

    Only what opens the whole gets what the tokenizer puts before a text, a dummy prefix for
    example, so that tokenizers that give back a text exactly give back the parts in any company.

    >>> encode_parts(ByteTokenizer({}), ["ab", "c"], starts_with_gap=False)
    [[97, 98], [99]]

    Args:
      tokenizer: Of the model.
      parts: Texts, in their order; an empty one has no tokens.
      starts_with_gap: Whether text may be generated before the first of them.

    Raises:
      UserError: Naming a part that the tokenizer fails on, or that is not Unicode.
    """
    encoded = []
    for number, part in enumerate(parts):
        place = f"part {number + 1}, {part[:_EXCERPT]!r}"
        first = number == 0 and not starts_with_gap
        encoded.append(encode_at(tokenizer, part, lambda place=place: place, first=first))
    return encoded


def split_text(
    tokenizer: Tokenizer, tokens: Iterable[int], fixed: Iterable[bool], gaps: Sequence[int]
) -> list[str]:
    """Returns the text that was generated in each gap of a finished row.

    Between the given parts they make up decode() of the whole. A character belongs to where its
    first byte is, if its tokens are partly given. Spaces that a tokenizer puts between words, and
    that no token holds, belong to the gap. One thing cannot be told apart: where nothing was
    generated before a part that begins with a space, a dummy prefix is read out of that.

    >>> split_text(ByteTokenizer({}), list(b"abxc"), [True, True, False, True], gaps=[2])
    ['x']

    Args:
      tokenizer: Of the model.
      tokens: The row's, without END.
      fixed: Which of them were given.
      gaps: Numbers of given tokens before each gap, ascending. Of gaps without a given token
        between them the first has all.

    Raises:
      ValueError: If a token was generated where no gap is.
    """
    tokens = [int(token) for token in tokens]
    # Given and generated pieces take turns: what is before the first gap, the gap, and so on.
    segments: list[list[bytes]] = [[] for _ in range(2 * len(gaps) + 1)]
    given = 0
    for token, piece, was_given in zip(tokens, tokenizer.spell(tokens), fixed, strict=True):
        here, behind = 2 * bisect.bisect_left(gaps, given) + 1, 2 * bisect.bisect_right(gaps, given)
        is_gap = here < behind
        if was_given:
            given += 1
            before, piece, after = _joints(piece, tokenizer.piece(token))
            segments[here if is_gap else behind].append(before)
            segments[behind].append(piece)
            segments[behind + (given in gaps)].append(after)
        elif is_gap:
            segments[here].append(piece)
        else:
            raise ValueError(f"a token was generated behind {given} given ones; gaps = {gaps}")
    return _texts([b"".join(segment) for segment in segments])[1::2]


def _joints(piece: bytes, alone: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns a spelled piece with the spaces apart that are before it and behind it."""
    if piece == b" " + alone:
        return b" ", alone, b""
    if piece == alone + b" ":
        return b"", alone, b" "
    return b"", piece, b""


def _texts(segments: Sequence[bytes]) -> list[str]:
    """Returns the characters that begin in each segment of a text's UTF-8 bytes.

    >>> _texts([b"a\\xc3", b"\\xa9b"])
    ['aé', 'b']
    """
    whole = b"".join(segments).decode(errors="replace")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    finished, cuts = 0, [0]
    for segment in segments:
        finished += len(decoder.decode(segment))
        begun, _ = decoder.getstate()
        cuts.append(finished + bool(begun))
    return [whole[start:stop] for start, stop in itertools.pairwise(cuts)]


def visible(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """Returns what an unfinished row looks like, for people to watch.

    Masks are MASK_MARK, and so is a byte of a character whose other bytes are not there yet. Until
    a row is finished anything may still come between its tokens, so nothing of it is final.

    >>> visible(ByteTokenizer({}), [97, 256, 0xC3, 256])
    'a░░░'
    """
    pieces = tokenizer.spell(tokens, mask=MASK_MARK.encode())
    text = b"".join(pieces).decode(errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", MASK_MARK, text)
