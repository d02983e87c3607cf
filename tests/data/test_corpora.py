"""Sources and splitting: no token lost or invented, and bad text named."""

import gzip
import json

import pytest

from flexmdm_jax.data.corpora import read_documents
from flexmdm_jax.data.splitting import paragraphs
from flexmdm_jax.errors import UserError


def test_stdlib_is_english_prose_in_paragraphs():
    documents = list(read_documents("stdlib"))
    text = "\n\n".join(documents)
    assert len(text) > 400_000
    assert sum(len(paragraphs(document)) for document in documents) > 2_000
    assert text.count(" the ") > 1_000


def test_files_are_read_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first ü")
    assert list(read_documents(f"text:{tmp_path}/*.txt")) == ["first ü", "second"]


def test_jsonl_plain_and_compressed(tmp_path):
    lines = "\n".join(json.dumps({"body": text}) for text in ("one", "two"))
    (tmp_path / "a.jsonl").write_text(lines + "\n\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    found = list(read_documents(f"jsonl:{tmp_path}/*.jsonl*#body"))
    assert found == ["one", "two", "one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"abc\xff", r"x\.txt: byte 3 is not UTF-8"),
        ("x.jsonl", b'{"text": "a"}\n{"text"', r"x\.jsonl, line 2: not JSON"),
        ("x.jsonl", b'{"body": "a"}', r"line 1: no field 'text'"),
        ("x.jsonl", b'{"text": 3}', r"line 1: field 'text' is not text"),
        ("x.jsonl", b'{"text": "\xff"}', r"line 1: byte 10 is not UTF-8"),
    ],
)
def test_bad_text_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    kind = "text" if name.endswith("txt") else "jsonl"
    with pytest.raises(UserError, match=message):
        list(read_documents(f"{kind}:{tmp_path}/{name}"))


@pytest.mark.parametrize("source", ["text:/nowhere/*.txt", "jsonl:/nowhere/*", "csv:x", ""])
def test_unusable_sources(source):
    with pytest.raises(UserError, match=r"no file matches|unknown source"):
        list(read_documents(source))
