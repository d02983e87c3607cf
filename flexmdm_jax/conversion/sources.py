"""A model before its conversion: what its files say of it, and its tensors."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flexmdm_jax.conversion.architecture import Architecture, architecture_of
from flexmdm_jax.conversion.base import block_rows, copy_files
from flexmdm_jax.conversion.gguf import read_gguf
from flexmdm_jax.conversion.layout import embedding_name, head_name
from flexmdm_jax.conversion.tensors import Tensor, open_tensors
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text
from flexmdm_jax.foreign import read_json

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """A LLaDA or LLaMA as it comes.

    Attributes:
      path: Its folder or file, for messages.
      config: The fields of a config.json in Hugging Face's form.
      tensors: By the names of its family; none is read yet.
      write_files: Writes config.json, the tokenizer and whatever else is kept into a folder.
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    write_files: Callable[[pathlib.Path], None]

    @property
    def architecture(self) -> Architecture:
        """Returns what the config says; raises UserError if that is no backbone of ours."""
        return architecture_of(self.config, self.path / CONFIG if self.path.is_dir() else self.path)

    def with_config(self, **changes: Any) -> "Source":
        """Returns a source whose config.json differs in some fields."""
        config = dict(self.config) | changes

        def write_files(folder: pathlib.Path) -> None:
            self.write_files(folder)
            (folder / CONFIG).write_text(json_text(config, indent=2) + "\n")

        return dataclasses.replace(self, config=config, write_files=write_files)


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Which ids are MASK and END, where a model does not say so or is to get others.

    Attributes:
      mask: "" as the model says, which has to for GGUF; "new" a row of its own; "none" the model
        stays without, as a reference; or an id, in digits.
      end: Id of END; None: as the model says.
    """

    mask: str = ""
    end: int | None = None

    def __post_init__(self):
        if self.mask not in ("", "new", "none") and not (
            self.mask.isascii() and self.mask.isdigit()
        ):
            raise UserError(f"--mask={self.mask}: write an id, new or none")


AS_IT_SAYS = SpecialIds()


def open_source(path: pathlib.Path, ids: SpecialIds) -> Source:
    """Returns the model in a Hugging Face folder or a GGUF file, with MASK and END as chosen.

    Raises:
      UserError: If the files are missing or damaged or of another kind of network, an id lies
        outside the model's rows, or a GGUF names no MASK and none is chosen.
    """
    if path.is_dir() or not path.exists():
        config = read_json(path / CONFIG, "name the folder of a downloaded model, or a GGUF file")
        source = Source(path, config, open_tensors(path), functools.partial(copy_files, path))
        return _with_ids(source, ids)
    model = read_gguf(path)
    if not ids.mask and model.config.get("mask_token_id") is None:
        raise UserError(
            f"{path} names no MASK; choose --mask=new for a row of its own, --mask=ID for a "
            "token that texts do without, or --mask=none to keep the model as it is"
        )
    source = Source(path, model.config, model.tensors, model.write_tokenizer).with_config()
    source = _with_ids(source, ids)
    model.check_tokenizer(source.config, path)
    return source


def _with_ids(source: Source, ids: SpecialIds) -> Source:
    """Returns a source whose config names the chosen ids."""
    chosen: dict[str, int] = {}
    if ids.mask == "new":
        chosen["mask_token_id"] = source.architecture.embedding_size
        source = _with_row(source)
    elif ids.mask not in ("", "none"):
        chosen["mask_token_id"] = int(ids.mask)
    if ids.end is not None:
        chosen["eos_token_id"] = ids.end
    rows = source.architecture.embedding_size
    for name, number in chosen.items():
        if number >= rows:
            flag = {"mask_token_id": "mask", "eos_token_id": "end"}[name]
            raise UserError(f"--{flag}={number}: {source.path} has {rows} rows; choose one of them")
    source = source.with_config(**chosen) if chosen else source
    mask, end = (source.config.get(name) for name in ("mask_token_id", "eos_token_id"))
    if chosen and ids.mask != "none" and not isinstance(end, int):
        raise UserError(
            f"{source.path}: eos_token_id = {json_text(end)}; say which token closes a text, "
            "--end=ID"
        )
    if mask is not None and mask == end:
        raise UserError(
            f"{source.path}: MASK and END are both {mask}; choose another --end or --mask"
        )
    return source


def _with_row(source: Source) -> Source:
    """Returns a source with one more row, for MASK.

    Its embedding is the mean of all others, which is where nothing is known of a token. As MASK is
    never drawn, its row of the head is never used: zeros, or the embedding once more where tied.
    """
    architecture = source.architecture
    rows = architecture.embedding_size
    names = {embedding_name(architecture): _mean_row, head_name(architecture): _zero_row}
    tensors = dict(source.tensors)
    if architecture.tied:
        # It can be no more than a copy, which would have to grow alike.
        names[head_name(architecture)] = _mean_row
    for name, row_of in names.items():
        if name in tensors:
            tensors[name] = _extended(tensors[name], row_of)
    sizes = {"vocab_size": rows + 1}
    if "embedding_size" in source.config:
        sizes["embedding_size"] = rows + 1
    return dataclasses.replace(source, tensors=tensors).with_config(**sizes)


def _extended(tensor: Tensor, row_of: Callable[[Tensor], np.ndarray]) -> Tensor:
    last = tensor.shape[0]

    def rows(start: int, stop: int) -> np.ndarray:
        parts = [tensor.rows(start, min(stop, last))] if start < last else []
        if stop > last:
            parts.append(row_of(tensor).astype(tensor.dtype)[None])
        return np.concatenate(parts)

    return Tensor.of_rows((last + 1, *tensor.shape[1:]), tensor.dtype, rows)


def _mean_row(tensor: Tensor) -> np.ndarray:
    blocks = block_rows(tensor.shape, np.dtype(np.float64))
    total = sum(tensor.rows(*block).astype(np.float64).sum(axis=0) for block in blocks)
    return total / tensor.shape[0]


def _zero_row(tensor: Tensor) -> np.ndarray:
    return np.zeros(tensor.shape[1:])


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Returns whether two tensors agree in shape and in every number, as float32."""

    def agree(start: int, stop: int) -> bool:
        parts = (tensor.rows(start, stop).astype(np.float32) for tensor in (one, other))
        return np.array_equal(*parts, equal_nan=True)

    blocks = block_rows(one.shape, np.dtype(np.float32))
    return one.shape == other.shape and all(agree(*block) for block in blocks)
