"""Sources: every document once, however a corpus is cut, and bad text named."""

import gzip
import itertools
import json
import shutil

import pyarrow
import pytest
import zstandard
from array_record.python import array_record_module
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from flexmdm_jax.data.preparation.splitting import paragraphs
from flexmdm_jax.data.sources.corpora import (
    SOURCES,
    found_in,
    parse_source,
    read_documents,
    units_of,
)
from flexmdm_jax.data.sources.documents import Part
from flexmdm_jax.errors import UserError

TEXTS = ["one", "zwei ü", "", "three\n\nlines", "🙂"]
LINES = "".join(json.dumps({"body": text, "id": 3}) + "\n" for text in TEXTS)


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


@pytest.mark.parametrize("name", ["run[1]", "a*b", "what?", "[!x]", "x#y", "é 🙂", "**"])
def test_what_exists_is_a_name_whatever_characters_it_holds(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.jsonl").write_text(LINES)
    (folder / "other.jsonl").write_text('{"body": "other"}')
    # What the name would mean as a pattern.
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / "run1.jsonl").write_text('{"body": "wrong"}')
    assert list(read_documents(f"jsonl:{folder}/{name}.jsonl#body")) == TEXTS
    assert set(read_documents(f"jsonl:{folder}/*.jsonl#body")) == {*TEXTS, "other"}
    (folder / "plain.txt").write_text("text")
    assert list(read_documents(f"text:{folder}/plain.txt")) == ["text"]
    if "#" in name:
        error = next(
            parse_source(f"jsonl:{folder}/{name}.jsonl").documents(
                Part(str(folder / f"{name}.jsonl"), 0, 9, 9)
            )
        )
        assert "no field 'text'" in str(error)


def test_a_file_of_several_names_is_read_once(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.txt").write_text("a")
    (tmp_path / "deep" / "er" / "up").symlink_to("../..")
    (tmp_path / "short.txt").symlink_to("deep/er/a.txt")
    (tmp_path / "broken.txt").symlink_to("nowhere")
    for pattern in ("**/*.txt", "deep/**/*.txt"):
        [part] = parse_source(f"text:{tmp_path}/{pattern}").parts(1)
        assert part.path == str(tmp_path / ("short.txt" if pattern[0] == "*" else "deep/er/a.txt"))


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name, text in (("a.txt", "first"), ("b.jsonl", '{"text": "first"}')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert list(read_documents(f"text:{tmp_path}/a.txt")) == ["first"]
    assert list(read_documents(f"jsonl:{tmp_path}/b.jsonl")) == ["first"]


RUBBISH = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=30).map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("text"), inner),
        max_leaves=4,
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"9" * 5000, b'{"text": ' + b"9" * 5000 + b"}", b"[" * 20_000]),
)


