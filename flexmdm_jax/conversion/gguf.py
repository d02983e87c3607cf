"""GGUF files of llama.cpp: LLaMA's tensors, dequantized as they are read, and what is said of them.

The file becomes what a folder in Hugging Face's form would hold, so all that follows is the same.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexmdm_jax.conversion.architecture import Architecture, architecture_of
from flexmdm_jax.conversion.gguf_tokenizer import tokenizer_json
from flexmdm_jax.conversion.layout import check_tensors, leaves
from flexmdm_jax.conversion.tensors import Tensor
from flexmdm_jax.data.tokenizers import HuggingFaceTokenizer
from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.files import json_text
from flexmdm_jax.foreign import Form, names, positive, reading_fields, whole

_MAGIC = b"GGUF"
_FAMILY = "llama"
FIELDS = Form(
    meaning="weights",
    used=names("""
        block_count embedding_length feed_forward_length vocab_size
        attention.head_count attention.head_count_kv attention.key_length attention.value_length
        attention.layer_norm_rms_epsilon rope.freq_base rope.dimension_count
        """),
    fixed={
        "expert_count": (0,),
        "expert_used_count": (0,),
        "attention.causal": (True,),
        "attention.sliding_window": (0,),
        "use_parallel_residual": (False,),
        # Others stretch the rotary frequencies.
        "rope.scaling.type": ("none",),
        "rope.scaling.factor": (1.0, 0.0),
    },
    harmless=names("""
        context_length rope.scaling.original_context_length rope.scaling.finetuned
        """),
)
# Pairs of features are neighbours in these tensors; here they lie half a head apart.
_ROTARY = ("q", "k")


@dataclasses.dataclass(frozen=True)
class Gguf:
    """A GGUF file.

    Attributes:
      config: What a config.json would say.
      tensors: By LLaMA's names in Hugging Face's form, as float32; none is read yet.
      tokenizer: What a tokenizer.json would say.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: dict[str, Any]

    def check_tokenizer(self, config: Mapping[str, Any], path: pathlib.Path) -> None:
        """Raises UserError unless texts can do without the MASK and END that a config names."""
        HuggingFaceTokenizer.of_json(self.tokenizer, config, path)

    def write_tokenizer(self, folder: pathlib.Path) -> None:
        """Writes tokenizer.json into a folder."""
        path = folder / HuggingFaceTokenizer.TOKENIZER
        path.write_text(json_text(self.tokenizer, ensure_ascii=False), encoding="utf-8")


