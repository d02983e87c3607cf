"""LLaMA from a GGUF file: what PyTorch computes from its weights, its tokenizer, a row for MASK."""

import json

import gguf
import gguf_files
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import torch_llada
from commands import refuse, succeed
from torch_llada import Sizes

from flexmdm_jax.conversion.base import open_base
from flexmdm_jax.conversion.gguf_tokenizer import tokenizer_json
from flexmdm_jax.conversion.layout import make_model, parameter_shapes
from flexmdm_jax.conversion.llada import export_model, import_model
from flexmdm_jax.conversion.sources import SpecialIds
from flexmdm_jax.data.tokenizers import HuggingFaceTokenizer, make_tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.reference import open_reference

# Quantized rows come in blocks of 32.
SIZES = Sizes("llama", rows=48, width=32, layers=2, heads=4, kv_heads=2, mlp=64, theta=1e5)
TIED = Sizes("llama", rows=48, width=32, layers=2, heads=4, kv_heads=2, mlp=64, tied=True)
NONE, NEW = SpecialIds("none"), SpecialIds("new")


def to_torch(weights):
    return {name: torch.from_numpy(np.array(x, np.float32)) for name, x in weights.items()}


def logits_of(base, tokens):
    model = make_model(base.architecture)
    params = base.restore(parameter_shapes(model))
    ones = jnp.ones_like(tokens)
    return np.asarray(model.apply({"params": params}, tokens, ones, jnp.zeros((len(tokens), 1)))[1])


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q5_0"])
def test_logits_are_those_of_the_dequantized_weights(tmp_path, kind):
    sizes = TIED if kind == "Q4_1" else SIZES
    path = tmp_path / "model.gguf"
    weights = gguf_files.write(path, sizes, torch_llada.random_state(sizes), kind)
    import_model(path, tmp_path / "base", NONE)
    tokens = torch.randint(sizes.rows, (2, 20), generator=torch.Generator().manual_seed(1))
    expected = torch_llada.forward(sizes, to_torch(weights), tokens).numpy()
    base = open_base(tmp_path / "base")
    logits = logits_of(base, jnp.asarray(tokens.numpy()))
    np.testing.assert_allclose(logits, expected, atol=2e-5, rtol=0)
    assert (base.architecture.rope_theta, base.architecture.norm_epsilon) == (sizes.theta, 1e-5)


@pytest.mark.parametrize("sizes", [SIZES, TIED], ids=["head", "tied"])
def test_a_new_row_for_mask_is_the_mean_of_all_and_changes_nothing_else(tmp_path, sizes):
    """The base goes out as a LLaMA of Hugging Face's form, and its tokenizer knows MASK and END."""
    path = tmp_path / "model.gguf"
    state = torch_llada.random_state(sizes)
    gguf_files.write(path, sizes, state)
    import_model(path, tmp_path / "base", NEW)
    export_model(open_base(tmp_path / "base"), tmp_path / "out")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    embed, head = torch_llada.LLAMA["embed"], torch_llada.LLAMA["head"]
    torch.testing.assert_close(written[embed][-1], state[embed].mean(0), atol=1e-6, rtol=0)
    for name, tensor in state.items():
        kept = written[name][: len(tensor)]
        assert torch.equal(kept, tensor), name
        assert len(written[name]) == len(tensor) + (name in (embed, head))
    vocabulary = make_tokenizer(f"hf:{tmp_path / 'base' / 'files'}", ()).vocabulary
    assert (vocabulary.mask, vocabulary.end, vocabulary.size) == (48, 0, 49)


def test_mask_and_end_may_be_chosen_of_what_there_is(tmp_path):
    """Of folders too, whose files stay as they were but for that."""
    path = tmp_path / "model.gguf"
    state = torch_llada.random_state(SIZES)
    gguf_files.write(path, SIZES, state, fields={"tokenizer.ggml.mask_token_id": 47})
    for ids, mask, end in [
        (SpecialIds(), 47, 0),
        (SpecialIds(end=46), 47, 46),
        (SpecialIds("45", 46), 45, 46),
    ]:
        out = tmp_path / f"{mask}{end}"
        import_model(path, out, ids)
        vocabulary = make_tokenizer(f"hf:{out / 'files'}", ()).vocabulary
        assert (vocabulary.mask, vocabulary.end, vocabulary.size) == (mask, end, 48)
    folder = torch_llada.save(tmp_path / "folder", SIZES, state)
    import_model(folder, tmp_path / "again", SpecialIds("new", end=3))
    config = json.loads((tmp_path / "again" / "files" / "config.json").read_text())
    changed = {"vocab_size": 49, "mask_token_id": 48, "eos_token_id": 3}
    assert config == SIZES.config() | changed
    assert open_base(tmp_path / "again").architecture.embedding_size == 49


