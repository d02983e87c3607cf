"""JSON files that other libraries write: read whole, or refused by the name of a field."""

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from flexmdm_jax.errors import UserError


def names(text: str) -> frozenset[str]:
    """Returns the names in a text with spaces between them, as long lists read best."""
    return frozenset(text.split())


@dataclasses.dataclass(frozen=True)
class Form:
    """What is known of the fields of a file, or of a group in it.

    A field that is in none of the lists may mean anything, so it is refused unless it says nothing.

    Attributes:
      meaning: What the fields decide, "weights" or "tokens"; for messages.
      used: Fields that the reader takes into account.
      fixed: Fields that have to have one of these values; absent, they have the first.
      harmless: Fields that decide nothing of what is read, whatever they say.
    """

    meaning: str
    used: frozenset[str]
    fixed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    harmless: frozenset[str] = frozenset()

    def check(self, values: Mapping[str, Any], where: Any, group: str = "") -> None:
        """Raises UserError for a field that the reader would misunderstand.

        Args:
          values: The fields.
          where: The file, for messages.
          group: What stands before a field's name in messages, such as `model.`.
        """
        # Fixed ones first: unknown ones may be details of what they choose.
        for name, value in sorted(values.items(), key=lambda item: item[0] not in self.fixed):
            said = f"{where}: {group}{name} = {_short(value)}"
            if name in self.fixed and value not in self.fixed[name]:
                raise UserError(f"{said}; only {self.fixed[name][0]!r} can be imported")
            known = name in self.used or name in self.fixed or name in self.harmless
            if not known and not _says_nothing(value):
                raise UserError(
                    f"{said} is unknown to flexmdm_jax, and {self.meaning} might mean something "
                    "else with it; if it is known not to matter, remove it from a copy of the file"
                )


def _says_nothing(value: Any) -> bool:
    """Returns whether a field says no more than its absence: what is off, empty or null."""
    return value is None or value is False or value in ("", [], {})


def _short(value: Any, longest: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def read_json(path: pathlib.Path, hint: str) -> dict[str, Any]:
    """Returns the fields in a JSON file.

    Args:
      path: The file.
      hint: What to do if it is not there.

    Raises:
      UserError: If it cannot be read, or holds no JSON or no fields.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {hint}") from None
    except ValueError:
        raise UserError(f"{path} is not JSON; copy or download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no fields but {_short(values)}; copy or download it again")
    return values


@contextlib.contextmanager
def reading_fields(where: Any, group: str = "") -> Iterator[None]:
    """Makes a UserError of what whole(), positive() and flag() raise.

    Args:
      where: The file, for messages.
      group: What stands before a field's name in messages, such as `model.`.
    """
    try:
        yield
    except KeyError as error:
        (name,) = error.args
        raise UserError(f"{where} has no field {group + name if group else repr(name)}") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {group}{error}") from None


def whole(values: Mapping[str, Any], name: str, least: int = 1) -> int:
    """Returns a field that is a whole number.

    Raises:
      KeyError: If it is absent.
      ValueError: If it is something else, or below the least.
    """
    value = values[name]
    if type(value) is not int or value < least:
        raise ValueError(f"{name} = {_short(value)}; expected a whole number, at least {least}")
    return value


def positive(values: Mapping[str, Any], name: str) -> float:
    """Returns a field that is a positive number.

    Raises:
      KeyError: If it is absent.
      ValueError: If it is something else.
    """
    value = values[name]
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{name} = {_short(value)}; expected a positive number")
    return float(value)


def flag(values: Mapping[str, Any], name: str, default: bool) -> bool:
    """Returns a field that is true or false, or the default where it is absent.

    Raises:
      ValueError: If it is something else.
    """
    value = values.get(name, default)
    if type(value) is not bool:
        raise ValueError(f"{name} = {_short(value)}; expected true or false")
    return value