@pytest.mark.parametrize("kind", ["text", "jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(RUBBISH, max_size=3))
def test_rubbish_is_text_or_named_and_never_raises_anything_else(tmp_path, kind, lines):
    path = tmp_path / f"rubbish.{kind}"
    content = b"\n".join(lines)
    packed = {"jsonl.gz": gzip.compress, "jsonl.zst": zstandard.compress}.get(kind, bytes)
    # Half of the packed files are damaged ones.
    path.write_bytes(packed(content) if len(content) % 2 else content)
    source = parse_source(f"{kind.split('.')[0]}:{path}")
    try:
        parts = source.parts(256)
    except UserError:
        return
    for found in itertools.chain.from_iterable(map(source.documents, parts)):
        assert isinstance(found, (str, UserError))
        if isinstance(found, UserError):
            assert str(path) in str(found)


def test_jsonl_plain_and_compressed(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES + "\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    frame = zstandard.compress(LINES.encode())
    (tmp_path / "c.jsonl.zst").write_bytes(frame + frame)
    assert list(read_documents(f"jsonl:{tmp_path}/*.jsonl*#body")) == TEXTS * 4


@pytest.mark.parametrize("part_bytes", [1, 7, 26, 27, 28, 1000])
def test_lines_fall_into_one_part_each(tmp_path, part_bytes):
    (tmp_path / "a.jsonl").write_text(LINES.rstrip())
    source = parse_source(f"jsonl:{tmp_path}/a.jsonl#body")
    found = [text for part in source.parts(part_bytes) for text in source.documents(part)]
    assert found == TEXTS


@pytest.mark.parametrize("part_bytes", [1, 30, 1000])
def test_bad_lines_are_counted_from_the_start_of_the_file(tmp_path, part_bytes):
    (tmp_path / "a.jsonl").write_text(LINES + "{}\n" + LINES)
    source = parse_source(f"jsonl:{tmp_path}/a.jsonl#body")
    found = [text for part in source.parts(part_bytes) for text in source.documents(part)]
    (error,) = (text for text in found if isinstance(text, UserError))
    assert str(error).startswith(f"{tmp_path}/a.jsonl, line 6: no field 'body'")
    assert [text for text in found if text is not error] == TEXTS * 2


def _write_table(path, group=2):
    parquet.write_table(pyarrow.table({"body": TEXTS}), path, row_group_size=group)


def test_parquet_by_row_groups(tmp_path):
    _write_table(tmp_path / "a.parquet")
    source = parse_source(f"parquet:{tmp_path}/*.parquet#body")
    parts = source.parts(1)
    assert [(part.start, part.stop) for part in parts] == [(0, 1), (1, 2), (2, 3)]
    assert [text for part in parts for text in source.documents(part)] == TEXTS


def _write_saved_dataset(folder, columns):
    """What save_to_disk() of Hugging Face's datasets leaves."""
    folder.mkdir(parents=True)
    table = pyarrow.table(columns)
    for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"):
        with pyarrow.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    files = [{"filename": f"data-0000{n}-of-00002.arrow"} for n in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    (folder / "dataset_info.json").write_text("{}")


def test_saved_datasets_of_hugging_face(tmp_path):
    _write_saved_dataset(tmp_path / "saved" / "train", {"id": [1, 2, 3, 4, 5], "text": TEXTS})
    assert list(read_documents(f"hf:{tmp_path}/saved/train")) == TEXTS * 2
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(UserError, match=r"choose one, as in hf:.*/saved/train"):
        list(read_documents(f"hf:{tmp_path}/saved"))
    with pytest.raises(UserError, match="name one of id, text with #field"):
        list(read_documents(f"hf:{tmp_path}/saved/train#body"))
    shutil.rmtree(tmp_path / "saved" / "train")
    with pytest.raises(UserError, match=r"choose one, as in hf:.*/saved/train"):
        list(read_documents(f"hf:{tmp_path}/saved"))


def _wire(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer: key, length below 128, bytes."""
    return bytes([number << 3 | 2, len(data)]) + data


def _write_tfds(folder, texts):
    """A prepared TFDS corpus: tf.train.Example records, as `tfds build` writes them."""
    folder.mkdir(parents=True)
    path = folder / "mini-train.array_record-00000-of-00001"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for text in texts:
        feature = _wire(1, _wire(1, text.encode()))
        writer.write(_wire(1, _wire(1, _wire(1, b"text") + _wire(2, feature))))
    writer.close()
    split = {
        "name": "train",
        "numBytes": "9",
        "shardLengths": [str(len(texts))],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": "mini", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    core = "tensorflow_datasets.core.features"
    text = {"pythonClassName": f"{core}.text_feature.Text", "text": {}}
    features = {"features": {"text": text}}
    kind = f"{core}.features_dict.FeaturesDict"
    (folder / "features.json").write_text(
        json.dumps({"pythonClassName": kind, "featuresDict": features})
    )


def test_tfds_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    _write_tfds(tmp_path / "mini" / "1.0.0", TEXTS)
    assert list(read_documents("tfds:mini")) == TEXTS
    source = parse_source("tfds:mini:train#body")
    assert "example 0: no field 'body'" in str(next(source.documents(source.parts(1)[0])))
    with pytest.raises(UserError, match="tfds build nothing"):
        list(read_documents("tfds:nothing"))


def test_openwebtext_says_what_it_expects(tmp_path):
    with pytest.raises(UserError, match=r"0 of the 80 files .* hf download Skylion007/openwebtext"):
        list(read_documents(f"openwebtext:{tmp_path}"))
    (tmp_path / "plain_text").mkdir()
    for number in range(80):
        table = pyarrow.table({"text": [f"document {number}"]})
        parquet.write_table(table, tmp_path / "plain_text" / f"train-{number:05d}-of-00080.parquet")
    expected = [f"document {number}" for number in range(80)]
    assert list(read_documents(f"openwebtext:{tmp_path}")) == expected


def _corpora_with_bad_documents(tmp_path, monkeypatch):
    """Specifications by kind; the documents at odd places are unusable."""
    texts = ["good", None, "ü\n\nmore", None, "🙂", "", None]
    lines = "\n\n".join("{}" if text is None else json.dumps({"text": text}) for text in texts)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for number, text in enumerate(texts):
        data = b"\xff" if text is None else text.encode()
        (tmp_path / f"{number}.txt").write_bytes(data)
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=2)
    _write_saved_dataset(tmp_path / "saved", {"text": texts})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    _write_tfds(tmp_path / "mini" / "1.0.0", TEXTS)
    (tmp_path / "owt").mkdir()
    for number in range(80):
        name = f"train-{number:05d}-of-00080.parquet"
        parquet.write_table(pyarrow.table({"text": texts[:2]}), tmp_path / "owt" / name)
    return {
        "text": f"text:{tmp_path}/*.txt",
        "jsonl": f"jsonl:{tmp_path}/*.jsonl*",
        "parquet": f"parquet:{tmp_path}/*.parquet",
        "hf": f"hf:{tmp_path}/saved",
        "tfds": "tfds:mini:train#body",
        "openwebtext": f"openwebtext:{tmp_path}/owt",
    }


def test_a_documents_place_is_what_errors_call_it(tmp_path, monkeypatch):
    specs = _corpora_with_bad_documents(tmp_path, monkeypatch)
    assert set(specs) | {"stdlib"} == set(SOURCES)
    for kind, spec in specs.items():
        source, bad, places = parse_source(spec), 0, set()
        for part in source.parts(30):
            for number, found in enumerate(source.documents(part)):
                place = source.place(part, number)
                assert place not in places
                places.add(place)
                if isinstance(found, UserError):
                    bad += 1
                    assert str(found).startswith(f"{place}: "), kind
        assert bad >= 3


def test_documents_know_their_place():
    source = parse_source("stdlib")
    documents = list(found_in(source, source.parts(1)))
    from pydoc_data import topics

    assert documents[7].place() == f"stdlib, topic {sorted(topics.topics)[7]!r}"
    assert [document.text for document in documents] == list(read_documents("stdlib"))


@pytest.mark.parametrize("name", ["a,b", "a,max_length=3", "data=x,y"])
def test_commas_are_part_of_a_name(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "x,y.jsonl").write_text(LINES)
    (tmp_path / name / "x,y.txt").write_text("text")
    assert list(read_documents(f"jsonl:{tmp_path}/{name}/x,*.jsonl#body")) == TEXTS
    assert list(read_documents(f"text:{tmp_path}/{name}/x,y.txt")) == ["text"]


def test_units_of_work_keep_the_order_of_parts():
    parts = [Part(str(n), 0, 1, size) for n, size in enumerate([5, 5, 30, 1, 1, 1, 9])]
    units = units_of(parts, 10)
    assert [part for unit in units for part in unit] == parts
    assert [len(unit) for unit in units] == [2, 1, 4]


DAMAGED = gzip.compress(LINES.encode() * 100, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"abc\xff", r"x\.txt: byte 3 is not UTF-8"),
        ("x.jsonl", b'{"text": "a"}\n{"text"', r"x\.jsonl, line 2: not JSON"),
        ("x.jsonl", b'{"body": "a"}', r"line 1: no field 'text'"),
        ("x.jsonl", b'{"text": 3}', r"line 1: field 'text' is not text"),
        ("x.jsonl", b'{"text": "\xff"}', r"line 1: byte 10 is not UTF-8"),
        ("x.jsonl", rb'{"text": "\ud800"}', r"line 1: field 'text' holds half a surrogate"),
        ("x.jsonl.gz", b"no gzip", r"x\.jsonl\.gz: damaged after line 0"),
        ("x.jsonl.gz#body", DAMAGED[: len(DAMAGED) // 2], r"damaged after line \d+ \("),
        ("x.jsonl.gz#body", DAMAGED[:-8] + bytes(8), r"damaged after line 500 \("),
        ("x.jsonl.zst", zstandard.compress(b"{}")[:-2], r"x\.jsonl\.zst: damaged after line 0"),
        ("x.jsonl.zst", b"no zst", r"x\.jsonl\.zst: damaged after line 0"),
        ("x.parquet", b"PAR1 or not", r"x\.parquet: not a Parquet file"),
    ],
    ids=itertools.count(),
)
def test_bad_text_is_named(tmp_path, name, content, message):
    (tmp_path / name.partition("#")[0]).write_bytes(content)
    kind = name.partition("#")[0].split(".")[1].replace("txt", "text")
    with pytest.raises(UserError, match=message):
        list(read_documents(f"{kind}:{tmp_path}/{name}"))


def test_bad_columns_are_named(tmp_path):
    nulls = pyarrow.table({"body": ["a", None]})
    parquet.write_table(nulls, tmp_path / "null.parquet")
    with pytest.raises(UserError, match=r"null\.parquet, row 1: field 'body' is not text"):
        list(read_documents(f"parquet:{tmp_path}/null.parquet#body"))
    with pytest.raises(UserError, match="no field 'text'; name one of body with #field"):
        list(read_documents(f"parquet:{tmp_path}/null.parquet"))
    _write_table(tmp_path / "bad.parquet")
    data = bytearray((tmp_path / "bad.parquet").read_bytes())
    data[4:60] = bytes(56)
    (tmp_path / "bad.parquet").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"bad\.parquet: damaged"):
        list(read_documents(f"parquet:{tmp_path}/bad.parquet#body"))


@pytest.mark.parametrize(
    "source", ["text:/nowhere/*.txt", "jsonl:/nowhere/*", "text:", "csv:x", ""]
)
def test_unusable_sources(source):
    with pytest.raises(UserError, match=r"no file matches|unknown source"):
        list(read_documents(source))


def test_folders_are_no_files(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match=rf"is a folder; name files in it, as '{tmp_path}/\*'"):
        list(read_documents(f"text:{tmp_path}"))
