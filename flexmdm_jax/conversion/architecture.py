"""What a backbone is, read from the config.json of a LLaDA or LLaMA in Hugging Face's form."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from flexmdm_jax.errors import UserError
from flexmdm_jax.foreign import Form, flag, names, positive, read_json, reading_fields, whole


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes of a LLaMA-style backbone.

    Attributes:
      family: Whose names its tensors have.
      embedding_size: Rows of the embedding and of the head.
      hidden_size: Features per slot.
      num_layers: Blocks.
      num_heads: Heads of the queries.
      num_kv_heads: Heads of keys and values.
      mlp_size: Features between the halves of SwiGLU.
      rope_theta: Base of the rotary frequencies.
      norm_epsilon: Of RMSNorm.
      tied: The head is the embedding transposed.
    """

    family: Literal["llada", "llama"]
    embedding_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    rope_theta: float
    norm_epsilon: float
    tied: bool

    def __post_init__(self):
        if self.hidden_size % (2 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.hidden_size} features, {self.num_heads} heads and {self.num_kv_heads} "
                "key-value heads do not divide each other"
            )


# What transformers writes into every config.json: where a model comes from, what it is run and
# trained with, and how it is sampled, which is this library's own business.
HARMLESS = names("""
    architectures auto_map _name_or_path name_or_path _commit_hash transformers_version torch_dtype
    dtype use_cache torchscript use_bfloat16 _attn_implementation attn_implementation
    _attn_implementation_autoset return_dict return_dict_in_generate output_attentions
    output_hidden_states output_scores unsloth_version unsloth_fixed
    bos_token_id eos_token_id pad_token_id mask_token_id sep_token_id decoder_start_token_id
    forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens bad_words_ids
    initializer_range attention_dropout id2label label2id num_labels problem_type finetuning_task
    task_specific_params prefix
    temperature top_k top_p typical_p do_sample num_beams num_beam_groups num_return_sequences
    max_length min_length length_penalty repetition_penalty diversity_penalty early_stopping
    no_repeat_ngram_size encoder_no_repeat_ngram_size exponential_decay_length_penalty
    remove_invalid_values
    """)
LLADA_FIELDS = Form(
    meaning="weights",
    used=names("""
        model_type vocab_size embedding_size d_model n_layers n_heads n_kv_heads
        multi_query_attention mlp_hidden_size mlp_ratio rope_theta rms_norm_eps weight_tying
        """),
    fixed={
        "block_type": ("llama",),
        "block_group_size": (1,),
        "activation_type": ("silu",),
        "layer_norm_type": ("rms",),
        "include_bias": (False,),
        "include_qkv_bias": (False, None),
        "bias_for_layer_norm": (False, None),
        "layer_norm_with_affine": (True,),
        "attention_layer_norm": (False,),
        "rope": (True,),
        "alibi": (False,),
        "scale_logits": (False,),
        "input_emb_norm": (False,),
        "clip_qkv": (None,),
    },
    # Norms of queries and keys, and ALiBi, whose details some of these are, are refused above;
    # LLaDA's code ties by weight_tying alone.
    harmless=HARMLESS
    | names("""
        attention_layer_norm_with_affine alibi_bias_max rope_full_precision flash_attention
        residual_dropout embedding_dropout max_sequence_length init_device init_fn init_std
        init_cutoff_factor precision tie_word_embeddings
        """),
)
LLAMA_FIELDS = Form(
    meaning="weights",
    used=names("""
        model_type vocab_size hidden_size num_hidden_layers num_attention_heads
        num_key_value_heads head_dim intermediate_size rope_theta rope_scaling rope_parameters
        rms_norm_eps tie_word_embeddings
        """),
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        # Products cut into slices, and summed in another order.
        "pretraining_tp": (1, None),
        "partial_rotary_factor": (1, None),
        "chunk_size_feed_forward": (0, None),
    },
    harmless=HARMLESS | {"max_position_embeddings", "max_sequence_length"},
)
# rope_parameters of transformers 5, rope_scaling of the versions before it.
ROPE_FIELDS = Form(
    meaning="weights",
    used=frozenset({"rope_theta"}),
    # Other types stretch the frequencies (LLaMA 3.1 and later), which is not implemented.
    fixed={
        "rope_type": ("default", None),
        "type": ("default", None),
        "partial_rotary_factor": (1, None),
    },
)


