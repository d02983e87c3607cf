"""FlexMDM checkpoints of xlm-core: a Hugging Face folder of config.json and model.safetensors."""

import pathlib
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.config import Config, read_config
from flexmdm_jax.conversion.gpt2_tokenizer import tokenizer_of
from flexmdm_jax.conversion.modulated import read_parameters
from flexmdm_jax.conversion.tensors import open_tensors
from flexmdm_jax.data.tokenizers import GPT2Tokenizer, HuggingFaceTokenizer, Tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.foreign import Form, names, positive, read_json, reading_fields, whole

_CONFIG = "config.json"
FIELDS = Form(
    meaning="weights",
    used=names("""
        num_embeddings d_model num_layers nhead dim_feedforward activation layer_norm_eps d_cond
        rotary_emb_dim max_length len_predict_type len_head_type padding_idx mask_idx dropout
        """),
    # How their code runs.
    harmless=names("compile force_flash_attn inner_autocast"),
)
# Ours -> theirs, see read_parameters().
_NAMES = {
    "embedding/embedding": "embed_tokens.weight",
    "time_embedding/in_proj": "sigma_map.mlp.0",
    "time_embedding/out_proj": "sigma_map.mlp.2",
    "blocks/modulation/proj": "encoder.%s.ada_ln_modulations.modulation",
    "blocks/qkv": "encoder.%s.attn_qkv",
    "blocks/out": "encoder.%s.o_proj",
    "blocks/mlp_in": "encoder.%s.mlp.0",
    "blocks/mlp_out": "encoder.%s.mlp.2",
    "blocks/attention_norm/norm/scale": "encoder.%s.norm1.norm",
    "blocks/mlp_norm/norm/scale": "encoder.%s.norm2.norm",
    "final_modulation/proj": "output_layer.adaLN_modulation.modulation",
    "final_norm/norm/scale": "output_layer.norm_final.norm",
    "head": "output_layer.linear",
    "gap_modulation/proj": "len_pred.adaLN_modulation.modulation",
}
_GAP_HEADS = {
    "expectation": {
        "gap_norm/norm/scale": "len_pred.norm.norm",
        "gap_head/in_proj": "len_pred.proj1",
        "gap_head/out_proj": "len_pred.proj2",
    },
    "distribution": {
        "gap_norm/norm/scale": "len_pred.norm_final.norm",
        "gap_features/in_proj": "len_pred.mlp.0",
        "gap_features/out_proj": "len_pred.mlp.2",
        "gap_head/proj": "len_pred.linear",
    },
}
# What tells the kinds of head apart.
_MARKS = {"expectation": "len_pred.proj1.weight", "distribution": "len_pred.linear.weight"}
_MARK_OF_MLP = "len_pred.mlp.0.weight"
_BUFFERS = (".freqs", ".inv_freq")


def read_xlm_config(folder: pathlib.Path) -> tuple[Config, int, int]:
    """Returns (the config of a run, the id of MASK, the number of rows) of a checkpoint's folder.

    Raises:
      UserError: If config.json is missing or damaged, a field of it is unknown, or says what the
        network does not have.
    """
    path = folder / _CONFIG
    values = read_json(path, "name the folder of a downloaded checkpoint")
    FIELDS.check(values, path)
    with reading_fields(path):
        ours = _config_values(values)
        mask, rows = whole(values, "mask_idx", least=0), whole(values, "num_embeddings")
    try:
        config = read_config(ours)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    pad = config.model.xlm.pad
    if max(pad, mask) >= rows or pad == mask:
        raise UserError(
            f"{path}: padding_idx = {pad} and mask_idx = {mask} have to be different and below "
            f"num_embeddings = {rows}"
        )
    return config, mask, rows


