"""Documents to sequences, block by block: what fails is named, what changes is counted."""

from collections.abc import Iterable, Iterator
from typing import Any

from absl import logging

from flexmdm_jax.data.preparation.splitting import Encoded, SplitRule, encode
from flexmdm_jax.data.sources.documents import Document
from flexmdm_jax.data.tokenizers import RoundTrip, Tokenizer, encoding_error, failure_of
from flexmdm_jax.errors import UserError

# Text of documents that are split and encoded together.
_BLOCK_CHARACTERS = 1 << 18


class Encoder:
    """Encodes the documents of a unit and counts what becomes of them."""

    def __init__(self, rule: SplitRule, tokenizer: Tokenizer, maximum: int, skip_bad: bool = False):
        """Starts to count.

        Args:
          rule: How documents become texts.
          tokenizer: Encodes them.
          maximum: Tokens of the longest sequence, without END.
          skip_bad: Count unusable documents instead of stopping at the first.
        """
        self._rule, self._tokenizer = rule, tokenizer
        self._maximum, self._skip_bad = maximum, skip_bad
        self._round_trip = RoundTrip(tokenizer)
        self._counts = dict.fromkeys(
            (
                "documents",
                "empty_documents",
                "bad_documents",
                "characters",
                "texts",
                "split_texts",
                "lost_texts",
            ),
            0,
        )

    def encode(self, documents: Iterable[Document | UserError]) -> Iterator[Encoded]:
        """Yields the texts of documents in order, encoded, some documents at a time.

        Raises:
          UserError: Naming the first document that is unusable or that the tokenizer fails on,
            unless they may be skipped.
        """
        for block in _blocks(self._usable(documents)):
            for part, encoded in self._encode_block(block):
                self._count(part, encoded)
                yield encoded

    def noted(self) -> dict[str, Any]:
        """Returns what became of the documents that were encoded, as dataset.json has it."""
        return self._round_trip.noted(self._counts)

    def _usable(self, documents: Iterable[Document | UserError]) -> Iterator[Document]:
        for document in documents:
            if isinstance(document, UserError):
                self._skip(document)
            else:
                yield document

    def _skip(self, error: UserError) -> None:
        if not self._skip_bad:
            raise error
        logging.warning("skipped: %s", error)
        self._counts["bad_documents"] += 1

    def _encode_block(self, block: list[Document]) -> Iterator[tuple[list[Document], Encoded]]:
        """Yields a block encoded, or one by one those of its documents that can be."""
        texts = [document.text for document in block]
        try:
            encoded = encode(texts, self._rule, self._tokenizer, self._maximum)
        except BaseException as error:
            reason = failure_of(error)
            if len(block) == 1:
                self._skip(encoding_error(block[0].place(), reason))
                return
        else:
            yield block, encoded
            return
        for document in block:
            yield from self._encode_block([document])

    def _count(self, block: list[Document], encoded: Encoded) -> None:
        pieces = [len(cuts) for cuts in encoded.cuts.values()]
        for name, count in (
            ("documents", len(block)),
            ("empty_documents", sum(not document.text.strip() for document in block)),
            ("characters", sum(len(document.text) for document in block)),
            ("texts", len(encoded.texts)),
            ("split_texts", sum(count > 1 for count in pieces)),
            ("lost_texts", pieces.count(0)),
        ):
            self._counts[name] += count

        def place(text: str) -> str:
            return next(x.place() for x in block if text in self._rule.texts(x.text))

        self._round_trip.sample(encoded.texts, encoded.tokens, place)


def _blocks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    block, size = [], 0
    for document in documents:
        block.append(document)
        size += len(document.text)
        if size >= _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block
