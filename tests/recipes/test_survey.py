"""What somebody's file may hold, and what is said of files that nothing can be learned from."""

import pytest

from flexmdm_jax.errors import UserError
from flexmdm_jax.recipes.survey import survey


def _paragraphs(count):
    return "\n\n".join(f"Paragraph {n}\nof two lines." for n in range(count))


def test_paragraphs_are_texts(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(_paragraphs(60))
    found = survey(str(path))
    assert found.unit == "paragraph"
    assert len(found.texts) == 60
    assert found.texts[3] == "Paragraph 3\nof two lines."
    assert found.num_bytes == path.stat().st_size
    assert not found.cut
    assert found.longest(0.0) == len(found.texts[0])
    assert found.longest(1.0) == len(found.texts[-1])
    assert found.characters == sum(len(text) for text in found.texts)


def test_lines_are_texts_where_there_are_no_blank_ones(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"  line {n}\n" for n in range(70)))
    found = survey(str(tmp_path / "list.txt"))
    assert found.unit == "line"
    assert found.texts[:2] == ["line 0", "line 1"]


def test_several_files_are_one_text(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"of {name}\n\n" + _paragraphs(60))
    found = survey(f"{tmp_path}/*.txt")
    assert len(found.texts) == 122
    assert (found.texts[0], found.texts[61]) == ("of a", "of b")


def test_of_a_huge_file_the_beginning_is_read(tmp_path):
    path = tmp_path / "huge.txt"
    whole = "".join(f"Zeile {n} für alle\n" for n in range(5000))
    path.write_text(whole, encoding="utf-8")
    # Wherever the cut falls, in a character or a line.
    for most in range(3000, 3020):
        found = survey(str(path), most_bytes=most)
        assert found.cut
        assert found.num_bytes == len(whole.encode())
        read = whole.encode()[:most].decode(errors="ignore").splitlines()
        assert found.texts == read[: len(found.texts)]
        assert len(read) - len(found.texts) <= 1
    with path.open("r+b") as file:
        # A gigabyte that nobody reads.
        file.truncate(1 << 30)
    assert survey(str(path), most_bytes=3000).num_bytes == 1 << 30


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "book.txt is empty; name a file with text in it"),
        (b" \n \n", "book.txt is empty"),
        (b"\x7fELF\0\0", "book.txt is no text: it holds zero bytes"),
        (b"caf\xe9 " * 100, "book.txt: byte 3 is not UTF-8; convert the file"),
        (b"one line, however long " * 1000, "book.txt holds 1 paragraph, too few to learn from"),
        (b"a\n\nb", "book.txt holds 2 different paragraphs, too few"),
        (b"again and again\n" * 500, "book.txt holds 1 line, too few"),
    ],
)
def test_what_is_no_text_to_learn_from_is_one_line(tmp_path, data, message):
    path = tmp_path / "book.txt"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        survey(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_paths_that_lead_nowhere_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no file matches '.*nowhere\.txt'; check the path"):
        survey(str(tmp_path / "nowhere.txt"))
    with pytest.raises(UserError, match=r"no file matches '.*\*\.md'"):
        survey(f"{tmp_path}/*.md")
    with pytest.raises(UserError, match=r"is a folder; name files in it, as '.*/\*'"):
        survey(str(tmp_path))
