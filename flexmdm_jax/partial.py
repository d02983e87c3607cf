"""Results written as they come, under a temporary name, and taken up again if interrupted."""

import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_bytes, json_text, lock, whole_lines, write_atomically
from flexmdm_jax.progress import progress_bar


class PartialResults:
    """JSON lines in NAME.partial: what they were made with, then what is made, one by one.

    Used as a context, within which the file is this process's. One that an interrupted run left is
    taken up again if it was made with the same settings.
    """

    def __init__(self, out: pathlib.Path, settings: Mapping[str, Any], *, overwrite: bool = False):
        """Opens the file, new or old.

        Args:
          out: What the file will be, once it is complete.
          settings: All that decides what is made, as JSON has it.
          overwrite: Replace out, and begin anew where the settings are others.

        Raises:
          UserError: If the file is at work in another process, or was made with other settings, or
            out is there.
        """
        self.path = out.with_name(f"{out.name}.partial")
        self._out, self._overwrite = out, overwrite
        out.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        lock(self._file, f"another process writes {self.path}; wait or name another")
        self._check_out()
        header = {"settings": dict(settings)}
        # As it comes back from the file.
        self.found = self._take_up(json.loads(json_text(header)), overwrite)

    def _check_out(self) -> None:
        """Raises UserError if another process has finished, or put something in the place."""
        if self._out.exists() and not self._overwrite:
            raise UserError(
                f"{self._out} has come to be there; pass --overwrite to replace it, or move it and "
                "run the same command again"
            )

    def _take_up(self, header: dict[str, Any], overwrite: bool) -> list[dict[str, Any]]:
        """Returns what the file holds already, the header not counted; a torn last line goes."""
        self._file.seek(0)
        try:
            written = self._file.read()
            content = whole_lines(written)
            theirs, *found = [json.loads(line) for line in content.splitlines()] or [None]
        except ValueError:
            raise UserError(f"{self.path} holds something else; move or delete it") from None
        torn_at_once = theirs is None and _line(header).startswith(written)
        if not torn_at_once and not all(isinstance(line, dict) for line in (theirs, *found)):
            raise UserError(f"{self.path} holds something else; move or delete it")
        if theirs != header:
            if theirs is not None and not overwrite:
                raise UserError(
                    f"{self.path} holds unfinished results of other settings "
                    f"({_differences(theirs, header)}); finish it with its own, delete it, "
                    "or pass --overwrite"
                )
            content, found = b"", []
        # Whatever was read of a file, it is appended to at its end.
        self._file.truncate(len(content))
        if not content:
            self.append(header)
        return found

    def append(self, value: Mapping[str, Any]) -> None:
        """Adds a line; it is on its way to the disk when this returns."""
        self._file.write(_line(value))
        self._file.flush()

    def lines(self) -> Iterator[bytes]:
        """Yields the lines, those that were found and those that were added."""
        self._file.seek(0)
        next(self._file)
        yield from self._file

    def finish(self, contents: bytes | None = None) -> None:
        """Gives the results their name: the lines, or other contents made of them.

        Raises:
          UserError: If something has that name by now; the results stay in the partial file.
        """
        self._check_out()
        if contents is None:
            contents = b"".join(self.lines())
        write_atomically(self._out, contents)
        self.path.unlink()

    def __enter__(self) -> "PartialResults":
        return self

    def __exit__(self, *_) -> None:
        # Settings alone would only be in the way of others.
        if self.path.exists() and not any(self.lines()):
            self.path.unlink()
        self._file.close()


def _line(value: Any) -> bytes:
    return json_bytes(value) + b"\n"


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    before = theirs.get("settings")
    if not isinstance(before, dict):
        return "it has no settings"
    after = ours["settings"]
    names = sorted(name for name in before.keys() | after if before.get(name) != after.get(name))
    return "; ".join(f"{name} was {before.get(name)!r}, is {after.get(name)!r}" for name in names)


class Figures:
    """Figures by label, each computed once: what an interrupted evaluation found is not lost."""

    def __init__(
        self,
        found: Mapping[str, Any] | None = None,
        keep: Callable[[Any], None] = lambda _: None,
        *,
        quiet: bool = True,
    ):
        """Starts with what was found before; keep() is told of each {label: figures} to come.

        Unless quiet, bars show how far several values of a label have come.
        """
        self._found = dict(found or {})
        self._keep, self._quiet = keep, quiet

    def of(self, label: str, compute: Callable[..., Any], *arguments: Any) -> Any:
        """Returns what was found under a label, or what JSON makes of compute(*arguments)."""
        if label not in self._found:
            self._found[label] = json.loads(json_text(compute(*arguments)))
            self._keep({label: self._found[label]})
        return self._found[label]

    def each(
        self,
        label: str,
        count: int,
        compute: Callable[[list[int]], Iterable[tuple[int, Any]]],
        *,
        unit: str = "it",
    ) -> list[Any]:
        """Returns values under a label by number, each kept as soon as it is there.

        Args:
          label: Of all of them.
          count: How many there are; their numbers begin at 0.
          compute: The numbers that are missing -> (number, value) in any order.
          unit: What a progress bar counts.
        """
        names = [f"{label} #{number}" for number in range(count)]
        missing = [number for number, name in enumerate(names) if name not in self._found]
        # An iterable that is not asked costs nothing.
        values = compute(missing) if missing else ()
        done = count - len(missing)
        bar = progress_bar(
            values, total=count, initial=done, desc=label, unit=unit, disable=self._quiet
        )
        for number, value in bar:
            self.of(names[number], lambda value=value: value)
        return [self._found[name] for name in names]
