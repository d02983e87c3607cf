"""Grade-school arithmetic, GSM8K (Cobbe et al., 2021): the question is given, the answer generated.

The answer's last line is `#### N`. Its calculator marks, `<<48/2=24>>`, are left out.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from flexmdm_jax.data.sources.corpora import read_documents
from flexmdm_jax.data.sources.documents import matching
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, write_dataset
from flexmdm_jax.data.tokenizers import RoundTrip, Tokenizer, encode_at
from flexmdm_jax.errors import UserError
from flexmdm_jax.ranges import Length, Ranged

_CALCULATOR = re.compile(r"<<[^>]*>>")


@dataclasses.dataclass(frozen=True)
class Gsm8kConfig(Ranged):
    """The files of GSM8K.

    Attributes:
      data: Folder of train.jsonl and test.jsonl, plain or .gz, with fields question and answer.
      max_length: Slots of the longest sequence, question and END included; longer ones are an
        error.
    """

    data: str
    max_length: Length = 512

    def write(self, directory: pathlib.Path, tokenizer: Tokenizer) -> Dataset:
        """Returns the dataset of questions, fixed, and answers, after writing it.

        The test set is the validation split.

        Raises:
          UserError: If files are missing or damaged, or a sequence is too long.
        """
        origin = {"source": "gsm8k"}
        return write_dataset(
            directory,
            self._sequences(tokenizer, origin),
            tokenizer,
            max_length=self.max_length,
            origin=origin,
            task={"kind": "gsm8k"},
        )

    def training_texts(self) -> Iterator[str]:
        """Yields the texts that a tokenizer may be trained on: prompts and answers of train."""
        _file(self.data, "test")  # that it is missing should not show after a training
        for question, answer in read_gsm8k(self.data, "train"):
            yield prompt_of(question)
            yield answer

    def _sequences(
        self, tokenizer: Tokenizer, origin: dict[str, Any]
    ) -> Iterator[tuple[str, list[int], list[bool]]]:
        """Yields (split, tokens, which are given); what was counted ends up in origin."""
        round_trip, examples = RoundTrip(tokenizer), 0
        for split, name in ((TRAIN, "train"), (VALIDATION, "test")):
            for number, (question, answer) in enumerate(read_gsm8k(self.data, name), start=1):
                examples += 1
                place = functools.partial("{}: example {} of {}".format, self.data, number, name)
                prompt = prompt_of(question)
                given = encode_at(tokenizer, prompt, place)
                wanted = encode_at(tokenizer, answer, place, first=False)
                text, tokens = prompt + answer, given + wanted
                round_trip.sample([text], [tokens], lambda _, place=place: place())
                slots = len(tokens) + 1
                if slots > self.max_length:
                    raise UserError(
                        f"{place()} takes {slots} slots, more than max_length = "
                        f"{self.max_length}; raise it"
                    )
                yield split, tokens, [True] * len(given) + [False] * len(wanted)
        origin |= round_trip.noted({"examples": examples, "texts": examples})


def prompt_of(question: str) -> str:
    """Returns the text that is given for a question."""
    return f"Question: {question}\nAnswer:"


def read_gsm8k(data: str, name: str) -> Iterator[tuple[str, str]]:
    """Yields (question, answer that follows the prompt) of `train` or `test`.

    Args:
      data: Folder of the files.
      name: Of the file, without its endings.

    Raises:
      UserError: If the file is missing or damaged.
    """
    path = _file(data, name)
    questions = read_documents(f"jsonl:{path}#question")
    answers = read_documents(f"jsonl:{path}#answer")
    for question, answer in zip(questions, answers, strict=True):
        yield question, " " + _CALCULATOR.sub("", answer)


def _file(data: str, name: str) -> pathlib.Path:
    return matching(f"{data}/{name}.jsonl*")[0]


def true_number(answer: str) -> Fraction:
    """Returns the number of a true answer, whose last line is `#### N`.

    >>> true_number("They pay 1,200 dollars.\\n#### 1,200")
    Fraction(1200, 1)

    Raises:
      ValueError: If it ends in something else.
    """
    number = answer.rpartition("####")[2].strip().replace(",", "") if "####" in answer else ""
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", number):
        raise ValueError(f"it ends in {answer[-24:]!r}, not in a line '#### N', N a number")
    return Fraction(number)
