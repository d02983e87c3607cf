"""The tokenizer of tasks: what is written comes back, and where each symbol ends."""

import numpy as np
import pytest

from flexmdm_jax.data.tokenizers import (
    SymbolTokenizer,
    load_tokenizer,
    make_tokenizer,
    piece_behind,
    save_tokenizer,
)
from flexmdm_jax.errors import UserError

SYMBOLS = ["1,1", "(", "é", "|"]


def test_text_comes_back_through_files(tmp_path):
    save_tokenizer(SymbolTokenizer.of(SYMBOLS), tmp_path / "saved")
    for tokenizer in (
        load_tokenizer(tmp_path / "saved"),
        make_tokenizer(f"symbols:{tmp_path}/saved/symbols.json", []),
    ):
        text = "é 1,1 ( é |"
        tokens = tokenizer.encode(text)
        assert tokens == [2, 0, 1, 2, 3]
        assert tokenizer.decode([*tokens, tokenizer.vocabulary.mask]) == text
        (batch,) = tokenizer.encode_batch([text])
        assert batch.tolist() == tokens
        ends = tokenizer.ends(text, batch).tolist()
        prefixes = [text.encode()[:end].decode().split()[-1] for end in ends]
        assert prefixes == text.split()
    assert (tokenizer.vocabulary.mask, tokenizer.vocabulary.end) == (4, 5)


@pytest.mark.parametrize("content", ['{"a": 0}', '["a", "b c"]', '["a", ""]', '["a", "a"]', "[1]"])
def test_what_is_no_list_of_symbols_is_named(tmp_path, content):
    path = tmp_path / "symbols.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"^{path} is no list of symbols \(expected a JSON list"):
        make_tokenizer(f"symbols:{path}", [])


def test_words_that_are_shown_one_by_one_stay_apart():
    tokenizer = SymbolTokenizer.of(SYMBOLS)
    text = "é 1,1 ( é |"
    shown = b"".join(piece_behind(tokenizer, token) for token in tokenizer.encode(text))
    assert shown.decode() == f" {text}"
    assert piece_behind(tokenizer, tokenizer.vocabulary.mask) == b""


def test_what_is_no_symbol_is_named():
    with pytest.raises(UserError, match="'2,2' is no symbol"):
        SymbolTokenizer.of(SYMBOLS).encode("1,1 2,2")
    assert SymbolTokenizer.of(SYMBOLS).ends("", np.array([], int)).tolist() == []
