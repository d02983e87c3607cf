"""The folder of a frozen base: an Orbax checkpoint written block by block, and what it holds."""

import asyncio
import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import traverse_util

from flexmdm_jax.conversion.architecture import Architecture, read_architecture
from flexmdm_jax.conversion.layout import Leaf, Path, leaves
from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.files import json_text, new_folder

FORMAT_VERSION = 2
# Storage by format version; in the first, pieces had no checksums.
_DRIVERS = {1: "zarr", FORMAT_VERSION: "zarr3"}
DESCRIPTION, _PARAMS, _FILES = "base.json", "params", "files"
# Large enough for fast reading, small enough that hosts which hold a part read little else.
BLOCK_BYTES = 1 << 26
# Beyond the weights, a model folder holds nothing as large.
_LARGEST_FILE = 100_000_000
_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}

Place = Any
Blocks = Callable[[], Iterable[tuple[Place, np.ndarray]]]


# A piece is read only if its bytes are those that were written.
_CODECS = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": 1}},
    {"name": "crc32c"},
]


class StreamedArray:
    """An array that is made while it is written.

    Attributes:
      shape: Its shape.
      dtype: Its type.
      chunks: Shape of the pieces it is stored in.
      blocks: Yields (place, values), which together fill the array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, chunks: tuple[int, ...], blocks):
        """Describes an array; see the attributes."""
        self.shape, self.dtype, self.chunks, self.blocks = shape, dtype, chunks, blocks
        self.ndim, self.size = len(shape), math.prod(shape)
        self.nbytes = self.size * dtype.itemsize


class _StreamHandler(ocp.type_handlers.NumpyHandler):
    """Writes one StreamedArray after the other, so that one block at a time is in memory."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)
        self._one_at_a_time = asyncio.Lock()

    async def _open_and_write(self, value, tspec, ts_context):
        grid = {"name": "regular", "configuration": {"chunk_shape": list(value.chunks)}}
        tspec["metadata"] |= {"chunk_grid": grid, "codecs": _CODECS}
        async with self._one_at_a_time:
            store = await ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context)
            for place, block in value.blocks():
                await store[place].write(block)


def write_base(
    out: pathlib.Path,
    write_files: Callable[[pathlib.Path], None],
    dtype: np.dtype,
    blocks_of: Callable[[Leaf], Blocks],
) -> None:
    """Writes a base folder; it appears only when it is complete.

    Args:
      out: Must not exist yet, or be empty.
      write_files: Writes what is kept with the base into a folder: config.json, which says what the
        base is, its tokenizer and the like.
      dtype: Of all parameters.
      blocks_of: A parameter -> function that yields (place, values) filling it.

    Raises:
      UserError: If out holds files.
    """
    registry = ocp.type_handlers.create_type_handler_registry((StreamedArray, _StreamHandler()))
    description = {"format_version": FORMAT_VERSION, "dtype": dtype.name}
    with new_folder(out) as partial:
        (partial / _FILES).mkdir()
        write_files(partial / _FILES)
        tree = {
            leaf.path: StreamedArray(leaf.shape, dtype, _chunks(leaf, dtype), blocks_of(leaf))
            for leaf in leaves(read_architecture(partial / _FILES))
        }
        handler = ocp.PyTreeCheckpointHandler(
            type_handler_registry=registry, use_ocdbt=False, use_zarr3=True
        )
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(
                (partial / _PARAMS).absolute(),
                args=ocp.args.PyTreeSave(traverse_util.unflatten_dict(tree)),
            )
        (partial / DESCRIPTION).write_text(json_text(description, indent=2) + "\n")


