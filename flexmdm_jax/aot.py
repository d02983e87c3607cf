"""Compiles a config for TPUs or GPUs that are not there and says what it costs.

python -m flexmdm_jax.aot --config=configs/owt.py --topology=v5e-16 --per_device_batch=16
python -m flexmdm_jax.aot --config=configs/owt.py --topology=h100-8 --search
"""

import dataclasses
import pathlib

import jax
from absl import flags, logging

from flexmdm_jax import cli, options
from flexmdm_jax.compilation.programs import PROGRAMS, Experiment
from flexmdm_jax.compilation.report import report, search
from flexmdm_jax.compilation.topology import find_topology
from flexmdm_jax.config import Config, read_config
from flexmdm_jax.data.storage.mixtures import open_data
from flexmdm_jax.data.storage.records import Dataset, open_dataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text, new_file, write_atomically
from flexmdm_jax.ranges import CountOrZero
from flexmdm_jax.types import Vocabulary

_CONFIG = options.define_config("A file of configs/.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "v5e-16, v5p:4x4x4, 2*v5e-16 (two slices), h100-8, 2*h100-8 (two hosts), …"
)
_ROWS = options.define_number(
    "per_device_batch", 0, "Rows per chip; 0 spreads the config's batch.", CountOrZero
)
_SEARCH = flags.DEFINE_bool("search", False, "Find the largest per_device_batch that fits.")
_PROGRAMS = flags.DEFINE_list("programs", list(PROGRAMS), "train, sample or both.")
_VOCABULARY = options.define_number(
    "vocabulary_size",
    0,
    "If the dataset is not there to ask; 0: GPT-2's with MASK and END, LLaDA's.",
    CountOrZero,
)
_JSON = options.define_path("json", None, "Also write the figures to this file.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --json if it exists.")

_GPT2_ROWS = 50_259


def _dataset(config: Config) -> Dataset | None:
    """Returns what the config is trained on, if it is prepared."""
    data = config.data
    wanted = [data.sets[name] for name in data.mixture] if data.mixture else [data.path]
    if not set(wanted) <= set(_prepared(config)):
        return None
    return open_data(data.path, data.sets, data.mixture)


def _prepared(config: Config) -> list[str]:
    """Returns the folders of data that are there."""
    folders = [*config.data.sets.values(), config.data.path]
    return [path for path in folders if path and pathlib.Path(path).is_dir()]


def _vocabulary(config: Config) -> Vocabulary:
    """Returns the vocabulary of what is prepared; else one of the size it will have."""
    if prepared := _prepared(config):
        return open_dataset(prepared[0]).vocabulary
    rows = config.model.llada.embedding_size if config.model.kind == "llada" else _GPT2_ROWS
    size = _VOCABULARY.value or rows
    if size < 3:
        raise UserError(f"--vocabulary_size={size}: a token, MASK and END need at least 3")
    return Vocabulary(size, size - 2, size - 1)


def _rows(config, num_shards: int) -> int:
    if not _ROWS.value and config.training.batch_size % num_shards:
        raise UserError(
            f"{config.training.batch_size} rows do not split over {num_shards} chips; "
            "give a positive --per_device_batch"
        )
    return _ROWS.value or config.training.batch_size // num_shards


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    # Nothing is run, and chips of this machine may be someone else's.
    jax.config.update("jax_platforms", "cpu")
    out = new_file(_JSON.value, _OVERWRITE.value) if _JSON.value else None
    if _SEARCH.value and _ROWS.value:
        raise UserError("--search finds --per_device_batch itself; leave one of the two out")
    if not _PROGRAMS.value:
        raise UserError(f"--programs= is empty; choose of {', '.join(PROGRAMS)}")
    if unknown := set(_PROGRAMS.value) - set(PROGRAMS):
        raise UserError(f"unknown program {unknown.pop()!r}; choose of {', '.join(PROGRAMS)}")
    config = read_config(_CONFIG.value)
    topology = find_topology(_TOPOLOGY.value)
    mesh = topology.mesh(config.mesh)
    dataset = _dataset(config)
    vocabulary = _vocabulary(config)
    make = lambda rows: Experiment.of(config, vocabulary, mesh, rows)  # noqa: E731
    found = []
    for program in _PROGRAMS.value:
        if _SEARCH.value:
            found.append(search(make, program, topology, dataset))
        else:
            experiment = make(_rows(config, make(1).setup.num_groups))
            found.append(report(experiment, program, topology, dataset))
        print("\n".join(found[-1].lines()), flush=True)
    if out:
        figures = [dataclasses.asdict(x) for x in found]
        write_atomically(out, (json_text(figures, indent=2) + "\n").encode())


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "topology"])
    cli.run(main)
