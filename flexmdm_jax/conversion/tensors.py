"""Named tensors in files: safetensors read and written block by block, .bin through PyTorch.

The safetensors library maps whole files into memory and writes only what it is given whole; the
format is simple enough (a JSON header, then the bytes) to be streamed here.
"""

import contextlib
import json
import math
import pathlib
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from flexmdm_jax.conversion.pickles import load_pickle
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# Longer headers are damage: the format itself sets this limit.
_LONGEST_HEADER = 100_000_000
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Tensor:
    """A tensor in a file, read by rows.

    Attributes:
      shape: Its shape.
      dtype: Its NumPy type.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[int, int], np.ndarray]
    ):
        """Describes a tensor; read(start, stop) returns elements of the flat array."""
        self.shape = shape
        self.dtype = dtype
        self._read = read

    @classmethod
    def of_rows(
        cls, shape: tuple[int, ...], dtype: np.dtype, rows: Callable[[int, int], np.ndarray]
    ) -> "Tensor":
        """Returns a tensor whose rows(start, stop) are made by a function."""
        width = math.prod(shape[1:])
        return cls(
            shape, dtype, lambda start, stop: rows(start // width, stop // width).reshape(-1)
        )

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns rows start to stop."""
        width = math.prod(self.shape[1:])
        flat = self._read(start * width, stop * width)
        return flat.reshape(stop - start, *self.shape[1:])

    def all(self) -> np.ndarray:
        """Returns the whole tensor."""
        return self._read(0, math.prod(self.shape)).reshape(self.shape)


def open_tensors(folder: pathlib.Path, buffers: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Returns the tensors of a model folder by name; none is read yet.

    Looks for model.safetensors, shards with an index, or pytorch_model.bin and its shards.

    Args:
      folder: Of the model.
      buffers: What the names of tensors end with that are left out, whatever their types.

    Raises:
      UserError: If there are none, a shard is missing, or a file is damaged.
    """
    for single, index, read in (
        (_SINGLE, _INDEX, read_safetensors),
        ("pytorch_model.bin", "pytorch_model.bin.index.json", _read_bin),
    ):
        if (folder / index).is_file():
            return _read_shards(folder, folder / index, read, buffers)
        if (folder / single).is_file():
            return read(folder / single, buffers)
    raise UserError(
        f"{folder} holds no weights: neither {_SINGLE} nor {_INDEX} nor pytorch_model.bin"
    )


def _read_shards(folder, index, read, buffers) -> dict[str, Tensor]:
    try:
        where = json.loads(index.read_text())["weight_map"]
        where = {name: file for name, file in where.items() if not name.endswith(buffers)}
        files = sorted(set(where.values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is damaged; copy or download it again") from None
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise UserError(f"{index} names {missing[0]}, which is not there; copy it to {folder}")
    shards = {name: read(folder / name, buffers) for name in files}
    if lost := [name for name, file in where.items() if name not in shards[file]]:
        raise UserError(f"{folder / where[lost[0]]} lacks {lost[0]}, which {index.name} puts there")
    return {name: shards[file][name] for name, file in where.items()}


def read_safetensors(path: pathlib.Path, buffers: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file by name; none is read yet.

    Args:
      path: The file.
      buffers: See open_tensors().

    Raises:
      UserError: If the file is truncated, its header damaged, or a type unknown.
    """
    damaged = UserError(f"{path} is truncated or damaged; copy or download it again")
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _LONGEST_HEADER + 1
        if length > min(_LONGEST_HEADER, size - 8):
            raise damaged
        header = file.read(length)
    try:
        return {
            name: _described(path, name, entry, 8 + length, size)
            for name, entry in json.loads(header).items()
            if name != "__metadata__" and not name.endswith(buffers)
        }
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged from None


def _described(path: pathlib.Path, name: str, entry: Any, begin: int, size: int) -> Tensor:
    """Returns the tensor that an entry of a header describes; data begin behind the header.

    Raises:
      UserError: If its type is unknown.
      ValueError: Or KeyError or TypeError, if the entry is damaged or the file ends before it does.
    """
    kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if kind not in _DTYPES:
        raise UserError(f"{path}: {name} is {kind}; only {', '.join(_DTYPES)} can be read")
    dtype = _DTYPES[kind]
    if start < 0 or stop - start != math.prod(shape) * dtype.itemsize or begin + stop > size:
        raise ValueError(f"{name} lies elsewhere")
    return Tensor(shape, dtype, _file_reader(path, dtype, begin + start))


def _file_reader(path, dtype, offset):
    # Mapped pages would count as this process's memory; read ones do not.
    def read(start, stop):
        begin = offset + start * dtype.itemsize
        values = np.fromfile(path, dtype, count=stop - start, offset=begin)
        if len(values) != stop - start:
            raise UserError(f"{path} was truncated while it was read; copy it again")
        return values

    return read


def _read_bin(path: pathlib.Path, buffers: tuple[str, ...]) -> dict[str, Tensor]:
    state = load_pickle(path)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{path} has no tensors by name; copy or download it again")
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(buffers)}
    return tensors_of_torch(kept, path)


