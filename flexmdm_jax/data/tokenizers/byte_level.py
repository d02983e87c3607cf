"""The alphabet in which byte-level tokenizers write bytes (Radford et al., 2019, encoder.py)."""

import functools


@functools.cache
def alphabet() -> dict[str, int]:
    """Returns the byte that each printable stand-in of a byte-level vocabulary means.

    Bytes that print stand for themselves; the others are numbered upwards from 256.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


@functools.cache
def _stand_ins() -> dict[int, str]:
    return {byte: character for character, byte in alphabet().items()}


def written(data: bytes) -> str:
    """Returns bytes as a byte-level vocabulary writes them."""
    return "".join(map(_stand_ins().__getitem__, data))


def read(piece: str) -> bytes:
    """Returns the bytes that a piece of a byte-level vocabulary means.

    Raises:
      KeyError: If a character of it is no stand-in.
    """
    return bytes(map(alphabet().__getitem__, piece))