def _config_values(values: Mapping[str, Any]) -> dict[str, Any]:
    for name, known in (
        ("activation", ("relu", "gelu")),
        ("len_predict_type", tuple(_GAP_HEADS)),
        ("len_head_type", ("mlp", "linear")),
    ):
        if values[name] not in known:
            raise ValueError(f"{name} = {values[name]!r}; only {' and '.join(known)} are known")
    width, distribution = whole(values, "d_model"), values["len_predict_type"] == "distribution"
    usual = values.get("dim_feedforward") is None
    max_length = whole(values, "max_length")
    return {
        "method": "flexmdm",
        "model": {
            "kind": "xlm",
            "hidden_size": width,
            "num_layers": whole(values, "num_layers"),
            "num_heads": whole(values, "nhead"),
            "condition_size": whole(values, "d_cond"),
            "dropout_rate": values.get("dropout", 0.0),
            "compute_dtype": "float32",
            "gap_head": "distribution" if distribution else "mean",
            "gap_classes": max_length if distribution else 0,
            "xlm": {
                "mlp_size": 0 if usual else whole(values, "dim_feedforward"),
                "rotary_size": whole(values, "rotary_emb_dim"),
                "activation": values["activation"],
                "norm_epsilon": positive(values, "layer_norm_eps"),
                "gap_mlp": distribution and values["len_head_type"] == "mlp",
                "pad": whole(values, "padding_idx", least=0),
            },
        },
        "data": {"path": "", "max_length": max_length},
        # As their code trains it, should a run start from this one.
        "optimizer": {"learning_rate": 1e-4, "warmup_steps": 2000},
        "training": {"num_steps": 1_000_000, "batch_size": 512},
    }


def read_xlm(folder: pathlib.Path, config: Config, shapes: Any) -> Any:
    """Returns the parameters in a checkpoint's folder, as NumPy arrays.

    Args:
      folder: Holds model.safetensors.
      config: Of read_xlm_config().
      shapes: Of our parameters.

    Raises:
      UserError: If the file is damaged, or its tensors are not those that the config describes.
    """
    tensors = open_tensors(folder, _BUFFERS)
    kind = "distribution" if config.model.gap_head == "distribution" else "expectation"
    for other, mark in _MARKS.items():
        if other != kind and mark in tensors:
            raise UserError(
                f"{folder / _CONFIG}: len_predict_type = {kind!r}, but the tensors are those of "
                f"{other!r}; set it to that in a copy"
            )
    if kind == "distribution" and config.model.xlm.gap_mlp != (_MARK_OF_MLP in tensors):
        said, there = ("mlp", "linear") if config.model.xlm.gap_mlp else ("linear", "mlp")
        raise UserError(
            f"{folder / _CONFIG}: len_head_type = {said!r}, but the tensors are those of {there!r};"
            " set it to that in a copy"
        )
    return read_parameters(tensors, shapes, _NAMES | _GAP_HEADS[kind], folder)


def gpt2_with(gpt2: Tokenizer, rows: int, mask: int, end: int) -> HuggingFaceTokenizer:
    """Returns GPT-2's tokenizer with MASK among the rows behind its tokens, and END where it is.

    Args:
      gpt2: Of GPT-2's two files.
      rows: Of the network.
      mask: Id of MASK.
      end: Id of END; theirs is <|endoftext|>.

    Raises:
      UserError: If MASK or END are ordinary tokens, or lie outside the rows.
    """
    vocab, merges = (gpt2.files()[name] for name in GPT2Tokenizer.FILES)
    config = {"vocab_size": rows, "mask_token_id": mask, "eos_token_id": end}
    return tokenizer_of(vocab, merges, config, pathlib.Path("GPT-2"))


def check_tokenizer(
    tokenizer: Tokenizer, rows: int, mask: int, pad: int, folder: pathlib.Path
) -> None:
    """Raises UserError unless a tokenizer has the rows of a checkpoint, and its MASK and pad."""
    vocabulary = tokenizer.vocabulary
    path = folder / _CONFIG
    if (vocabulary.size, vocabulary.mask) != (rows, mask):
        raise UserError(
            f"{path}: num_embeddings = {rows} and mask_idx = {mask}, but the tokenizer has "
            f"{vocabulary.size} ids and MASK = {vocabulary.mask}; name the checkpoint's own"
        )
    if pad == vocabulary.end or tokenizer.piece(pad):
        what = "END" if pad == vocabulary.end else "a token of texts"
        raise UserError(f"{path}: padding_idx = {pad} is {what} of the tokenizer; choose another")
