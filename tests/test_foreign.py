"""Every field of other libraries' JSON files is used, harmless by list, or refused by its name.

A format is a full file, what reading it gives, and for each field that is said to be used, values
that make a difference: a field that is listed and then forgotten fails here.
"""

import copy
import dataclasses
import functools
import json
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch_gpt2

from flexmdm_jax.conversion import architecture, gpt2, peft
from flexmdm_jax.conversion.layout import make_model, parameter_shapes
from flexmdm_jax.data.tokenizers import make_tokenizer, tokenizer_json
from flexmdm_jax.errors import UserError
from flexmdm_jax.foreign import Form
from flexmdm_jax.models.lora import Lora, split_base


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file, or of a group of fields in it.

    Attributes:
      form: What the reader says it knows.
      full: The fields of a real file.
      read: (fields, an empty folder) -> what is read, to compare.
      changes: For each field that is used, (value that makes a difference, other fields set first).
      foreign: Fields of other kinds of models, with values that make a difference there.
    """

    form: Form
    full: dict[str, Any]
    read: Callable[[dict[str, Any], Any], Any]
    changes: dict[str, Any]
    foreign: dict[str, Any]


# Fields that transformers writes for any model.
COMMON = {
    "_name_or_path": "meta/model",
    "architectures": ["LlamaForCausalLM"],
    "auto_map": {"AutoModel": "modeling.Model"},
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128009],
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "dtype": "bfloat16",
    "transformers_version": "5.0.0",
    "use_cache": True,
    "attention_dropout": 0.1,
    "temperature": 0.6,
}
FOREIGN = {
    "sliding_window": 4096,
    "use_sliding_window": True,
    "quantization_config": {"bits": 4},
    "layer_types": ["sliding_attention", "full_attention"],
    "no_rope_layers": [1, 0],
    "num_experts": 8,
    "logit_scale": 0.1,
    "embedding_multiplier": 12.0,
    "final_logit_softcapping": 30.0,
    "qk_norm": True,
    "use_qk_norm": True,
    "pruned_heads": {"0": [1]},
    "is_encoder_decoder": True,
    "rope_parameters_of_another_year": {"rope_type": "yarn"},
    "zero": 0,
}


def read_config(values, folder):
    (folder / "config.json").write_text(json.dumps(values))
    return architecture.read_architecture(folder)


LLAMA = Format(
    form=architecture.LLAMA_FIELDS,
    full=COMMON
    | {
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "intermediate_size": 32,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": 4096,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
    },
    read=read_config,
    changes={
        "model_type": "mistral",
        "vocab_size": 41,
        "hidden_size": (48, {"head_dim": 12}),
        "num_hidden_layers": 3,
        "num_attention_heads": (2, {"head_dim": 12}),
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 33,
        "rope_theta": 20_000.0,
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    foreign=FOREIGN,
)
LLADA = Format(
    form=architecture.LLADA_FIELDS,
    full=COMMON
    | {
        "model_type": "llada",
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": 24,
        "embedding_dropout": 0.0,
        "embedding_size": 40,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": 37,
        "max_sequence_length": 4096,
        "mlp_hidden_size": 32,
        "mlp_ratio": 4,
        "multi_query_attention": None,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 2,
        "pad_token_id": 36,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500_000.0,
        "scale_logits": False,
        "vocab_size": 38,
        "weight_tying": False,
    },
    read=read_config,
    changes={
        "model_type": "llada_moe",
        "vocab_size": (39, {"embedding_size": None}),
        "embedding_size": 41,
        "d_model": 48,
        "n_layers": 3,
        "n_heads": (2, {"n_kv_heads": 2}),
        "n_kv_heads": 2,
        "multi_query_attention": (True, {"n_kv_heads": None}),
        "mlp_hidden_size": 33,
        "mlp_ratio": (3, {"mlp_hidden_size": None}),
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-6,
        "weight_tying": True,
    },
    foreign=FOREIGN | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
)


def read_rope(values, folder):
    plain = {name: value for name, value in LLAMA.full.items() if name != "rope_theta"}
    return read_config(plain | {"rope_parameters": values}, folder)


ROPE = Format(
    form=architecture.ROPE_FIELDS,
    full={"rope_type": "default", "rope_theta": 500_000.0},
    read=read_rope,
    changes={"rope_theta": 10_000.0},
    foreign={
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "mrope_section": [16, 24, 24],
    },
)


def read_gpt2(values, folder):
    return gpt2.gpt2_of(values, folder / "config.json", jax.numpy.float32)


GPT2 = Format(
    form=gpt2.FIELDS,
    full=torch_gpt2.Sizes().config()
    | {
        "_num_labels": 1,
        "add_cross_attention": False,
        "chunk_size_feed_forward": 0,
        "gradient_checkpointing": False,
        "output_past": True,
        "reorder_and_upcast_attn": False,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "pruned_heads": {},
        "torch_dtype": "float32",
        "transformers_version": "4.12.5",
        "use_cache": True,
    },
    read=read_gpt2,
    changes={
        "model_type": "gptj",
        "vocab_size": 41,
        "n_positions": 41,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 40,
        "layer_norm_epsilon": 1e-6,
    },
    foreign=FOREIGN | {"rotary_dim": 64, "hidden_size": 768, "layer_norm_eps": 1e-6},
)


@functools.cache
def adapted():
    """Returns (architecture, adapters as a config has them, random ones) of a small LLaMA."""
    lora = Lora(rank=2, alpha=8.0, rslora=False, targets=("q", "v"))
    sizes = {"embedding_size": 8, "hidden_size": 8, "num_layers": 2, "num_heads": 2}
    sizes |= {"num_kv_heads": 1, "mlp_size": 8, "rope_theta": 1e4, "norm_epsilon": 1e-5}
    backbone = architecture.Architecture(family="llama", tied=True, **sizes)
    shapes, _ = split_base(parameter_shapes(make_model(backbone, lora=lora)))
    draw = np.random.default_rng(0).standard_normal
    return backbone, lora, jax.tree.map(lambda x: draw(x.shape, np.float32), shapes)


def read_adapters(values, folder):
    backbone, lora, params = adapted()
    peft.write_peft(folder / "peft", params, backbone, lora, "base")
    (folder / "peft" / "adapter_config.json").write_text(json.dumps(values))
    found = peft.read_peft(folder / "peft", backbone, lora, params)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    return True


PEFT = Format(
    form=peft.FIELDS,
    full={
        "alpha_pattern": {},
        "arrow_config": None,
        "auto_mapping": None,
        "base_model_name_or_path": "meta/model",
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 8,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.18.0",
        "qalora_group_size": 16,
        "r": 2,
        "rank_pattern": {},
        "revision": None,
        "target_modules": ["q_proj", "v_proj"],
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    },
    read=read_adapters,
    changes={"r": 4, "lora_alpha": 16, "use_rslora": True},
    foreign={
        "modules_to_save": ["lm_head"],
        "layer_replication": [[0, 2], [1, 2]],
        "loftq_config": {"loftq_bits": 4},
        "corda_config": {"corda_method": "kpm"},
        "lora_ga_config": {"stable_gamma": 16},
        "megatron_config": {"hidden_size": 8},
        "lora_bias": True,
        "trainable_token_indices": [3],
        "target_parameters": ["mlp.experts"],
        "use_qalora": True,
        "use_bdlora": True,
        "arrow_config": {"top_k": 2},
        "alora_invocation_tokens": [1, 2],
        "ensure_weight_tying": True,
        "aLoRA_of_another_year": "on",
    },
)

# tokenizer.json

TEXTS = (
    *(
        "ab ab",
        "AB cab  <tool>",
        "x<tool>y",
        " <tool> ",
        "a <eot> b",
        "ab<mask>ab",
        "éé zz",
        "abab",
    ),
    *("ababab" * 20, "c-c_c</w>", "cb"),
)


def added(number, name, special=False, **fields):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": name, **flags, "special": special, **fields}


def file_of(model, **fields):
    size = len(model["vocab"])
    tokens = (("<eot>", True), ("<tool>", False), ("<mask>", True))
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst"}
        | {"stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
        | {"pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
        "added_tokens": [added(size + n, *token) for n, token in enumerate(tokens)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "RobertaProcessing", "sep": ["a", 0], "cls": ["b", 1]}
        | {"trim_offsets": True, "add_prefix_space": True},
        "decoder": None,
        "model": model,
    } | fields


def read_tokenizer(values, folder):
    """Returns the ids of texts, the vocabulary, and what tokens are decoded to."""
    folder.joinpath("tokenizer.json").write_text(json.dumps(values))
    tokenizer = make_tokenizer(f"hf:{folder}", [])
    tokens = [tokenizer.encode(text) for text in TEXTS]
    for text, batch in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert batch.tolist() == tokenizer.encode(text)
    return tokenizer.vocabulary, tokens, [tokenizer.decode(row) for row in tokens]


LETTERS = ["[UNK]", "a", "b", "c", "x", "y", "ab", "abab", "##b", "b</w>", "<", ">", "-"]
VOCABULARY = {letter: number for number, letter in enumerate(LETTERS)}
BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": "[UNK]",
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
    "vocab": VOCABULARY,
    "merges": [["a", "b"]],
}
UNIGRAM = {
    "type": "Unigram",
    "unk_id": 0,
    "vocab": [[letter, -1.0 - number] for number, letter in enumerate(LETTERS)],
    "byte_fallback": False,
}
WORDLEVEL = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"}
WORDPIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": VOCABULARY,
}
SWAPPED = VOCABULARY | {"a": VOCABULARY["b"], "b": VOCABULARY["a"]}
BYTES = {f"<0x{byte:02X}>": len(VOCABULARY) + byte for byte in range(256)}


def read_model(values, folder):
    return read_tokenizer(file_of(values), folder)


def read_added(values, folder):
    """Reads a file whose ordinary added token has the given fields."""
    full = file_of(BPE, normalizer={"type": "Lowercase"}, pre_tokenizer=None)
    full["added_tokens"][1] = values
    return read_tokenizer(full, folder)


TOKENIZER = Format(
    form=tokenizer_json.FILE_FIELDS,
    full=file_of(BPE),
    read=read_tokenizer,
    changes={
        "version": "2.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": None,
        "decoder": {"type": "Fuse"},
        "model": BPE | {"merges": []},
    },
    foreign={"chat_template": "{{ x }}", "byte_level": True, "prefix": "▁"},
)
ADDED = Format(
    form=tokenizer_json.ADDED_FIELDS,
    full=added(len(VOCABULARY) + 1, "<tool>"),
    read=read_added,
    changes={
        "id": 7,
        "content": "<Tool>",
        "single_word": True,
        "lstrip": True,
        "rstrip": True,
        "normalized": (True, {"content": "AB"}),
        "special": True,
    },
    foreign={"priority": 3, "regex": "a+"},
)
MODEL_CHANGES = {
    "BPE": {
        "type": "WordLevel",
        "vocab": SWAPPED,
        "merges": [],
        "unk_token": None,
        "continuing_subword_prefix": ("##", {"merges": [["a", "##b"]]}),
        "end_of_word_suffix": ("</w>", {"merges": []}),
        "fuse_unk": True,
        "byte_fallback": (True, {"vocab": VOCABULARY | BYTES}),
        "ignore_merges": True,
    },
    "Unigram": {
        "type": "WordLevel",
        "vocab": [*UNIGRAM["vocab"][:6], ["ab", -0.1], *UNIGRAM["vocab"][7:]],
        "unk_id": 5,
        "byte_fallback": (
            True,
            {"vocab": [*UNIGRAM["vocab"], *([name, -9.0] for name in BYTES)]},
        ),
    },
    "WordLevel": {"type": "Word", "vocab": SWAPPED, "unk_token": "a"},
    "WordPiece": {
        "type": "WordLevel",
        "vocab": SWAPPED,
        "unk_token": "x",
        "continuing_subword_prefix": "@@",
        "max_input_chars_per_word": 1,
    },
}
MODELS = {
    model["type"]: Format(
        form=tokenizer_json.MODEL_FIELDS[model["type"]],
        full=model,
        read=read_model,
        changes=MODEL_CHANGES[model["type"]],
        foreign={"nbest_size": 8, "alpha": 0.1, "cache_capacity": 10},
    )
    for model in (BPE, UNIGRAM, WORDLEVEL, WORDPIECE)
}
FORMATS = {
    "llama": LLAMA,
    "llada": LLADA,
    "gpt2": GPT2,
    "rope": ROPE,
    "peft": PEFT,
    "tokenizer": TOKENIZER,
    "added token": ADDED,
    **MODELS,
}
ODD = (7, "odd", True, 0.3, ["odd"], {"odd": 1}, None)


def cases(names_of):
    return [(kind, name) for kind, format_ in FORMATS.items() for name in sorted(names_of(format_))]


def result(format_, tmp_path, **changes):
    """Returns what a full file with changes reads as, or the line that refuses it."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    try:
        return format_.read(copy.deepcopy(format_.full) | changes, folder)
    except UserError as error:
        return str(error)


