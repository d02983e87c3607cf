"""A file is what its name says, there as a whole or not at all."""

import io
import pathlib

import PIL.Image
import pytest
import traces

from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.trace.page import page
from flexmdm_jax.generation.trace.writing import renderer, write_trace


@pytest.fixture(scope="module")
def arguments():
    pieces = traces.Pieces()
    return [traces.trace(pieces, " a text", prompt="Here is")], pieces, traces.MASK


def test_a_page(tmp_path, arguments):
    path = tmp_path / "folder" / "trace.html"
    write_trace(path, *arguments)
    assert path.read_text("utf-8") == page(*arguments)
    assert [file.name for file in path.parent.iterdir()] == ["trace.html"]


@pytest.mark.parametrize("name", ["trace.gif", "TRACE.GIF"])
def test_an_animation(tmp_path, arguments, name):
    write_trace(tmp_path / name, *arguments)
    image = PIL.Image.open(io.BytesIO((tmp_path / name).read_bytes()))
    assert image.format == "GIF"
    assert image.is_animated


@pytest.mark.parametrize("name", ["trace.mp4", "trace", "html", "trace.html.gz"])
def test_other_names_are_refused_before_anything_is_made(tmp_path, arguments, name):
    with pytest.raises(UserError, match=rf"{name}: traces are written as \.html.* or \.gif"):
        renderer(pathlib.Path(name))
    with pytest.raises(UserError):
        write_trace(tmp_path / name, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_made_leaves_the_old_one(tmp_path, arguments):
    path = tmp_path / "trace.html"
    path.write_text("old")
    shown, _, mask = arguments

    def broken(token):
        raise RuntimeError("no such token")

    with pytest.raises(RuntimeError, match="no such token"):
        write_trace(path, shown, broken, mask)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["trace.html"]
