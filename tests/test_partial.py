"""Results that are written as they come: nothing lost, nothing doubled, nothing mixed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexmdm_jax.errors import UserError
from flexmdm_jax.partial import Figures, PartialResults

ONE, TWO = {"sample": 1}, {"sample": 2}
SETTINGS = {"steps": 4, "rule": "exact_rate", "after": [1, 2]}


@given(cut=st.integers(0, 200), texts=st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_wherever_it_is_cut_it_goes_on_with_whole_lines(tmp_path_factory, cut, texts):
    out = tmp_path_factory.mktemp("out") / "r.jsonl"
    with PartialResults(out, SETTINGS) as results:
        for text in texts:
            results.append({"text": text})
    content = results.path.read_bytes()
    results.path.write_bytes(content[:cut])
    with PartialResults(out, SETTINGS) as results:
        found = [line["text"] for line in results.found]
        assert found == texts[: len(found)]
        whole = max(content[:cut].count(b"\n") - 1, 0)
        assert len(found) == whole
        for text in texts[len(found) :]:
            results.append({"text": text})
        results.finish()
    lines = out.read_text().split("\n")[:-1]
    assert [json.loads(line) for line in lines] == [{"text": text} for text in texts]
    assert not results.path.exists()


def test_nothing_has_the_final_name_before_all_is_there(tmp_path):
    out = tmp_path / "r.jsonl"
    with PartialResults(out, SETTINGS) as results:
        results.append(ONE)
        assert not out.exists()
        assert list(results.lines()) == [b'{"sample": 1}\n']
        results.finish(b"made of it")
    assert out.read_bytes() == b"made of it"
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_other_settings_are_named_and_nothing_is_lost(tmp_path):
    out = tmp_path / "r.jsonl"
    with PartialResults(out, SETTINGS) as results:
        results.append(ONE)
    before = results.path.read_bytes()
    others = SETTINGS | {"steps": 8, "num": 3}
    with pytest.raises(UserError, match=r"num was None, is 3; steps was 4, is 8\).*--overwrite"):
        PartialResults(out, others)
    assert results.path.read_bytes() == before
    with PartialResults(out, others, overwrite=True) as results:
        assert results.found == []
        results.append(TWO)
    with PartialResults(out, others) as results:
        assert results.found == [TWO]


def test_with_overwrite_the_same_settings_go_on_all_the_same(tmp_path):
    out = tmp_path / "r.jsonl"
    with PartialResults(out, SETTINGS) as results:
        results.append(ONE)
    with PartialResults(out, SETTINGS, overwrite=True) as results:
        assert results.found == [ONE]


@pytest.mark.parametrize(
    "content", [b"mine", b"mine\n", b"\xff\xfe\n", b"[1]\n", b'{"a": 1}\n', b"3\n"]
)
def test_files_of_others_stay_as_they_are(content, tmp_path):
    path = tmp_path / "r.jsonl.partial"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"move or delete it|other settings"):
        PartialResults(tmp_path / "r.jsonl", SETTINGS)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", ["3", "null", "[1]", '"text"'])
def test_lines_that_are_no_results_are_not_taken_for_some(line, tmp_path):
    path = tmp_path / "r.partial"
    content = json.dumps({"settings": SETTINGS}) + f"\n{line}\n"
    path.write_text(content)
    with pytest.raises(UserError, match=r"r\.partial holds something else; move or delete it"):
        PartialResults(tmp_path / "r", SETTINGS)
    assert path.read_text() == content


def test_settings_alone_do_not_stay(tmp_path):
    with PartialResults(tmp_path / "r", SETTINGS) as results:
        assert results.path.exists()
    assert not results.path.exists()


def test_what_has_come_to_be_in_the_place_stays(tmp_path):
    out = tmp_path / "r"
    with PartialResults(out, SETTINGS) as results:
        results.append(ONE)
        out.write_text("precious")
        with pytest.raises(UserError, match="has come to be there; pass --overwrite"):
            results.finish()
    with pytest.raises(UserError, match="has come to be there"):
        PartialResults(out, SETTINGS)
    assert out.read_text() == "precious"
    with PartialResults(out, SETTINGS, overwrite=True) as results:
        assert results.found == [ONE]
        results.finish()
    assert out.read_text() == '{"sample": 1}\n'


def test_half_of_a_surrogate_pair_comes_back(tmp_path):
    line = {"id": "\ud83d", "text": "\U0001f600"}
    with PartialResults(tmp_path / "r", SETTINGS) as results:
        results.append(line)
    with PartialResults(tmp_path / "r", SETTINGS) as results:
        assert results.found == [line]


def test_two_writers_of_one_file(tmp_path):
    with (
        PartialResults(tmp_path / "r", SETTINGS),
        pytest.raises(UserError, match="another process writes"),
    ):
        PartialResults(tmp_path / "r", SETTINGS)
    with PartialResults(tmp_path / "r", SETTINGS):
        pass


def test_figures_are_computed_once_and_kept():
    kept, computed = [], []
    figures = Figures({"old": 1}, kept.append)
    compute = lambda value: computed.append(value) or {"x": value}  # noqa: E731
    assert figures.of("old", compute, 5) == 1
    assert figures.of("new", compute, float("nan")) == {"x": None}
    assert figures.of("new", compute, 7) == {"x": None}
    assert len(computed) == 1
    assert kept == [{"new": {"x": None}}]


def test_values_of_a_label_are_kept_one_by_one_and_only_those_missing_are_computed():
    asked, kept = [], []
    figures = Figures({"squares #1": 100}, kept.append)

    def squares(missing):
        asked.append(missing)
        # As they are finished, in whatever order.
        return ((n, n * n) for n in reversed(missing))

    assert figures.each("squares", 4, squares) == [0, 100, 4, 9]
    assert asked == [[0, 2, 3]]
    assert kept == [{"squares #3": 9}, {"squares #2": 4}, {"squares #0": 0}]
    assert figures.each("squares", 4, squares) == [0, 100, 4, 9]
    assert figures.each("squares", 5, squares) == [0, 100, 4, 9, 16]
    assert asked == [[0, 2, 3], [4]]


def test_values_found_before_an_interruption_are_kept():
    kept = []

    def breaks(missing):
        yield missing[0], "found"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Figures(keep=kept.append).each("x", 3, breaks)
    assert kept == [{"x #0": "found"}]
