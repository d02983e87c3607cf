"""Writing files so that nothing is lost or seen half written."""

import contextlib
import difflib
import errno
import fcntl
import io
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

from flexmdm_jax.errors import UserError


def check_local(text: str) -> str:
    """Returns a path or pattern as it is.

    Raises:
      UserError: If it is the address of an object store, which would pass for a folder's name, or
        begins with a ~ that the shell has not made a home of.
    """
    if text.split("/")[0] == "~":
        raise UserError(f"{text}: the shell leaves this ~ as it is; write $HOME in its place")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise UserError(
            f"{text} is an address, not a path; mount what it names, with gcsfuse for example, and "
            "give the folder there"
        )
    return text


def new_file(name: str, overwrite: bool) -> pathlib.Path:
    """Returns the path of a file to write.

    Raises:
      UserError: If it exists and may not be overwritten, or its folder is a file.
    """
    path = pathlib.Path(name)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; name another file or pass --overwrite")
    check_writable(path)
    return path


def check_writable(path: pathlib.Path) -> None:
    """Raises UserError unless something may be written at a path; its folder may be new."""
    try:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        # Without a name, so that several processes may ask at once.
        tempfile.TemporaryFile(dir=folder).close()
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} cannot be written: a part of this path is a file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; name another") from None


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that it is never seen half written.

    Raises:
      OSError: If the folder cannot be written or the disk is full; an old file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def whole_lines(content: bytes) -> bytes:
    """Returns what there is of whole lines, without one that was not written to its end."""
    return content[: content.rfind(b"\n") + 1]


def cut_torn_line(path: pathlib.Path) -> None:
    """Cuts off the last line of a file, if there is one that was not written to its end."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(len(whole_lines(file.read())))


@contextlib.contextmanager
def locked(path: pathlib.Path, busy: str) -> Iterator[None]:
    """Holds the lock file at a path, which is free again when its process ends, however it does.

    Where the file system knows no locks nothing is held.

    Raises:
      UserError: With the text of busy, if another process holds it.
    """
    with path.open("w") as file:
        lock(file, busy)
        yield


def lock(file: IO, busy: str) -> None:
    """Locks an open file until it is closed; see locked()."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(busy) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    # Its holder has just given up and deleted it.
    if not os.fstat(file.fileno()).st_nlink:
        raise UserError(busy)


def nearest_folder(folder: pathlib.Path, file: str) -> str:
    """Returns the end of a message about a folder without a file: one beside it that has it."""
    try:
        names = [path.parent.name for path in folder.parent.glob(f"*/{file}")]
    except OSError:
        return ""
    close = difflib.get_close_matches(folder.name, names, n=1)
    return f"; did you mean {folder.with_name(close[0])}?" if close else ""


def json_text(values: Any, **options: Any) -> str:
    """Returns values as JSON; whatever the package writes as JSON goes through here.

    JSON knows no NaN and no infinity, and other readers stop at what Python writes for them: a
    figure that is not finite becomes null.

    Args:
      values: Numbers, texts, lists, tuples and dicts of them.
      **options: Those of json.dumps().
    """
    return json.dumps(_finite(values), allow_nan=False, **options)


def json_bytes(values: Any, **options: Any) -> bytes:
    """Returns json_text() in UTF-8, with the characters of every language as they are.

    Half of a surrogate pair, which a name or a message may hold, is spelled as JSON has it.
    """
    return json_text(values, ensure_ascii=False, **options).encode(errors="backslashreplace")


def _finite(values: Any) -> Any:
    """Returns values with None in place of numbers that are not finite."""
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def png_of(figure: Any) -> bytes:
    """Returns a matplotlib figure as a PNG of 150 dots an inch."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    return png.getvalue()


def refuse_pattern(folder: pathlib.Path) -> None:
    """Raises UserError if Orbax would take a folder's name for a pattern and lose what is in it."""
    if found := re.search(r"[*?[]", str(folder.absolute())):
        raise UserError(
            f"{folder.absolute()}: checkpoints cannot lie in a folder with {found[0]!r} in its "
            "name; choose another"
        )


def refuse_existing(folder: pathlib.Path) -> None:
    """Raises UserError if a folder is there and holds anything, or cannot be made."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already; choose another --out or delete it first")
    check_writable(folder)


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to fill that takes its name when the block ends, and is gone if it fails.

    Raises:
      UserError: If the path holds files already.
    """
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
