"""A first look at somebody's text: whether it can be learned from, and how it is made up."""

import dataclasses
import pathlib
from collections.abc import Sequence

from flexmdm_jax.data.preparation.splitting import paragraphs
from flexmdm_jax.data.sources.documents import decode_text, matching
from flexmdm_jax.errors import UserError

# Of a corpus, more than a training of minutes can read several times.
_MOST_BYTES = 20_000_000
# Held-out texts among them; fewer say nothing.
_FEWEST = 50


@dataclasses.dataclass(frozen=True)
class Survey:
    """A text, or its beginning.

    Attributes:
      texts: What the model is to learn to write, one by one: paragraphs, or lines.
      unit: Which of the two, in a word.
      num_bytes: Of all files.
      cut: Whether only the beginning was read.
    """

    texts: Sequence[str]
    unit: str
    num_bytes: int
    cut: bool = False

    @property
    def characters(self) -> int:
        """Returns how many characters the texts have together."""
        return sum(map(len, self.texts))

    @property
    def alphabet(self) -> int:
        """Returns how many different characters there are."""
        return len(set().union(*map(set, self.texts)))

    def longest(self, share: float) -> int:
        """Returns how many characters a text has that is longer than such a share of the others."""
        ordered = sorted(map(len, self.texts))
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def survey(pattern: str, most_bytes: int = _MOST_BYTES) -> Survey:
    """Returns a look at the text in the files that match a pattern.

    A text is a paragraph, between blank lines; where there are hardly any, a line.

    Args:
      pattern: A file's name, or a pattern such as `corpus/*.txt`.
      most_bytes: Where to stop reading.

    Raises:
      UserError: If there is no file, it is no text, or there are too few texts to learn from.
    """
    paths = matching(pattern)
    sizes = [path.stat().st_size for path in paths]
    left, parts = most_bytes, []
    for path, size in zip(paths, sizes, strict=True):
        if left > 0:
            parts.append(_read(path, left))
            left -= size
    whole = "\n\n".join(parts)
    if not whole.strip():
        raise UserError(f"{pattern} is empty; name a file with text in it")
    texts, unit = paragraphs(whole), "paragraph"
    lines = [line.strip() for line in whole.splitlines() if line.strip()]
    if len(texts) < _FEWEST <= len(lines):
        texts, unit = lines, "line"
    # Equal texts are never on both sides of what is held out, so they count once.
    if (different := len(set(texts))) < _FEWEST:
        count = f"{different} {'different ' * (different > 1)}{unit}{'s' * (different > 1)}"
        raise UserError(
            f"{pattern} holds {count}, too few to learn from; it takes at least {_FEWEST}, with "
            "blank lines or line breaks between them"
        )
    return Survey(texts, unit, sum(sizes), cut=sum(sizes) > most_bytes)


def _read(path: pathlib.Path, most_bytes: int) -> str:
    """Returns a file's text up to the last whole line within so many bytes."""
    with path.open("rb") as file:
        data = file.read(most_bytes)
        if file.read(1):
            # A part of a character, or of a line, is no text.
            data = data[: data.rfind(b"\n") + 1] or data[:-4]
    if b"\0" in data:
        raise UserError(f"{path} is no text: it holds zero bytes; name a text file, in UTF-8")
    text = decode_text(data, str(path))
    if isinstance(text, UserError):
        raise text
    return text
