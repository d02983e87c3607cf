"""Tiny GGUF files of the LLaMAs of torch_llada.py, written with the gguf library."""

import gguf
import numpy as np
import torch_llada

# Byte-level: the letters, a few merges, and a token of control.
BYTES = ["Ġ", *"abcdefghijklmnopqrstuvwxyz0123456789.,"]
MERGES = ["t h", "th e", "Ġ the"]
CONTROL = "<|end|>"


def tokens(rows):
    """Returns (tokens, types, merges) that fill so many rows."""
    listed = [CONTROL, *BYTES, *(merge.replace(" ", "") for merge in MERGES)]
    unused = [f"[PAD{number}]" for number in range(len(listed), rows)]
    normal, control, free = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED
    kinds = [control, *[normal] * (len(listed) - 1), *[free] * len(unused)]
    return listed + unused, [int(kind) for kind in kinds], MERGES


def interleaved(weight, heads):
    """Returns a map to heads whose features i and i + half a head have become neighbours."""
    size = len(weight) // heads
    rows = [
        h * size + i + half * size // 2
        for h in range(heads)
        for i in range(size // 2)
        for half in (0, 1)
    ]
    return weight[rows]


def write(path, sizes, state, kind="F32", *, fields=None, skip=(), architecture="llama", **changes):
    """Writes a file.

    Args:
      path: Of the file.
      sizes: Of torch_llada.py, of the family llama.
      state: Weights of torch_llada.random_state().
      kind: What matrices are quantized to, a name of GGMLQuantizationType.
      fields: Further ones, by name: texts, whole numbers and numbers.
      skip: Fields to leave out.
      architecture: What it says that it is.
      **changes: Tensors in place of others, by GGUF's names.

    Returns:
      What the quantized weights are, under the names of state.
    """
    writer = gguf.GGUFWriter(path, architecture)
    names = torch_llada.LLAMA
    ours = {"tokenizer.ggml.pre": "smollm", "llama.attention.head_count_kv": sizes.kv_heads}
    ours |= {"llama.rope.freq_base": sizes.theta, "tokenizer.ggml.eos_token_id": 0}
    ours |= {"llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "gpt2"}
    ours |= {"llama.block_count": sizes.layers, "llama.embedding_length": sizes.width}
    ours |= {"llama.feed_forward_length": sizes.mlp, "llama.attention.head_count": sizes.heads}
    for name, value in (ours | (fields or {})).items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
        if name not in skip:
            add[type(value)](name, value)
    listed, kinds, merges = tokens(changes.pop("num_tokens", sizes.rows))
    writer.add_token_list(listed)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    tensors = {"token_embd": names["embed"], "output_norm": names["norm"], "output": names["head"]}
    blocks = {"attn_norm": "norm1", "ffn_norm": "norm2", "attn_output": "o", "ffn_gate": "gate"}
    blocks |= {"attn_q": "q", "attn_k": "k", "attn_v": "v", "ffn_up": "up", "ffn_down": "down"}
    for layer in range(sizes.layers):
        for theirs, own in blocks.items():
            name = names["block"].format(layer) + names[own] + ".weight"
            tensors[f"blk.{layer}.{theirs}"] = name
    stored = {}
    for theirs, name in tensors.items():
        if name not in state:
            continue
        weight = state[name].float().numpy()
        heads = {"attn_q": sizes.heads, "attn_k": sizes.kv_heads}.get(theirs.split(".")[-1])
        weight = interleaved(weight, heads) if heads else weight
        of = gguf.GGMLQuantizationType[kind if weight.ndim > 1 else "F32"]
        data = gguf.quants.quantize(weight, of)
        writer.add_tensor(f"{theirs}.weight", data, raw_dtype=of)
        stored[name] = (gguf.quants.dequantize(data, of), heads)
    for name, array in changes.items():
        writer.add_tensor(name, np.asarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: _halves(weight, heads) for name, (weight, heads) in stored.items()}


def _halves(weight, heads):
    if not heads:
        return weight
    order = interleaved(np.arange(len(weight)), heads)
    return weight[np.argsort(order)]
