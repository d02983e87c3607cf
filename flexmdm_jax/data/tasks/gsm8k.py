"""Grade-school arithmetic, GSM8K (Cobbe et al., 2021): the question is given, the answer generated.

The answer's last line is `#### N`. Its calculator marks, `<<48/2=24>>`, are left out.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

from flexmdm_jax.data.sources.corpora import read_documents
from flexmdm_jax.data.sources.documents import matching
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, write_dataset
from flexmdm_jax.data.tokenizers import Tokenizer
from flexmdm_jax.errors import UserError

_CALCULATOR = re.compile(r"<<[^>]*>>")


@dataclasses.dataclass(frozen=True)
class Gsm8kConfig:
    """The files of GSM8K.

    Attributes:
      data: Folder of train.jsonl and test.jsonl, plain or .gz, with fields question and answer.
      max_length: Slots of the longest sequence, question and END included; longer ones are an
        error.
    """

    data: str
    max_length: int = 512

    def write(self, directory: pathlib.Path, tokenizer: Tokenizer) -> Dataset:
        """Returns the dataset of questions, fixed, and answers, after writing it.

        The test set is the validation split.

        Raises:
          UserError: If files are missing or damaged, or a sequence is too long.
        """
        return write_dataset(
            directory,
            self._sequences(tokenizer),
            tokenizer,
            max_length=self.max_length,
            origin={"source": "gsm8k"},
            task={"kind": "gsm8k"},
        )

    def _sequences(self, tokenizer: Tokenizer) -> Iterator[tuple[str, list[int], list[bool]]]:
        for split, name in ((TRAIN, "train"), (VALIDATION, "test")):
            for number, (question, answer) in enumerate(read_gsm8k(self.data, name), start=1):
                given = tokenizer.encode(prompt_of(question))
                wanted = tokenizer.encode(answer)
                if len(given) + len(wanted) >= self.max_length:
                    raise UserError(
                        f"{self.data}: example {number} of {name} takes "
                        f"{len(given) + len(wanted) + 1} slots, more than max_length = "
                        f"{self.max_length}; raise it"
                    )
                yield split, given + wanted, [True] * len(given) + [False] * len(wanted)


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
    path = matching(f"{data}/{name}.jsonl*")[0]
    questions = read_documents(f"jsonl:{path}#question")
    answers = read_documents(f"jsonl:{path}#answer")
    for question, answer in zip(questions, answers, strict=True):
        yield question, " " + _CALCULATOR.sub("", answer)


def final_number(answer: str) -> str | None:
    """Returns the number after the last `####` of an answer, without commas; None if none stands.

    >>> final_number("They pay 1,200 dollars.\\n#### 1,200")
    '1200'
    """
    found = re.findall(r"####\s*\$?(-?[\d,]*\.?\d+)", answer)
    return found[-1].replace(",", "") if found else None
