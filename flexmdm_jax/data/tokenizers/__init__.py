"""Tokenizers: text to ids and back, each with a Vocabulary whose MASK and END are not data."""

from flexmdm_jax.data.tokenizers.base import (
    Tokenizer,
    encode_at,
    encoding_error,
    failure_of,
    piece_behind,
)
from flexmdm_jax.data.tokenizers.gpt2 import GPT2Tokenizer
from flexmdm_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from flexmdm_jax.data.tokenizers.registry import (
    TOKENIZERS,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
    tokenizer_hash,
    tokenizer_spec,
)
from flexmdm_jax.data.tokenizers.roundtrip import RoundTrip
from flexmdm_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from flexmdm_jax.data.tokenizers.symbols import SymbolTokenizer
from flexmdm_jax.data.tokenizers.utf8 import ByteTokenizer

__all__ = [
    "TOKENIZERS",
    "ByteTokenizer",
    "GPT2Tokenizer",
    "HuggingFaceTokenizer",
    "RoundTrip",
    "SentencePieceTokenizer",
    "SymbolTokenizer",
    "Tokenizer",
    "encode_at",
    "encoding_error",
    "failure_of",
    "load_tokenizer",
    "make_tokenizer",
    "piece_behind",
    "save_tokenizer",
    "tokenizer_hash",
    "tokenizer_spec",
]