def copy_files(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies what a model folder holds besides weights: its config, tokenizer and the like."""
    for path in sorted(source.iterdir()):
        weights = path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")
        if path.is_file() and not weights and path.stat().st_size <= _LARGEST_FILE:
            shutil.copyfile(path, target / path.name)


def _chunks(leaf: Leaf, dtype: np.dtype) -> tuple[int, ...]:
    """Returns pieces of one layer and of about BLOCK_BYTES, cut as blocks of rows are."""
    start, stop = next(row_places(leaf, dtype))
    rows = (stop - start) // leaf.rows_per_step
    shape = list(leaf.inner)
    shape[leaf.num_inputs] = rows
    return (*(1,) * leaf.stacked, *shape)


def row_places(leaf: Leaf, dtype: np.dtype) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of blocks of rows of each of a parameter's tensors."""
    return block_rows(leaf.tensor_shape, dtype, leaf.rows_per_step)


def block_rows(shape: tuple[int, ...], dtype: np.dtype, step: int = 1) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of blocks of a tensor's rows, of about BLOCK_BYTES and whole steps."""
    num_rows, *rest = shape
    rows = max(BLOCK_BYTES // (math.prod(rest) * dtype.itemsize) // step, 1) * step
    for start in range(0, num_rows, rows):
        yield start, min(start + rows, num_rows)


@dataclasses.dataclass(frozen=True)
class Base:
    """A base folder.

    Attributes:
      folder: Where it lies.
      architecture: Of the backbone.
      dtype: Of its parameters as stored.
      driver: Of TensorStore, which reads them.
    """

    folder: pathlib.Path
    architecture: Architecture
    dtype: np.dtype
    driver: str

    @property
    def files(self) -> pathlib.Path:
        """Returns the folder of what came with the weights, the tokenizer for example."""
        return self.folder / _FILES

    def restore(self, like: Any) -> Any:
        """Returns the parameters; like holds their shapes, types and shardings.

        Raises:
          UserError: If a file is missing or damaged.
        """
        path = (self.folder / _PARAMS).absolute()
        # Orbax and TensorStore report damage in many exception types.
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                return checkpointer.restore(path, like)
        except Exception as error:
            raise UserError(
                f"{path} cannot be read ({first_line(error)}); convert it again"
            ) from None

    def reader(self, path: Path) -> Callable[[Place], np.ndarray]:
        """Returns a function that reads pieces of the parameter at a path.

        Raises:
          UserError: Like the function: if the parameter, or a piece, is missing or damaged.
        """
        where = (self.folder / _PARAMS / ".".join(path)).absolute()
        damaged = f"{where} is missing or damaged; convert the model again"
        spec = {
            "driver": self.driver,
            "kvstore": {"driver": "file", "path": str(where)},
            # A piece that is lost must not pass for zeros.
            "fill_missing_data_reads": False,
        }
        try:
            store = ts.open(spec, read=True, open=True).result()
        except ValueError:
            raise UserError(damaged) from None

        def read(place: Place) -> np.ndarray:
            try:
                return store[place].read().result()
            except ValueError:
                raise UserError(damaged) from None

        return read


def open_base(folder: str | pathlib.Path) -> Base:
    """Returns the base in a folder that `convert` wrote.

    Raises:
      UserError: If there is none, or it is damaged or of another format.
    """
    folder = pathlib.Path(folder)
    path = folder / DESCRIPTION
    try:
        values = json.loads(path.read_text())
        if values["format_version"] not in _DRIVERS:
            raise UserError(
                f"{path}: format version {values['format_version']!r}, but this version of "
                f"flexmdm_jax reads up to {FORMAT_VERSION}; convert the model again"
            )
        driver = _DRIVERS[values["format_version"]]
        dtype = np.dtype(_DTYPES[values["dtype"]])
    except OSError:
        raise UserError(
            f"no converted model in {folder}; make one with "
            "python -m flexmdm_jax.convert llada --from=DOWNLOADED --out=…"
        ) from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); convert the model again") from None
    return Base(folder, read_architecture(folder / _FILES), dtype, driver)


def stored_dtype(dtypes: Sequence[np.dtype]) -> np.dtype:
    """Returns the type that tensors of these types share, the widest if they differ."""
    widest = max(set(dtypes), key=lambda dtype: dtype.itemsize)
    mixed_halves = widest.itemsize == 2 and len(set(dtypes)) > 1
    return np.dtype(np.float32) if mixed_halves or widest.itemsize > 4 else widest