def tensors_of_torch(state: Mapping[str, Any], path: pathlib.Path) -> dict[str, Tensor]:
    """Returns the tensors of a PyTorch state_dict.

    Raises:
      UserError: If something else is in it, or a type is unknown.
    """
    import torch

    dtypes = {
        torch.float64: np.dtype(np.float64),
        torch.float32: np.dtype(np.float32),
        torch.float16: np.dtype(np.float16),
        torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    }

    def reader(tensor, dtype):
        flat = tensor.detach().contiguous().reshape(-1)
        # NumPy knows no bfloat16 of PyTorch's, but the bits are the same.
        return lambda start, stop: flat[start:stop].view(torch.uint8).numpy().view(dtype)

    tensors = {}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in dtypes:
            raise UserError(f"{path}: {name} is no tensor of floating-point numbers")
        dtype = dtypes[tensor.dtype]
        tensors[name] = Tensor(tuple(tensor.shape), dtype, reader(tensor, dtype))
    return tensors


@contextlib.contextmanager
def _header(path: pathlib.Path, shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]):
    """Opens a new safetensors file behind its header."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in shapes.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json_text(header, separators=(",", ":")).encode()
    # Data begins at a multiple of eight bytes, as the format advises.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        yield file


# Type, shape, and what yields consecutive blocks of rows.
Planned = tuple[np.dtype, tuple[int, ...], Callable[[], Iterable[np.ndarray]]]


def write_safetensors(path: pathlib.Path, tensors: Mapping[str, Planned]) -> None:
    """Writes tensors as a safetensors file, block by block."""
    shapes = {name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()}
    with _header(path, shapes) as file:
        for name, (dtype, shape, blocks) in tensors.items():
            written = sum(_write(file, block, dtype) for block in blocks())
            if written != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name}: {written} bytes for shape {shape}")


def _write(file: BinaryIO, block: np.ndarray, dtype: np.dtype) -> int:
    return file.write(np.ascontiguousarray(block, dtype).view(np.uint8).data)


def write_model(folder: pathlib.Path, tensors: Mapping[str, Planned], shard_bytes: int) -> None:
    """Writes tensors as one model.safetensors, or as shards of about shard_bytes with an index."""
    shards: list[dict[str, Planned]] = [{}]
    sizes = {n: math.prod(shape) * dtype.itemsize for n, (dtype, shape, _) in tensors.items()}
    filled = 0
    for name, planned in tensors.items():
        if shards[-1] and filled + sizes[name] > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = planned
        filled += sizes[name]
    if len(shards) == 1:
        write_safetensors(folder / _SINGLE, shards[0])
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / _INDEX).write_text(json_text(index, indent=2) + "\n")