def refusal(format_, tmp_path, **changes):
    found = result(format_, tmp_path, **changes)
    assert isinstance(found, str), f"{changes} was read"
    assert "\n" not in found
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_file_is_read(kind, tmp_path):
    assert not isinstance(result(FORMATS[kind], tmp_path), str)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_field_is_in_one_list(kind):
    form = FORMATS[kind].form
    lists = (form.used, frozenset(form.fixed), form.harmless)
    assert sum(map(len, lists)) == len(frozenset().union(*lists))
    assert set(FORMATS[kind].changes) == form.used, "each of them has to be shown to be used"


@pytest.mark.parametrize(("kind", "name"), cases(lambda format_: format_.form.used))
def test_what_is_used_makes_a_difference(kind, name, tmp_path):
    """Listed and then forgotten, a field would change nothing."""
    format_, change = FORMATS[kind], FORMATS[kind].changes[name]
    value, others = change if isinstance(change, tuple) else (change, {})
    before = result(format_, tmp_path, **others)
    after = result(format_, tmp_path, **others, **{name: value})
    assert before != after


@pytest.mark.parametrize(("kind", "name"), cases(lambda format_: format_.form.fixed))
def test_what_is_fixed_is_refused_otherwise(kind, name, tmp_path):
    format_ = FORMATS[kind]
    allowed = format_.form.fixed[name]
    plain = result(format_, tmp_path)
    for value in allowed:
        assert result(format_, tmp_path, **{name: value}) == plain
    odd = [value for value in (*ODD, False) if value not in allowed]
    assert len(odd) > 3
    for value in odd:
        said = refusal(format_, tmp_path, **{name: value})
        assert f"{name} = {value!r}; only {allowed[0]!r} can be imported" in said


