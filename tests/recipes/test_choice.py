"""Choices for texts of all kinds: configs that can be read, and that fit the text and the time."""

import dataclasses
import pathlib
import re

import pytest
from commands import refuse, succeed
from tiny import texts as some_texts
from tiny import write_dataset

from flexmdm_jax.config import load_config_file, read_config
from flexmdm_jax.data.storage.records import open_dataset
from flexmdm_jax.data.tokenizers import make_tokenizer
from flexmdm_jax.recipes.choice import MOST_PASSES, choose, config_text, steps_within
from flexmdm_jax.recipes.speed import measured
from flexmdm_jax.recipes.survey import Survey

ENGLISH = "The quick brown fox jumps over the lazy dog, and then it rests. "


def _survey(text, count):
    return Survey([f"{text}{n}" for n in range(count)], "paragraph", 0)


@pytest.mark.parametrize("minutes", [1.0, 10.0, 25.0, 90.0, 500.0])
@pytest.mark.parametrize(
    "text", [_survey("word", 60), _survey(ENGLISH * 4, 500), _survey(ENGLISH * 40, 5000)]
)
def test_what_is_chosen_is_a_config(tmp_path, text, minutes):
    choice = choose(text, minutes)
    path = tmp_path / "config.py"
    path.write_text(config_text(choice, str(tmp_path), 123))
    config = read_config(load_config_file(str(path)))
    assert (config.training.num_steps, config.data.path) == (123, str(tmp_path))
    assert config.data.row_length >= config.data.max_length == choice.max_length
    assert (config.model.hidden_size, config.model.num_layers) == (
        choice.hidden_size,
        choice.num_layers,
    )
    assert all(len(line) <= 100 for line in path.read_text().splitlines())
    assert all(choice.reasons)


def test_small_and_unusual_texts_are_read_byte_by_byte():
    assert choose(_survey("word", 60), 10.0).tokenizer == "bytes"
    many = Survey(["".join(map(chr, range(0x4E00, 0x4E00 + 2000)))] * 200, "line", 0)
    assert choose(many, 10.0).tokenizer == "bytes"


def test_the_tokenizer_can_be_trained_on_the_least_text_that_gets_it():
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]
    texts = [" ".join(words[n % 700 : n % 700 + 8]) for n in range(3_300)]
    text = Survey(texts, "line", 0)
    assert 100_000 <= text.characters < 110_000
    spec = choose(text, 10.0).tokenizer
    assert spec == "sentencepiece:512"
    assert make_tokenizer(spec, texts).vocabulary.size == 512


def test_text_with_some_hundreds_of_kinds_of_characters_gets_pieces_too():
    rare = "".join(map(chr, range(0xC0, 0xC0 + 240)))
    texts = [f"{rare[n % 240]} {ENGLISH} {n}" for n in range(1_800)]
    text = Survey(texts, "paragraph", 0)
    assert text.alphabet > 250
    spec = choose(text, 10.0).tokenizer
    assert spec == "sentencepiece:1024"


def test_longer_texts_get_longer_rows_and_more_time_a_larger_network():
    short, long = (choose(_survey(ENGLISH * n, 400), 10.0) for n in (1, 8))
    assert short.max_length < long.max_length <= 128
    quick, slow = (choose(_survey(ENGLISH, 400), minutes) for minutes in (5.0, 500.0))
    assert quick.hidden_size < slow.hidden_size


def test_steps_fit_the_time_and_the_text():
    # 7 of 10 minutes at a second each.
    assert steps_within(10.0, 1.0, sequences=1_000_000, per_step=10.0) == 420
    assert steps_within(20.0, 2.0, sequences=1_000_000, per_step=10.0) == 420
    # A hundred texts at ten a step are passed over once in ten steps.
    assert steps_within(1000.0, 0.01, sequences=100, per_step=10.0) == 10 * MOST_PASSES
    assert steps_within(0.01, 10.0, sequences=100, per_step=10.0) > 0


def test_a_step_is_measured_as_it_will_be_trained(tmp_path):
    dataset = write_dataset(tmp_path / "data", some_texts(120))
    tiny = dataclasses.replace(
        choose(_survey("word", 60), 1.0), hidden_size=32, num_layers=1, max_length=24, row_length=24
    )
    path = tmp_path / "config.py"
    path.write_text(config_text(tiny, str(dataset.directory), 100))
    speed = measured(read_config(load_config_file(str(path))), dataset, num_steps=2)
    assert 0 < speed.step_seconds < speed.compile_seconds
    # 24 rows of 24 slots: one text each at least, and one to every two slots at most.
    assert 24 <= speed.sequences <= 24 * 12
    assert 10_000 < speed.parameters < 100_000


def test_the_command_writes_a_config_that_trains_on_the_text(tmp_path):
    """What it says is in it, and the same command says that it is there."""
    (tmp_path / "text.txt").write_text("\n\n".join(f"word {n}" for n in range(80)))
    arguments = (f"--text={tmp_path}/text.txt", f"--out={tmp_path}/own", "--minutes=1", "--notrain")
    said = succeed("quickstart", *arguments).stdout
    config = read_config(load_config_file(str(tmp_path / "own" / "config.py")))
    told = re.search(r"\* ([\d,]+) steps of \d+ paragraphs: [\d.]+ s each here", said)
    assert int(told[1].replace(",", "")) == config.training.num_steps
    dataset = open_dataset(pathlib.Path(config.data.path))
    assert sum(dataset.num_sequences.values()) == 80
    assert f"{config.model.num_layers} layers of {config.model.hidden_size} features" in said
    assert sorted(x.name for x in (tmp_path / "own").iterdir()) == [
        "config.py",
        "data",
        "text.jsonl",
    ]
    refuse("config.py is there already", "quickstart", *arguments)


def test_the_command_refuses_in_one_line(tmp_path):
    (tmp_path / "one.txt").write_text("one line")
    refuse("one.txt holds 1 paragraph, too few", "quickstart", f"--text={tmp_path}/one.txt")
    taken = (f"--text={tmp_path}/one.txt", f"--out={tmp_path}/one.txt")
    refuse("config.py cannot be written: a part of this path is a file", "quickstart", *taken)
    refuse("no file matches", "quickstart", f"--text={tmp_path}/none.txt", "--minutes=1")
    refuse("--minutes=0: must be", "quickstart", f"--text={tmp_path}/one.txt", "--minutes=0")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.py").write_text("")
    refuse(
        "config.py is there already; go on with: python -m flexmdm_jax.train --config",
        "quickstart",
        f"--text={tmp_path}/one.txt",
        f"--out={tmp_path}/out",
    )


def test_a_text_that_lies_in_the_folder_stays(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(f"line {n}\n" for n in range(60)))
    before = path.read_bytes()
    arguments = (f"--text={path}", f"--out={tmp_path}", "--notrain")
    refuse("text.jsonl is there already, with other text", "quickstart", *arguments)
    assert path.read_bytes() == before
    assert [x.name for x in tmp_path.iterdir()] == ["text.jsonl"]
