"""Tokenizers of Hugging Face: a folder with tokenizer.json, as LLaDA's checkpoint has it."""

import contextlib
import functools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from flexmdm_jax.data.tokenizers import byte_level, decoders, tokenizer_json
from flexmdm_jax.data.tokenizers.base import byte_offsets, failure_of, joined, shares
from flexmdm_jax.errors import UserError
from flexmdm_jax.foreign import whole
from flexmdm_jax.types import Vocabulary


class HuggingFaceTokenizer:
    """A tokenizer.json; MASK and END are the model's own if config.json beside it names them.

    LLaDA's does: 126336 and 126081 of 126464 ids. Otherwise they follow the tokenizer's ids, unless
    they were chosen. Text that spells a special token is text. Decoding is exact where the
    tokenizer's own is: byte-level ones without a normaliser.
    """

    kind: ClassVar[str] = "hf"
    TOKENIZER: ClassVar[str] = "tokenizer.json"
    CONFIG: ClassVar[str] = "config.json"
    # {"mask": ID, "end": ID}, where config.json does not say so.
    IDS: ClassVar[str] = "special_ids.json"

    def __init__(self, files: dict[str, bytes]):
        names = (self.TOKENIZER, self.CONFIG, self.IDS)
        self._files = {name: files[name] for name in names if name in files}
        with _unusable():
            self._description = json.loads(files[self.TOKENIZER])
            self.vocabulary = _vocabulary(files, self._description)
            self._plain = tokenizer_json.plain(self._description, self.vocabulary)
            self._tokenizer = _loaded(self._plain)
            self._reader = decoders.reader_of(self._plain.get("decoder"))
            self._bare = self._reader and self._reader.without_joints()
            self._byte_level = decoders.begins_byte_level(self._plain.get("decoder"))
            self._contents = self._contents_of_added()

    @classmethod
    def of_folder(
        cls, files: dict[str, bytes], folder: pathlib.Path, chosen: Mapping[str, int]
    ) -> "HuggingFaceTokenizer":
        """Returns the tokenizer in a folder, after checking that nothing there is misunderstood.

        Saved tokenizers are not checked again: what was made with them is theirs.

        Args:
          files: TOKENIZER and, if there is one, CONFIG.
          folder: Where they lie, for messages.
          chosen: Ids of "mask" and "end", or of one of them, or none.

        Raises:
          UserError: If a file is damaged or a field of it unknown, an id cannot be MASK's or END's,
            or the tokenizers library reads other ids than the file has.
        """
        with _unusable(f"{folder}: "):
            description = json.loads(files[cls.TOKENIZER])
            tokenizer_json.check_fields(description, folder / cls.TOKENIZER)
            ids = _choose_ids(files, description, chosen, folder)
            unchosen = _vocabulary(files, description)
        # A tokenizer as it has always been stays the same, so that datasets of old mix with new.
        if ids != {"mask": unchosen.mask, "end": unchosen.end}:
            files = files | {cls.IDS: json.dumps(ids).encode()}
        tokenizer = cls(files)
        tokenizer._check_added(folder / cls.TOKENIZER)
        tokenizer._check_unspelled(folder)
        return tokenizer

    @classmethod
    def of_json(
        cls, description: Mapping[str, Any], config: Mapping[str, Any], folder: pathlib.Path
    ) -> "HuggingFaceTokenizer":
        """Returns of_folder() of a folder whose TOKENIZER and CONFIG say this."""
        files = {cls.TOKENIZER: description, cls.CONFIG: config}
        return cls.of_folder({n: json.dumps(x).encode() for n, x in files.items()}, folder, {})

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """Returns the token ids of a text; behind something nothing is put before it.

        That is add_prefix_space, a Metaspace's or Prepend's prefix. Nor are spaces stripped there.
        """
        if first:
            return _encoding(self._tokenizer, text).ids
        behind = _encoding(self._behind, text)
        if not tokenizer_json.prefixes_words(self._plain):
            return behind.ids
        # The prefix says that a space was before a word: true of all but the first, and of that one
        # too if the text begins with what no token has.
        usual = _encoding(self._tokenizer, text)
        if usual.offsets and usual.offsets[0][0] > 0:
            return usual.ids
        begun = [i for i, word in zip(behind.ids, behind.word_ids, strict=True) if word == 0]
        return begun + [i for i, word in zip(usual.ids, usual.word_ids, strict=True) if word != 0]

    @functools.cached_property
    def _behind(self) -> Any:
        """The tokenizer of what stands behind something."""
        changed = tokenizer_json.behind(self._plain)
        if changed == self._plain:
            return self._tokenizer
        added = [self._as_matched(token) for token in changed["added_tokens"]]
        return _loaded(changed | {"added_tokens": added})

    def _as_matched(self, token: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns an added token with the content that is looked for in normalised texts.

        To LLaMA's normaliser, <tool> is the word "▁<tool>", and so it is behind something.
        """
        if not token["normalized"] or token["content"] in tokenizer_json.pieces(self._plain):
            return token
        return token | {"content": self._tokenizer.id_to_token(token["id"])}

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.uint32) for encoding in encoded]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del tokens
        offsets = _encoding(self._tokenizer, text).offsets
        return byte_offsets(text, [end for _, end in offsets])

    def piece(self, token: int) -> bytes:
        """Returns the UTF-8 bytes that a token stands for; b"" for special tokens and no data.

        They are what the decoder makes of it in the middle of a text, without spaces that it puts
        between words. A decoder that is not known token by token is given this token alone.
        """
        content = self._content(token)
        if content is None:
            return b""
        if self._reader is None:
            return self._tokenizer.decode([token]).encode()
        return self._bare([b".", content, b"."])[1]

    def spell(self, tokens: Iterable[int], *, mask: bytes = b"") -> list[bytes]:
        """Returns the UTF-8 bytes that the decoder makes of each token, and mask for MASK."""
        tokens = [int(token) for token in tokens]
        written = {self.vocabulary.mask: self._encoded(mask)} if mask else {}
        contents = [written.get(token) or self._content(token) for token in tokens]
        if self._reader is None:
            found = shares(self._tokenizer.decode, [max(token, 0) for token in tokens])
            return [mask if x in written else share for x, share in zip(tokens, found, strict=True)]
        found = iter(self._reader([content for content in contents if content is not None]))
        return [b"" if content is None else next(found) for content in contents]

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return joined(self.spell(tokens))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return self._files

    def _content(self, token: int) -> bytes | None:
        """Returns what the decoder is given of a token; None if it is given nothing."""
        if token in self._contents or not 0 <= token < self.vocabulary.size:
            return self._contents.get(token)
        name = self._tokenizer.id_to_token(token)
        return None if name is None else name.encode()

    def _contents_of_added(self) -> dict[int, bytes | None]:
        """Returns _content() of tokens whose names it cannot be told from."""
        contents = dict.fromkeys((self.vocabulary.mask, self.vocabulary.end))
        pieces = self._pieces()
        for number, token in self._tokenizer.get_added_tokens_decoder().items():
            if token.special:
                contents[number] = None
            # A text, where the library's decoder would take é for a byte.
            elif self._byte_level and number not in contents and token.content not in pieces:
                contents[number] = self._encoded(self._tokenizer.id_to_token(number).encode())
        return contents

    def _encoded(self, text: bytes) -> bytes:
        """Returns text as tokens have it."""
        return byte_level.written(text).encode() if self._byte_level else text

    def _check_added(self, path: pathlib.Path) -> None:
        """Raises UserError unless added tokens have the ids that the file gives them."""
        pieces = {number: piece for piece, number in self._pieces().items()}
        for read, written in zip(self._plain["added_tokens"], self._added(), strict=True):
            name, number = written["content"], written["id"]
            given = self._tokenizer.token_to_id(read["content"])
            if given != number:
                raise UserError(
                    f"{path}: the added token {name!r} is {number}, but the tokenizers library, "
                    f"which numbers added tokens in their order, makes it {given}; write the file "
                    "with that library, and see which of the two ids the weights mean"
                )
            if pieces.get(number, name) != name:
                raise UserError(
                    f"{path}: {number} is the id of {name!r} and of {pieces[number]!r}; give the "
                    "added token one of its own"
                )

    def _check_unspelled(self, folder: pathlib.Path) -> None:
        """Raises UserError if a text may have MASK or END among its tokens."""
        pieces = {number: piece for piece, number in self._pieces().items()}
        added = {token["id"]: token["content"] for token in self._added()}
        for name in ("mask", "end"):
            number = getattr(self.vocabulary, name)
            spelled = added.get(number, pieces.get(number))
            if number == tokenizer_json.unknown_id(self._description):
                problem = "stands for what the tokenizer does not know"
            elif number in pieces and number not in added:
                problem = "is an ordinary token of texts"
            elif spelled is not None and any(number in self.encode(x) for x in _around(spelled)):
                problem = "is what a text becomes that spells it"
            else:
                continue
            raise UserError(
                f"{folder}: {spelled!r}, {name.upper()} = {number}, {problem}; choose an added "
                f"token or a free id, hf:DIR,{name}=ID: {self._listed()}"
            )

    def _listed(self, most: int = 8) -> str:
        """Returns the ids that MASK and END may be chosen from, in words."""
        ids = [f"{token['content']!r} = {token['id']}" for token in self._added()]
        shown = [*ids[:most], "…"] if len(ids) > most else ids
        free = _num_rows(self._files, self._description)
        return f"added tokens are {', '.join(shown) or 'none'}; free are {free} and the next"

    def _added(self) -> list[dict[str, Any]]:
        return tokenizer_json.added_tokens(self._description)

    def _pieces(self) -> dict[str, int]:
        return tokenizer_json.pieces(self._description)


def _loaded(description: Mapping[str, Any]) -> Any:
    """Returns the library's tokenizer of a description, for which every text is a text.

    One may spell a special token, a turn of a chat for example. To leave such tokens out would give
    others their ids: the library numbers them in their order.
    """
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(description))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _encoding(tokenizer: Any, text: str) -> Any:
    return tokenizer.encode(text, add_special_tokens=False)


def _around(name: str) -> tuple[str, ...]:
    """Returns texts with a name in them, alone and among others."""
    return (name, f" {name}", f"a{name}a", f"a {name} a", name + name)


@contextlib.contextmanager
def _unusable(where: str = "") -> Iterator[None]:
    """Makes one line of what damage leads to; the library raises bare exceptions, and panics."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        files = f"{HuggingFaceTokenizer.TOKENIZER} or {HuggingFaceTokenizer.CONFIG}"
        reason = f"no field {error}" if isinstance(error, KeyError) else failure_of(error)
        raise UserError(f"{where}{files} is unusable: {reason}") from None


def _config(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Returns what config.json says, null left out."""
    values = json.loads(files.get(HuggingFaceTokenizer.CONFIG, b"{}"))
    return {name: value for name, value in values.items() if value is not None}


def _num_rows(files: Mapping[str, bytes], description: Mapping[str, Any]) -> int:
    """Returns the first id behind all tokens and all rows of the model."""
    return max(tokenizer_json.num_ids(description), _config(files).get("vocab_size", 0))


def _vocabulary(files: Mapping[str, bytes], description: Mapping[str, Any]) -> Vocabulary:
    size = _num_rows(files, description)
    config = _config(files)
    mask, end = config.get("mask_token_id"), config.get("eos_token_id")
    if HuggingFaceTokenizer.IDS in files:
        ids = json.loads(files[HuggingFaceTokenizer.IDS])
        mask, end = ids["mask"], ids["end"]
    elif mask is None or not isinstance(end, int):
        mask, end = size, size + 1
    return Vocabulary(size=max(size, mask + 1, end + 1), mask=mask, end=end)


def _choose_ids(
    files: Mapping[str, bytes],
    description: Mapping[str, Any],
    chosen: Mapping[str, int],
    folder: pathlib.Path,
) -> dict[str, int]:
    """Returns the ids of MASK and END: those chosen, else config.json's, else the next free ones.

    A model without MASK is autoregressive: where its texts end is no END, unless that is chosen.

    Raises:
      UserError: If config.json names several ends, or both ids are one, or they leave a gap.
      ValueError: If config.json has no ids where they should be.
    """
    config, ids = _config(files), dict(chosen)
    rows = max(tokenizer_json.num_ids(description), whole({"vocab_size": 1} | config, "vocab_size"))
    if "mask" not in ids and "mask_token_id" in config:
        ids["mask"] = whole(config, "mask_token_id", least=0)
    if "mask" in ids and "end" not in ids and "eos_token_id" in config:
        ends = config["eos_token_id"]
        ends = ends if isinstance(ends, list) else [ends]
        if len(ends) != 1:
            raise UserError(
                f"{folder / HuggingFaceTokenizer.CONFIG}: eos_token_id = {ends}; say which one "
                "closes a sequence: hf:DIR,end=ID"
            )
        ids["end"] = whole({"eos_token_id": ends[0]}, "eos_token_id", least=0)
    beyond = sorted(number for number in ids.values() if number >= rows)
    if len(set(ids.values())) < len(ids) or beyond != [*range(rows, rows + len(beyond))]:
        said = " and ".join(f"{name.upper()} = {number}" for name, number in ids.items())
        raise UserError(
            f"{folder}: {said}; they have to be different, and below {rows} or the next ids"
        )
    for name in ("mask", "end"):
        ids.setdefault(name, max(rows, *(number + 1 for number in [-1, *ids.values()])))
    return {name: ids[name] for name in ("mask", "end")}