@pytest.mark.parametrize(("kind", "name"), cases(lambda format_: format_.form.harmless))
def test_what_is_harmless_changes_nothing(kind, name, tmp_path):
    format_ = FORMATS[kind]
    plain = result(format_, tmp_path)
    for value in ODD:
        assert result(format_, tmp_path, **{name: value}) == plain, value


@pytest.mark.parametrize(
    ("kind", "name"), cases(lambda format_: [*format_.foreign, "a_field_of_tomorrow"])
)
def test_what_is_unknown_is_refused_unless_it_says_nothing(kind, name, tmp_path):
    format_ = FORMATS[kind]
    value = format_.foreign.get(name, {"tomorrow": 1})
    said = refusal(format_, tmp_path, **{name: value})
    assert f"{name} = {value!r} is unknown to flexmdm_jax" in said
    assert format_.form.meaning in said
    plain = result(format_, tmp_path)
    for nothing in (None, False, "", [], {}):
        assert result(format_, tmp_path, **{name: nothing}) == plain


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "milora"]
)
def test_adapters_that_began_by_changing_their_base_are_refused(start, tmp_path):
    said = refusal(PEFT, tmp_path, init_lora_weights=start)
    assert f"init_lora_weights = {start!r}; only True can be imported" in said


@pytest.mark.parametrize("kind", FORMATS)
def test_long_values_are_cut(kind, tmp_path):
    said = refusal(FORMATS[kind], tmp_path, a_field_of_tomorrow=list(range(1000)))
    assert re.search(r"a_field_of_tomorrow = \[0, 1, .{60,80}…", said)
    assert len(said) < 500
