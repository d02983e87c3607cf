"""Questions are given, answers are not; whatever is wrong with the files is named."""

import json
from fractions import Fraction

import numpy as np
import pytest
from tokenizer_kinds import KINDS

from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, read_sequences
from flexmdm_jax.data.tasks.gsm8k import Gsm8kConfig, true_number
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.errors import UserError


def write_files(folder, count=3):
    folder.mkdir()
    for name in ("train", "test"):
        lines = [
            {
                "question": f"What is {i} + {name}?",
                "answer": f"It is <<{i}+1={i + 1}>>{i}.\n#### {i}",
            }
            for i in range(count)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def test_questions_are_fixed_and_answers_are_not(tmp_path):
    data = write_files(tmp_path / "files")
    dataset = Gsm8kConfig(str(data), 128).write(tmp_path / "data", ByteTokenizer({}))
    assert dataset.task == {"kind": "gsm8k"}
    for split, name in ((TRAIN, "train"), (VALIDATION, "test")):
        for i, sequence in enumerate(read_sequences(dataset, split)):
            fixed, free = (
                bytes(sequence.tokens[:-1][sequence.fixed[:-1] == b].tolist()) for b in (1, 0)
            )
            assert fixed.decode() == f"Question: What is {i} + {name}?\nAnswer:"
            assert free.decode() == f" It is {i}.\n#### {i}"
            assert not sequence.fixed[-1]
            assert np.all(np.diff(sequence.fixed.astype(int)) <= 0), "the question comes first"


@pytest.mark.parametrize("name", ["sentencepiece dummy", "hf llama"])
def test_nothing_is_put_between_question_and_answer(tmp_path, name):
    """A tokenizer may put a space before a text: that the answer follows is no new text."""
    data, tokenizer = write_files(tmp_path / "files"), KINDS[name].tokenizer
    dataset = Gsm8kConfig(str(data), 256).write(tmp_path / "data", tokenizer)
    texts = [tokenizer.decode(row.tokens.tolist()) for row in read_sequences(dataset, TRAIN)]
    prompts = [f"Question: What is {i} + train?\nAnswer: It is {i}.\n#### {i}" for i in range(3)]
    assert sorted(texts) == prompts


def test_what_is_wrong_is_named(tmp_path):
    data = write_files(tmp_path / "files")
    with pytest.raises(UserError, match="example 1 of train takes 53 slots, more than max_length"):
        Gsm8kConfig(str(data), 50).write(tmp_path / "out", ByteTokenizer({}))
    with pytest.raises(
        UserError, match=r"no file matches '.*nowhere/train\.jsonl\*'; check the path$"
    ):
        Gsm8kConfig(str(tmp_path / "nowhere")).write(tmp_path / "out", ByteTokenizer({}))
    (data / "test.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(UserError, match="line 1: no field 'answer'"):
        Gsm8kConfig(str(data), 128).write(tmp_path / "out", ByteTokenizer({}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("So 5.\n#### 5", 5),
        ("#### 1,234,567", 1_234_567),
        ("#### 7\nno: #### -3", -3),
        ("#### 4.50", Fraction(9, 2)),
        ("#### " + "9" * 400, 10**400 - 1),
    ],
)
def test_a_true_answer_ends_in_its_number(answer, number):
    assert true_number(answer) == number


@pytest.mark.parametrize("answer", ["5", "five", "####", "#### five", "#### 5 dollars", "#### 1e5"])
def test_a_true_answer_that_ends_in_something_else_is_refused(answer):
    with pytest.raises(ValueError, match="not in a line '#### N'"):
        true_number(answer)
