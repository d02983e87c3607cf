"""Adapters in the form of Hugging Face's PEFT library: adapter_config.json and safetensors."""

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from flexmdm_jax.conversion.architecture import Architecture
from flexmdm_jax.conversion.layout import Path, check_tensors, module_name
from flexmdm_jax.conversion.tensors import read_safetensors, write_safetensors
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text, new_folder
from flexmdm_jax.foreign import Form, flag, names, positive, read_json, reading_fields, whole
from flexmdm_jax.models.lora import FACTORS, Lora

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FIELDS = Form(
    meaning="weights",
    used=names("r lora_alpha use_rslora"),
    fixed={
        "peft_type": ("LORA",),
        "bias": ("none",),
        "use_dora": (False, None),
        "fan_in_fan_out": (False, None),
        # Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the base that the adapters start from.
        "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
        "rank_pattern": ({}, None),
        "alpha_pattern": ({}, None),
    },
    # Which maps are adapted is what the tensors say, every one of which is accounted for; details
    # of initialisation, Megatron and QA-LoRA decide nothing without what switches them on.
    harmless=names("""
        target_modules exclude_modules layers_to_transform layers_pattern lora_dropout
        base_model_name_or_path revision task_type auto_mapping inference_mode peft_version
        runtime_config eva_config megatron_core qalora_group_size
        """),
)
# PEFT wraps the model it adapts twice.
_PREFIX = "base_model.model."


def is_peft(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds PEFT adapters."""
    return (folder / _CONFIG).is_file()


def write_peft(
    out: pathlib.Path, trained: Any, architecture: Architecture, lora: Lora, base: str
) -> None:
    """Writes the adapters among trained parameters (NumPy arrays) as a PEFT folder.

    Raises:
      UserError: If out holds files.
    """
    flat = traverse_util.flatten_dict(trained)
    tensors = {}
    for name, path, layer in _factors(flat, architecture):
        value = flat[path] if layer is None else flat[path][layer]
        matrix = _to_theirs(path, value)
        tensors[name] = (matrix.dtype, matrix.shape, lambda matrix=matrix: [matrix])
    layers = range(architecture.num_layers)
    # Names in full: "ff_out" alone would fit both the MLPs and the head of a LLaDA.
    modules = [
        module_name(architecture, target, layer)
        for target in lora.targets
        for layer in ([None] if target == "head" else layers)
    ]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rslora,
        "lora_dropout": lora.dropout_rate,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with new_folder(out) as partial:
        write_safetensors(partial / _WEIGHTS, tensors)
        (partial / _CONFIG).write_text(json_text(config, indent=2) + "\n")


def read_peft(folder: pathlib.Path, architecture: Architecture, lora: Lora, shapes: Any) -> Any:
    """Returns the adapters of a PEFT folder as NumPy arrays, in the tree of shapes.

    Args:
      folder: Holds adapter_config.json and adapter_model.safetensors.
      architecture: Of the base.
      lora: What the config says of adapters; must agree.
      shapes: Of what a run trains; parameters that are no adapters are left out.

    Raises:
      UserError: If files are missing or damaged, the adapters are no plain LoRA or of other shapes,
        or lora says something else of them.
    """
    _check_scale(_read_config(folder / _CONFIG), lora, folder / _CONFIG)
    if not (folder / _WEIGHTS).is_file():
        raise UserError(f"{folder / _WEIGHTS} is missing; copy it there")
    tensors = read_safetensors(folder / _WEIGHTS)
    flat = traverse_util.flatten_dict(shapes)
    expected = {
        name: _their_shape(path, flat[path].shape[layer is not None :])
        for name, path, layer in _factors(flat, architecture)
    }
    check_tensors(tensors, expected, folder / _WEIGHTS)
    adapters = {p: np.zeros(flat[p].shape, np.float32) for p in flat if p[-1] in FACTORS}
    for name, path, layer in _factors(flat, architecture):
        target = adapters[path] if layer is None else adapters[path][layer]
        target[...] = tensors[name].all().astype(np.float32).T.reshape(target.shape)
    return traverse_util.unflatten_dict(adapters)


def _read_config(path: pathlib.Path) -> Lora:
    """Returns what decides the scale of a PEFT folder's adapters; the rest is as Lora has it.

    Raises:
      UserError: If the file is missing or damaged, or says what cannot be read.
    """
    values = read_json(path, "name a folder of PEFT adapters")
    if missing := [name for name in ("peft_type", "r", "lora_alpha") if name not in values]:
        raise UserError(f"{path} has no field {missing[0]!r}; copy or download it again")
    FIELDS.check(values, path)
    with reading_fields(path):
        return Lora(
            rank=whole(values, "r"),
            alpha=positive(values, "lora_alpha"),
            rslora=flag(values, "use_rslora", default=False),
        )


def _check_scale(theirs: Lora, ours: Lora, path: pathlib.Path) -> None:
    """Raises UserError unless adapters mean the same; it says what to set."""
    if theirs.rank == ours.rank and math.isclose(theirs.scale, ours.scale):
        return
    changes = [
        f"{name} = {getattr(theirs, name)} instead of {getattr(ours, name)}"
        for name in ("rank", "alpha", "rslora")
        if getattr(theirs, name) != getattr(ours, name)
    ]
    raise UserError(
        f"{path} does not fit config.model.llada.lora; set there {' and '.join(changes)}"
    )


def _factors(
    flat: Mapping[Path, Any], architecture: Architecture
) -> Iterator[tuple[str, Path, int | None]]:
    """Yields (name of a PEFT tensor, path of our parameter, layer or None)."""
    for path in sorted(path for path in flat if path[-1] in FACTORS):
        suffix = {"lora_a": ".lora_A.weight", "lora_b": ".lora_B.weight"}[path[-1]]
        layers = range(architecture.num_layers) if path[0] == "blocks" else [None]
        for layer in layers:
            yield _PREFIX + module_name(architecture, path[-2], layer) + suffix, path, layer


def _their_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    rank = shape[-1] if path[-1] == "lora_a" else shape[0]
    other = math.prod(shape) // rank
    return (rank, other) if path[-1] == "lora_a" else (other, rank)


def _to_theirs(path: Path, value: np.ndarray) -> np.ndarray:
    rows, columns = _their_shape(path, value.shape)
    return np.ascontiguousarray(value.reshape(columns, rows).T)