def read_gguf(path: pathlib.Path) -> Gguf:
    """Returns the LLaMA in a GGUF file.

    Raises:
      UserError: If the file is none, cut short or damaged, of another architecture, or part of a
        model; if tensors are missing, unexpected, of another shape or of a type that the gguf
        library cannot dequantize; or if its tokenizer is unknown or of another size.
    """
    reader = _open(path)
    metadata = _Metadata(path, reader.fields)
    if metadata.get("split.count", 1) > 1:
        raise UserError(f"{path} is one of several parts; join them with llama-gguf-split --merge")
    family = metadata.get("general.architecture")
    if family != _FAMILY:
        raise UserError(
            f"{path}: general.architecture = {family!r}; only {_FAMILY!r} can be imported"
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    _check_complete(path, reader)
    description = tokenizer_json(metadata.group("tokenizer.ggml."), path)
    config = _config(metadata, path, num_tokens=len(metadata.get("tokenizer.ggml.tokens")))
    config["tie_word_embeddings"] = "output.weight" not in tensors
    architecture = architecture_of(config, path)
    return Gguf(config, _tensors(path, tensors, architecture), description)


def _open(path: pathlib.Path) -> Any:
    """Returns the library's reader of a file."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"{path} needs the gguf library: pip install 'flexmdm-jax[gguf]'") from None
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UserError(
                f"{path} is no GGUF file; name one, or the folder of a downloaded model"
            )
    # Damage shows in many exception types.
    try:
        return gguf.GGUFReader(path)
    except Exception as error:
        raise _damaged(path, first_line(error)) from None


def _damaged(path: pathlib.Path, reason: str) -> UserError:
    return UserError(f"{path} is cut short or damaged ({reason}); copy or download it again")


def _check_complete(path: pathlib.Path, reader: Any) -> None:
    size = path.stat().st_size
    for tensor in reader.tensors:
        if tensor.data_offset + tensor.n_bytes > size:
            raise _damaged(path, f"{tensor.name} ends behind its end")


@dataclasses.dataclass(frozen=True)
class _Metadata:
    """Fields of a file, which are read when they are asked for: those of tokenizers are long."""

    path: pathlib.Path
    fields: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a field's value as numbers, texts and lists of Python."""
        if name not in self.fields:
            return default
        try:
            return _plain(self.fields[name])
        except Exception as error:
            raise _damaged(self.path, f"{name}: {first_line(error)}") from None

    def group(self, prefix: str) -> dict[str, Any]:
        """Returns the fields whose names begin alike, without what they begin with."""
        return {n.removeprefix(prefix): self.get(n) for n in self.fields if n.startswith(prefix)}


def _plain(field: Any) -> Any:
    """Returns a field's value, float32 numbers as the shortest text that means them: 1e-5."""
    value = field.contents()
    if isinstance(value, float) and field.types[-1].name == "FLOAT32":
        return float(str(np.float32(value)))
    return value


def _config(metadata: _Metadata, path: pathlib.Path, num_tokens: int) -> dict[str, Any]:
    """Returns the config.json of a LLaMA."""
    values = metadata.group(f"{_FAMILY}.")
    FIELDS.check(values, path, f"{_FAMILY}.")
    with reading_fields(path, f"{_FAMILY}."):
        heads, width = whole(values, "attention.head_count"), whole(values, "embedding_length")
        for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
            if values.get(name, width // heads) != width // heads:
                raise UserError(
                    f"{path}: {_FAMILY}.{name} = {values[name]}; only embedding_length / "
                    f"attention.head_count = {width} / {heads} can be imported"
                )
        config = {
            "model_type": _FAMILY,
            "vocab_size": num_tokens,
            "hidden_size": width,
            "num_hidden_layers": whole(values, "block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": whole(
                {"attention.head_count_kv": heads} | values, "attention.head_count_kv"
            ),
            "intermediate_size": whole(values, "feed_forward_length"),
            "hidden_act": "silu",
            "rope_theta": positive({"rope.freq_base": 10_000.0} | values, "rope.freq_base"),
            "rms_norm_eps": positive(values, "attention.layer_norm_rms_epsilon"),
        }
    for name in ("bos", "eos", "mask"):
        if (number := metadata.get(f"tokenizer.ggml.{name}_token_id")) is not None:
            config[f"{name}_token_id"] = number
    return config


def _tensors(
    path: pathlib.Path, found: Mapping[str, Any], architecture: Architecture
) -> dict[str, Tensor]:
    """Returns the tensors by their names in Hugging Face's form."""
    if "rope_freqs.weight" in found:
        raise UserError(
            f"{path}: rope_freqs.weight stretches the rotary frequencies (LLaMA 3.1 and later), "
            "which is not implemented"
        )
    embedding = found.get("token_embd.weight")
    if embedding is not None and embedding.shape[-1] != architecture.embedding_size:
        raise UserError(
            f"{path}: the tokenizer has {architecture.embedding_size} tokens but token_embd.weight "
            f"{embedding.shape[-1]} rows; convert the model to GGUF again, with its own tokenizer"
        )
    pairs = list(zip(leaves(architecture, "gguf"), leaves(architecture), strict=True))
    readable = {name: _tensor(tensor, path) for name, tensor in found.items()}
    expected = {n: leaf.tensor_shape for leaf, _ in pairs for n in leaf.names}
    check_tensors(readable, expected, path)
    renamed = {}
    for leaf, ours in pairs:
        for old, new in zip(leaf.names, ours.names, strict=True):
            tensor, rotary = readable[old], leaf.path[-2] in _ROTARY
            renamed[new] = _halved(tensor, leaf.rows_per_step) if rotary else tensor
    return renamed


def _tensor(tensor: Any, path: pathlib.Path) -> Tensor:
    """Returns a tensor of the file that is dequantized as its rows are read."""
    import gguf

    dequantize = functools.partial(gguf.quants.dequantize, qtype=tensor.tensor_type)
    try:
        dequantize(tensor.data[:1])
    except NotImplementedError:
        raise UserError(
            f"{path}: {tensor.name} is {tensor.tensor_type.name}, which the gguf library cannot "
            "dequantize; take a file of another quantization"
        ) from None
    shape = tuple(reversed(tensor.shape.tolist()))
    rows = lambda start, stop: dequantize(np.asarray(tensor.data[start:stop]))  # noqa: E731
    return Tensor.of_rows(shape, np.dtype(np.float32), rows)


def _halved(tensor: Tensor, head_size: int) -> Tensor:
    """Returns a map to heads whose features 2i and 2i + 1 have moved to i and i + half a head."""

    def rows(start: int, stop: int) -> np.ndarray:
        width = tensor.shape[1]
        first, last = start // head_size, -(-stop // head_size)
        heads = tensor.rows(first * head_size, last * head_size)
        pairs = heads.reshape(last - first, head_size // 2, 2, width)
        halves = pairs.swapaxes(1, 2).reshape(-1, width)
        return halves[start - first * head_size : stop - first * head_size]

    return Tensor.of_rows(tensor.shape, tensor.dtype, rows)
