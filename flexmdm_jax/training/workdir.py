"""The workdir of a run: whose it is, and everything but the parameters that sampling needs."""

import dataclasses
import json
import pathlib
from typing import Any

import jax

from flexmdm_jax.config import Config, changed_fields, config_to_dict, read_config
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.data.tokenizers import Tokenizer, load_tokenizer, save_tokenizer, tokenizer_hash
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import write_atomically
from flexmdm_jax.types import Vocabulary

_EXPERIMENT, _TOKENIZER = "experiment.json", "tokenizer"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a workdir says of the run in it; all that sampling needs besides the parameters.

    Attributes:
      config: The experiment's config, schedules included.
      vocabulary: Of its tokenizer.
      tokenizer_sha256: Hash of the tokenizer.
    """

    config: Config
    vocabulary: Vocabulary
    tokenizer_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON stores it."""
        return {
            "config": config_to_dict(self.config),
            "vocabulary": dataclasses.asdict(self.vocabulary),
            "tokenizer_sha256": self.tokenizer_sha256,
        }


def load_experiment(workdir: pathlib.Path) -> Experiment:
    """Returns the experiment in a workdir.

    Raises:
      UserError: If there is none, or it cannot be read.
    """
    path = workdir / _EXPERIMENT
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"no run in {workdir} ({_EXPERIMENT} is missing); train one with "
            "python -m flexmdm_jax.train --config=… --workdir=…"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    try:
        return Experiment(
            config=read_config(values["config"]),
            vocabulary=Vocabulary(**values["vocabulary"]),
            tokenizer_sha256=values["tokenizer_sha256"],
        )
    except KeyError as error:
        raise UserError(f"{path}: no field {error}; it is not what a run wrote") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None


def load_run_tokenizer(workdir: pathlib.Path, experiment: Experiment) -> Tokenizer:
    """Returns the tokenizer saved in a workdir.

    Raises:
      UserError: If it is not the one the run was trained with.
    """
    tokenizer = load_tokenizer(workdir / _TOKENIZER)
    if tokenizer_hash(tokenizer) != experiment.tokenizer_sha256:
        raise UserError(f"{workdir / _TOKENIZER} is not the tokenizer this run was trained with")
    return tokenizer


def check_dataset(dataset: Dataset, experiment: Experiment) -> None:
    """Raises UserError unless the dataset was made with the run's vocabulary and tokenizer."""
    if dataset.vocabulary != experiment.vocabulary:
        raise UserError(
            f"{dataset.directory} has {dataset.vocabulary}, but the checkpoint was trained with "
            f"{experiment.vocabulary}; use the dataset of that run or another --workdir"
        )
    if dataset.tokenizer_sha256 != experiment.tokenizer_sha256:
        raise UserError(
            f"{dataset.directory} was made with another tokenizer than the checkpoint; "
            "use the dataset of that run or another --workdir"
        )


def claim_workdir(workdir: pathlib.Path, config: Config, dataset: Dataset) -> Experiment:
    """Returns the experiment of a workdir, new or taken up again; process 0 alone writes.

    Raises:
      UserError: If the workdir holds a run with another config, vocabulary or tokenizer, or files
        of something else.
    """
    ours = Experiment(config, dataset.vocabulary, dataset.tokenizer_sha256)
    if (workdir / _EXPERIMENT).exists():
        theirs = load_experiment(workdir)
        check_dataset(dataset, theirs)
        if changes := changed_fields(theirs.config, config):
            raise UserError(
                f"{workdir} holds a run with another config ({'; '.join(changes)}); "
                "use its config or another --workdir"
            )
    # A tokenizer alone is what a run leaves that was killed right here.
    elif workdir.is_dir() and any(path.name != _TOKENIZER for path in workdir.iterdir()):
        raise UserError(f"{workdir} holds files but no run; choose an empty or new --workdir")
    if jax.process_index() != 0:
        return ours
    try:
        write_experiment(workdir, ours, dataset.tokenizer())
    except OSError as error:
        raise UserError(
            f"workdir {workdir} cannot be written: {error.strerror}; choose another"
        ) from None
    return ours


def write_experiment(workdir: pathlib.Path, experiment: Experiment, tokenizer: Tokenizer) -> None:
    """Writes what a workdir holds besides checkpoints.

    Raises:
      OSError: If the folder cannot be written.
    """
    save_tokenizer(tokenizer, workdir / _TOKENIZER)
    text = json.dumps(experiment.to_json(), indent=2) + "\n"
    write_atomically(workdir / _EXPERIMENT, text.encode())