# Tokenizers.


def test_digits_are_split_and_bytes_merged(tmp_path):
    """As SmolLM's tokenizer does it; the text of a token of control is text."""
    path = tmp_path / "model.gguf"
    gguf_files.write(path, SIZES, torch_llada.random_state(SIZES))
    import_model(path, tmp_path / "base", NEW)
    tokenizer = make_tokenizer(f"hf:{tmp_path / 'base' / 'files'}", ())
    pieces = [tokenizer.piece(token) for token in tokenizer.encode("the the 42.")]
    assert pieces == [b"the", b" the", b" ", b"4", b"2", b"."]
    assert tokenizer.decode(tokenizer.encode("see 2, the end.")) == "see 2, the end."
    assert tokenizer.piece(tokenizer.vocabulary.end) == b""


def test_llamas_tokenizer_encodes_as_sentencepiece(tmp_path):
    """From pieces and scores alone, words in other scripts by their bytes."""
    import sentencepiece

    texts = ["the cat sat on the mat and the dog sat on the cat", "a moon, a noon, a man 123"] * 9
    model = tmp_path / "spm"
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_prefix=str(model),
        vocab_size=310,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{model}.model")
    kind = gguf.TokenType
    size = range(processor.GetPieceSize())

    def type_of(i):
        special = {0: kind.UNKNOWN, 1: kind.CONTROL, 2: kind.CONTROL}
        return int(special.get(i, kind.BYTE if processor.IsByte(i) else kind.NORMAL))

    values = {
        "model": "llama",
        "tokens": [processor.IdToPiece(i) for i in size],
        "scores": [processor.GetScore(i) for i in size],
        "token_type": [type_of(i) for i in size],
    }
    description = tokenizer_json(values, tmp_path / "model.gguf")
    files = {"tokenizer.json": json.dumps(description).encode()}
    tokenizer = HuggingFaceTokenizer.of_folder(files, tmp_path, {})
    for text in [*texts[:2], "the  mat", " on the moon", "ein Käse für 日本", "dogs\nand 77 cats"]:
        assert tokenizer.encode(text) == processor.encode(text), text
        assert tokenizer.decode(tokenizer.encode(text)) == text


# The model as a reference.


def test_nats_and_greedy_words_are_what_pytorch_says(tmp_path):
    """Pieces of 5; MASK, whose row the head has too, takes no part."""
    path = tmp_path / "model.gguf"
    state = torch_llada.random_state(SIZES)
    gguf_files.write(path, SIZES, state)
    import_model(path, tmp_path / "base", NEW)
    reference = open_reference(tmp_path / "base")
    texts = ["the cat sat.", "on 2 mats"]
    expected = []
    for text in texts:
        tokens = torch.tensor(reference.tokenizer.encode(text))
        for piece in tokens.split(5):
            if len(piece) > 1:
                logits = torch_llada.forward(SIZES, state, piece[None])[0, :-1]
                expected += torch.nn.functional.cross_entropy(logits, piece[1:], reduction="none")
    np.testing.assert_allclose(reference.nats(texts, piece=5), torch.stack(expected), atol=1e-5)
    tokens = torch.tensor(reference.tokenizer.encode(texts[0]))[None]
    for _ in range(4):
        following = torch_llada.forward(SIZES, state, tokens)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, following], dim=1)
    written = tokens[0, -4:].tolist()
    assert 0 not in written, "END, where it stops"
    assert reference.greedy(texts[0], 4) == reference.tokenizer.decode(written)
    with pytest.raises(UserError, match="an empty prompt"):
        reference.greedy("", 4)


def test_a_llada_is_no_reference(tmp_path):
    sizes = Sizes(layers=1)
    source = torch_llada.save(tmp_path / "source", sizes, torch_llada.random_state(sizes))
    import_model(source, tmp_path / "base")
    with pytest.raises(UserError, match="holds a LLaDA, which is not autoregressive"):
        open_reference(tmp_path / "base")


