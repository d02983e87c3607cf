"""Whether texts come back from a tokenizer as they were, found out on a sample of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flexmdm_jax.data.tokenizers.base import Tokenizer, common_length, failure_of
from flexmdm_jax.files import json_text

# Of all characters one in so many is checked: decoding takes about as long as encoding.
_EVERY = 200
# Characters that are checked whatever there is.
_AT_LEAST = 20_000
_EXCERPT = 24  # characters of a text in a message


class RoundTrip:
    """Decodes some of the texts that were encoded and compares.

    Which ones the lengths of the texts alone decide: all until 20,000 characters are checked, then
    as many as make up a two-hundredth of all characters.

    Attributes:
      checked: Texts that were decoded.
      changed: Those that did not come back as they were.
      first: Where the first of them is and what became of it; None if there is none.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Starts to count."""
        self._tokenizer, self._left = tokenizer, float(_AT_LEAST)
        self.checked, self.changed, self.first = 0, 0, None

    def sample(
        self,
        texts: Sequence[str],
        tokens: Iterable[np.ndarray | list[int]],
        place: Callable[[str], str],
    ) -> None:
        """Checks the first of some texts, or none, as their share of characters has it.

        Args:
          texts: All that is encoded, a few at a time.
          tokens: Of each text.
          place: Returns where a text is.
        """
        self._left += sum(map(len, texts)) / _EVERY
        for text, ids in zip(texts, tokens, strict=False):
            if self._left <= 0:
                return
            self._left -= len(text)
            self.checked += 1
            became = self._decoded(ids)
            if became != text:
                self.changed += 1
                self.first = self.first or f"{place(text)}: {difference(text, became)}"

    def _decoded(self, ids: np.ndarray | list[int]) -> str:
        try:
            return self._tokenizer.decode(np.asarray(ids, np.int64).tolist())
        except BaseException as error:
            return f"an error: {failure_of(error)}"

    def noted(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """Returns what dataset.json says of texts: counts with the sample's, and the first change.

        Args:
          counts: What else was counted; "texts" is how many there are.
        """
        own = {"checked_texts": self.checked, "changed_texts": self.changed}
        return {"counts": {**counts, **own}, "first_changed_text": self.first}


def difference(text: str, became: str) -> str:
    """Returns where a text and what became of it differ first, from the start of the word.

    >>> difference("to find it", "to fnd it")
    '"find it" became "fnd it"'
    """
    at = common_length(text, became)
    while at and not text[at - 1].isspace():
        at -= 1
    was, now = (json_text(x[at : at + _EXCERPT], ensure_ascii=False) for x in (text, became))
    return f"{was} became {now}"