def read_architecture(folder: pathlib.Path) -> Architecture:
    """Returns the architecture in a model folder's config.json.

    Raises:
      UserError: If there is none, it is damaged, or it is of another kind of network.
    """
    path = folder / "config.json"
    return architecture_of(read_json(path, "name the folder of a downloaded model"), path)


def architecture_of(values: Mapping[str, Any], path: pathlib.Path) -> Architecture:
    """Returns the architecture that the fields of a config.json describe.

    Args:
      values: The fields.
      path: Where they stand, for messages.

    Raises:
      UserError: If one is missing or damaged, or they are of another kind of network.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise UserError(f"{path}: model_type = {kind!r}; only {' and '.join(_READERS)} are known")
    form, read = _READERS[kind]
    form.check(values, path)
    # Null is absence.
    said = {name: value for name, value in values.items() if value is not None}
    with reading_fields(path):
        return read(said, path)


def _read_llada(values: Mapping[str, Any], _: pathlib.Path) -> Architecture:
    heads, width = whole(values, "n_heads"), whole(values, "d_model")
    if "mlp_hidden_size" in values:
        mlp_size = whole(values, "mlp_hidden_size")
    else:
        mlp_size = whole(values, "mlp_ratio") * width
    return Architecture(
        family="llada",
        embedding_size=_first(values, "embedding_size", "vocab_size"),
        hidden_size=width,
        num_layers=whole(values, "n_layers"),
        num_heads=heads,
        num_kv_heads=_llada_kv_heads(values, heads),
        mlp_size=mlp_size,
        rope_theta=positive({"rope_theta": 10_000.0} | values, "rope_theta"),
        norm_epsilon=positive({"rms_norm_eps": 1e-5} | values, "rms_norm_eps"),
        tied=flag(values, "weight_tying", default=True),
    )


def _llada_kv_heads(values: Mapping[str, Any], heads: int) -> int:
    """Returns the heads of keys and values, which two fields may say."""
    kv_heads = whole(values, "n_kv_heads") if "n_kv_heads" in values else None
    if "multi_query_attention" not in values:
        return kv_heads or heads
    said = 1 if flag(values, "multi_query_attention", default=False) else heads
    if kv_heads not in (None, said):
        raise ValueError(
            f"n_kv_heads = {kv_heads} contradicts multi_query_attention = "
            f"{values['multi_query_attention']}, which means {said}; remove the wrong one"
        )
    return said


def _read_llama(values: Mapping[str, Any], path: pathlib.Path) -> Architecture:
    heads, width = whole(values, "num_attention_heads"), whole(values, "hidden_size")
    if "head_dim" in values and whole(values, "head_dim") * heads != width:
        raise ValueError(
            f"head_dim = {values['head_dim']}; only hidden_size / num_attention_heads = "
            f"{width} / {heads} can be imported"
        )
    return Architecture(
        family="llama",
        embedding_size=whole(values, "vocab_size"),
        hidden_size=width,
        num_layers=whole(values, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_first(values, "num_key_value_heads", "num_attention_heads"),
        mlp_size=whole(values, "intermediate_size"),
        rope_theta=_rope_theta(values, path),
        norm_epsilon=positive({"rms_norm_eps": 1e-6} | values, "rms_norm_eps"),
        tied=flag(values, "tie_word_embeddings", default=False),
    )


def _first(values: Mapping[str, Any], *fields: str) -> int:
    """Returns the first of the fields that is there; the last has to be."""
    return whole(values, next((name for name in fields if name in values), fields[-1]))


def _rope_theta(values: Mapping[str, Any], path: pathlib.Path) -> float:
    """Returns the base of the rotary frequencies, wherever it stands; 10,000 is transformers'."""
    thetas = {}
    if "rope_theta" in values:
        thetas["rope_theta"] = positive(values, "rope_theta")
    for name in ("rope_parameters", "rope_scaling"):
        group = values.get(name, {})
        if not isinstance(group, dict):
            raise ValueError(f"{name} = {group!r}; expected a group of fields")
        ROPE_FIELDS.check(group, path, f"{name}.")
        if group.get("rope_theta") is not None:
            thetas[f"{name}.rope_theta"] = positive(group, "rope_theta")
    if len(set(thetas.values())) > 1:
        said = " but ".join(f"{name} = {value}" for name, value in thetas.items())
        raise ValueError(f"{said}; remove the wrong one from a copy of the file")
    return next(iter(thetas.values()), 10_000.0)


_READERS = {"llada": (LLADA_FIELDS, _read_llada), "llama": (LLAMA_FIELDS, _read_llama)}
