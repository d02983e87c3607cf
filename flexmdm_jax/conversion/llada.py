"""LLaDA and LLaMA: from a Hugging Face folder or a GGUF file to a base folder, and back."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flexmdm_jax.conversion.architecture import Architecture
from flexmdm_jax.conversion.base import (
    Base,
    Blocks,
    copy_files,
    row_places,
    stored_dtype,
    write_base,
)
from flexmdm_jax.conversion.layout import (
    Leaf,
    check_tensors,
    embedding_name,
    head_name,
    leaves,
)
from flexmdm_jax.conversion.sources import AS_IT_SAYS, Source, SpecialIds, open_source, same_numbers
from flexmdm_jax.conversion.tensors import Planned, Tensor, write_model
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import new_folder
from flexmdm_jax.progress import progress_bar

SHARD_BYTES = 5_000_000_000


def import_model(
    path: pathlib.Path, out: pathlib.Path, ids: SpecialIds = AS_IT_SAYS
) -> Architecture:
    """Writes the base folder of a Hugging Face folder or a GGUF file; returns its architecture.

    Tensors are read and written in blocks of rows, so memory does not grow with the model.

    Args:
      path: The folder, or the file.
      out: Folder to make.
      ids: MASK and END, where they are to be chosen.

    Raises:
      UserError: If the source is incomplete, damaged or of another architecture, with every tensor
        that is missing, unexpected or of another shape; if it is tied but has a head of its own; if
        MASK or END are not known; or if out holds files.
    """
    source = open_source(path, ids)
    architecture = source.architecture
    # Tied models may carry the head once more; old LLaMA files their rotary frequencies.
    ignored = {name for name in source.tensors if name.endswith(".rotary_emb.inv_freq")}
    if architecture.tied:
        ignored.add(head_name(architecture))
    found = {name: tensor for name, tensor in source.tensors.items() if name not in ignored}
    expected = {n: leaf.tensor_shape for leaf in leaves(architecture) for n in leaf.names}
    check_tensors(found, expected, path)
    if architecture.tied:
        _check_tied(source)
    dtype = stored_dtype([tensor.dtype for tensor in found.values()])
    with progress_bar(total=len(expected), desc="convert", unit=" tensors") as progress:
        write_base(
            out,
            source.write_files,
            dtype,
            lambda leaf: _blocks_of(leaf, found, dtype, progress.update),
        )
    return architecture


def _check_tied(source: Source) -> None:
    """Raises UserError if a tied model carries a head that is not its embedding."""
    architecture, tensors = source.architecture, source.tensors
    names = head_name(architecture), embedding_name(architecture)
    if names[0] not in tensors:
        return
    if not same_numbers(*(tensors[name] for name in names)):
        field = {"llada": "weight_tying", "llama": "tie_word_embeddings"}[architecture.family]
        raise UserError(
            f"{source.path}: {field} is true in config.json, but {names[0]} differs from "
            f"{names[1]}; set {field} to false if the model was trained with a head of its own, or "
            "remove that tensor"
        )


def _blocks_of(
    leaf: Leaf, tensors: Mapping[str, Tensor], dtype: np.dtype, done: Callable[[int], Any]
) -> Blocks:
    def blocks():
        for layer, name in enumerate(leaf.names):
            for start, stop in row_places(leaf, dtype):
                rows = tensors[name].rows(start, stop).astype(dtype, copy=False)
                place = (layer,) * leaf.stacked + leaf.place(start, stop)
                yield place, leaf.to_ours(rows)
            done(1)

    return blocks


def export_model(base: Base, out: pathlib.Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a base as a Hugging Face folder: safetensors, config.json and what came with it.

    Raises:
      UserError: If out holds files, or the base is damaged.
    """
    places = [(leaf, n) for leaf in leaves(base.architecture) for n in range(len(leaf.names))]
    with (
        new_folder(out) as partial,
        progress_bar(total=len(places), desc="export", unit=" tensors") as progress,
    ):
        tensors = {
            leaf.names[layer]: _planned(base, leaf, layer, progress.update)
            for leaf, layer in places
        }
        write_model(partial, tensors, shard_bytes)
        copy_files(base.files, partial)


def _planned(base: Base, leaf: Leaf, layer: int, done: Callable[[int], Any]) -> Planned:
    def blocks():
        read = base.reader(leaf.path)
        for start, stop in row_places(leaf, base.dtype):
            place = (layer,) * leaf.stacked + leaf.place(start, stop)
            yield leaf.to_theirs(read(place))
        done(1)

    return base.dtype, leaf.tensor_shape, blocks