# What is refused.

BAD_FIELDS = {
    "another": ({"architecture": "qwen2"}, "general.architecture = 'qwen2'; only 'llama' can"),
    "experts": ({"fields": {"llama.expert_count": 8}}, "llama.expert_count = 8; only 0 can"),
    "stretched": ({"fields": {"llama.rope.scaling.type": "yarn"}}, "scaling.type = 'yarn'; only"),
    "unknown": ({"fields": {"llama.logit_scale": 2.0}}, "llama.logit_scale = 2.0 is unknown to"),
    "part": ({"fields": {"split.count": 3}}, "one of several parts; join them with"),
    "heads": ({"fields": {"llama.attention.key_length": 16}}, "key_length = 16; only .* = 32 / 4"),
    "no width": ({"skip": ["llama.embedding_length"]}, "has no field llama.embedding_length"),
    "pre": ({"fields": {"tokenizer.ggml.pre": "tekken"}}, "pre = 'tekken'; only 'gpt-2', 'smollm'"),
    "words": ({"fields": {"tokenizer.ggml.model": "bert"}}, "model = 'bert'; only 'gpt2' and 'll"),
    "tokens": ({"num_tokens": 50}, "tokenizer has 50 tokens but token_embd.weight 48 rows"),
    "bias": ({"blk.0.attn_q.bias": np.zeros(32, np.float32)}, r"unexpected: blk.0.attn_q.bias"),
    "llama 3": ({"rope_freqs.weight": np.ones(4, np.float32)}, "rope_freqs.weight stretches"),
}


@pytest.mark.parametrize("kind", BAD_FIELDS)
def test_what_cannot_be_imported_is_named(tmp_path, kind):
    arguments, message = BAD_FIELDS[kind]
    path = tmp_path / "model.gguf"
    gguf_files.write(path, SIZES, torch_llada.random_state(SIZES), **arguments)
    with pytest.raises(UserError, match=message) as error:
        import_model(path, tmp_path / "base", NEW)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (SpecialIds(), "names no MASK; choose --mask=new .* --mask=ID .* or --mask=none"),
        (SpecialIds("48"), "--mask=48: .* has 48 rows; choose one of them"),
        (SpecialIds("new", 99), "--end=99: .* has 49 rows; choose one of them"),
        (SpecialIds("0"), "MASK and END are both 0"),
        (SpecialIds("5"), "'d', MASK = 5, is an ordinary token of texts; choose an added token"),
    ],
)
def test_ids_that_cannot_be_are_named(tmp_path, ids, message):
    path = tmp_path / "model.gguf"
    gguf_files.write(path, SIZES, torch_llada.random_state(SIZES))
    with pytest.raises(UserError, match=message):
        import_model(path, tmp_path / "base", ids)


def test_a_file_cut_short_anywhere_is_named(tmp_path):
    path = tmp_path / "model.gguf"
    gguf_files.write(path, SIZES, torch_llada.random_state(SIZES), "Q8_0")
    content = path.read_bytes()
    for size in (0, 3, 10, 100, len(content) // 3, len(content) // 2, len(content) - 300):
        path.write_bytes(content[:size])
        message = "is no GGUF file" if size < 4 else r"is cut short or damaged \(.*\); copy or down"
        with pytest.raises(UserError, match=message):
            import_model(path, tmp_path / "base", NEW)
    path.write_bytes(b"PK\3\4" + content)
    with pytest.raises(UserError, match="is no GGUF file; name one, or"):
        import_model(path, tmp_path / "base", NEW)


def test_the_command_converts_or_says_in_a_line_why_not(tmp_path):
    path = tmp_path / "model.gguf"
    gguf_files.write(path, SIZES, torch_llada.random_state(SIZES))
    arguments = ("convert", "llada", f"--from={path}", f"--out={tmp_path / 'base'}")
    refuse("names no MASK; choose", *arguments)
    refuse("--mask=last: write an id, new or none", *arguments, "--mask=last")
    refuse("--end is for llada and xlm", "convert", "export", *arguments[2:], "--end=3")
    assert "embedding_size=49" in succeed(*arguments, "--mask=new").stdout
    assert open_base(tmp_path / "base").dtype == np.float32
