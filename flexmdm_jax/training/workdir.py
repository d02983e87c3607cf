"""The workdir of a run: whose it is, and everything but the parameters that sampling needs."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from flexmdm_jax.config import Config, changed_fields, config_to_dict, read_config
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.data.tokenizers import Tokenizer, load_tokenizer, save_tokenizer, tokenizer_hash
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text, locked, nearest_folder, refuse_pattern, write_atomically
from flexmdm_jax.training.tables import stored_shapes
from flexmdm_jax.types import Vocabulary

CHECKPOINTS = "checkpoints"
_EXPERIMENT, _TOKENIZER, _LOCK = "experiment.json", "tokenizer", ".lock"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a workdir says of the run in it; all that sampling needs besides the parameters.

    Attributes:
      config: The experiment's config, schedules included.
      vocabulary: Of its tokenizer.
      tokenizer_sha256: Hash of the tokenizer.
      dataset_sha256: Hash of the sequences it is trained on; None if that is not known.
    """

    config: Config
    vocabulary: Vocabulary
    tokenizer_sha256: str
    dataset_sha256: str | None = None

    def stored_shapes(self, tree: Any) -> Any:
        """Returns a tree of parameters or optimizer state, or their shapes, as files hold it."""
        is_dit = self.config.model.kind == "dit"
        return stored_shapes(tree, self.vocabulary.size) if is_dit else tree

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON stores it."""
        return {
            "config": config_to_dict(self.config),
            "vocabulary": dataclasses.asdict(self.vocabulary),
            "tokenizer_sha256": self.tokenizer_sha256,
            "dataset_sha256": self.dataset_sha256,
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
        if not workdir.exists() and (guess := nearest_folder(workdir, _EXPERIMENT)):
            raise UserError(f"no run in {workdir}{guess}") from None
        raise UserError(
            f"no run in {workdir} ({_EXPERIMENT} is missing); train one with "
            "python -m flexmdm_jax.train --config=… --workdir=…"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    try:
        return Experiment(
            config=read_config(values["config"]),
            vocabulary=Vocabulary(**values["vocabulary"]),
            tokenizer_sha256=values["tokenizer_sha256"],
            dataset_sha256=values.get("dataset_sha256"),
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


@contextlib.contextmanager
def owned_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a workdir for this process; what was made for it goes again if no run came of it.

    Of several processes of one run, number 0 keeps it for all.

    Raises:
      UserError: If another run is at work in it, or it cannot be written.
    """
    refuse_pattern(workdir)
    if jax.process_index() != 0:
        yield
        return
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = locked(workdir / _LOCK, f"another process trains in {workdir}; wait or stop it")
        stack = contextlib.ExitStack()
        stack.enter_context(lock)
    except OSError as error:
        reason = error.strerror
        raise UserError(f"workdir {workdir} cannot be written: {reason}; choose another") from None
    with stack:
        try:
            yield
        finally:
            if not (workdir / _EXPERIMENT).exists():
                _leave_nothing(workdir, made)


def _leave_nothing(workdir: pathlib.Path, made: list[pathlib.Path]) -> None:
    """Removes what a run has made that was rejected before its first step, folders among it."""
    (workdir / _LOCK).unlink()
    for folder in (workdir / CHECKPOINTS, *made):
        # Not ours to delete, if it holds files.
        with contextlib.suppress(OSError):
            folder.rmdir()


def check_workdir(workdir: pathlib.Path, config: Config, dataset: Dataset) -> Experiment:
    """Returns the experiment that a workdir may hold or get; nothing is written.

    Raises:
      UserError: If the workdir holds a run with another config, vocabulary, tokenizer or other
        data, or files of something else.
    """
    ours = Experiment(config, dataset.vocabulary, dataset.tokenizer_sha256, dataset.sha256)
    if not (workdir / _EXPERIMENT).exists():
        if workdir.is_dir() and not all(map(_left_by_a_start, workdir.iterdir())):
            raise UserError(f"{workdir} holds files but no run; choose an empty or new --workdir")
        return ours
    theirs = load_experiment(workdir)
    check_dataset(dataset, theirs)
    if theirs.dataset_sha256 not in (None, ours.dataset_sha256):
        raise UserError(
            f"{workdir} was trained on {_data_of(theirs.config)} (SHA-256 "
            f"{theirs.dataset_sha256[:12]}…), but {_data_of(config)} holds other sequences "
            f"({ours.dataset_sha256[:12]}…); use the data of that run, or another --workdir and "
            f"--config.training.start={workdir}"
        )
    if changes := changed_fields(theirs.config, config):
        advice = "use its config or another --workdir"
        if any(change.startswith("training.num_steps") for change in changes):
            advice = (
                f"with optimizer.decay = {config.optimizer.decay!r} every learning rate depends on "
                "the number of steps; to train on, use another --workdir and "
                f"--config.training.start={workdir}"
            )
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(changes)}); {advice}"
        )
    return ours


def _left_by_a_start(path: pathlib.Path) -> bool:
    """Returns whether a run may leave this if it is killed before its first step."""
    empty = path.name == CHECKPOINTS and not any(path.iterdir())
    return empty or path.name in (_TOKENIZER, _LOCK)


def _data_of(config: Config) -> str:
    """Returns the folders of a run's data, as a message names them."""
    data = config.data
    return ", ".join(data.sets[name] for name in data.mixture) or data.path


def write_experiment(workdir: pathlib.Path, experiment: Experiment, tokenizer: Tokenizer) -> None:
    """Writes what makes a folder the workdir of a run; checkpoints come on top.

    Raises:
      OSError: If the folder cannot be written.
    """
    save_tokenizer(tokenizer, workdir / _TOKENIZER)
    text = json_text(experiment.to_json(), indent=2) + "\n"
    write_atomically(workdir / _EXPERIMENT, text.encode())
