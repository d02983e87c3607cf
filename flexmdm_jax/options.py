"""The flags that commands share, and the kinds of flags they are made of."""

import importlib.resources
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from flexmdm_jax import cli, hosts
from flexmdm_jax.compiled import AUTO, keep_programs
from flexmdm_jax.config import MeshConfig, load_config_file
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import check_local, json_text
from flexmdm_jax.overrides import make_room, overridden_paths
from flexmdm_jax.process import Process
from flexmdm_jax.ranges import (
    CountOrUnset,
    CountOrZero,
    Seconds,
    Seed,
    ShareBelowOne,
    range_of,
)
from flexmdm_jax.sampling.parsing import SAMPLERS
from flexmdm_jax.sharding import parse_mesh

# What define_…_flags() define belongs to the command that calls them, and to its --help.
flags.disclaim_key_flags()


def define_config(
    help_string: str, flag_values: flags.FlagValues = flags.FLAGS, argv: list[str] | None = None
) -> flags.FlagHolder:
    """Returns the holder of a config: that of --config=FILE, --config.path=value set in it.

    Args:
      help_string: Says what the config is for.
      flag_values: Where the flag is defined.
      argv: The command line, if it is not the process's own.
    """
    try:
        overridden_paths(sys.argv if argv is None else argv)
    except UserError as error:
        # The library reads --flagfile at once, while the command's module is imported.
        cli.exit_with(str(error))
    holder = config_flags.DEFINE_config_file(
        "config", None, help_string, flag_values, sys_argv=argv
    )
    # With the library's own parser, only fields that the file has could be set.
    flag_values["config"].parser = _ConfigParser(argv)
    return holder


class _ConfigParser(flags.ArgumentParser):
    """Makes a config file's path its config, with room for what the command line sets."""

    def __init__(self, argv: list[str] | None):
        self._argv = argv

    def parse(self, path: str) -> Any:
        """Returns the config, a dict or a ConfigDict unless the file is wrong."""
        config = load_config_file(_config_path(path))
        if config is None:
            raise UserError("its get_config() returns nothing")
        if isinstance(config, ConfigDict):
            config = ConfigDict(config).unlock()
        for field in overridden_paths(sys.argv if self._argv is None else self._argv):
            make_room(config, field)
        return config

    def flag_type(self) -> str:
        """Returns what --help says the flag takes."""
        return "config file"


def _config_path(value: str) -> str:
    """Returns the config file, from the installed package if configs/x.py is not in the cwd."""
    path = pathlib.Path(value)
    if path.is_file():
        return value
    if value and path.is_dir():
        raise UserError("a folder; name one of its files")
    package = pathlib.Path(str(importlib.resources.files("flexmdm_jax")))
    # In the package where it is installed, beside it in a checkout.
    for folder in (package / "configs", package.parent / "configs"):
        if path.parent.name == "configs" and (folder / path.name).is_file():
            return str(folder / path.name)
    raise UserError("no such file; the shipped ones are in configs/")


def define_process_flags() -> Callable[[], None]:
    """Returns what joins processes that run a command together, having defined its flags.

    To be called once flags are parsed, and before anything that touches a device.
    """
    together = flags.DEFINE_bool(
        "multihost", False, "One of several processes that find each other: Cloud TPU, Slurm, MPI."
    )
    coordinator = flags.DEFINE_string("coordinator", "", "Elsewhere: host:port of process 0.")
    number = define_number("num_processes", 0, "With --coordinator: of the run.", CountOrZero)
    process = define_number("process_id", -1, "With --coordinator: this one, from 0.", CountOrUnset)
    limit = define_number("join_time_limit", 300, "Seconds to wait for the others.", Seconds)

    def join() -> None:
        hosts.join(
            coordinator.value,
            number.value,
            process.value,
            together=together.value,
            time_limit=limit.value,
        )

    return join


def define_compilation_cache() -> Callable[[], pathlib.Path | None]:
    """Returns what has compiled programs kept where the flag it defines says, see keep_programs().

    To be called once processes have joined, and before anything is compiled.
    """
    holder = flags.DEFINE_string(
        "compilation_cache",
        AUTO,
        "A folder that keeps compiled programs, so that the next start is quicker; auto: "
        "flexmdm_jax/compiled in ~/.cache or XDG_CACHE_HOME, for one process; empty: none.",
    )
    return lambda: keep_programs(holder.value)


def define_mesh() -> Callable[[], MeshConfig | None]:
    """Returns what gives the mesh that the flag it defines asks for; None if it is not given."""
    holder = flags.DEFINE_string(
        "mesh",
        "",
        "How devices share a model, if not as in its training: tensor=-1 splits matrices over all, "
        "data=2,tensor=4 over fours of eight devices.",
    )
    return lambda: parse_mesh(holder.value) if holder.value else None


def define_seed(help_string: str) -> flags.FlagHolder:
    """Returns the holder of --seed."""
    return define_number("seed", 0, help_string, Seed)


def define_number(
    name: str, default: Any, help_string: str, kind: Any, *, several: bool = False
) -> flags.FlagHolder:
    """Returns the holder of a flag that is a number.

    Args:
      name: Of the flag.
      default: Its value unless it is given; a list, if several.
      help_string: Says what it is for.
      kind: One of ranges.py, as Count.
      several: It may be given more than once.
    """
    parser, serializer = _NumberParser(kind), flags.ArgumentSerializer()
    if several:
        return flags.DEFINE_multi(parser, serializer, name, default, help_string)
    return flags.DEFINE(parser, name, default, help_string, serializer=serializer)


def define_path(
    name: str, default: str | None, help_string: str, *, several: bool = False
) -> flags.FlagHolder:
    """Returns the holder of a flag that is a file or a folder of this machine, no address.

    Arguments are those of define_number().
    """
    parser, serializer = _PathParser(), flags.ArgumentSerializer()
    if several:
        return flags.DEFINE_multi(parser, serializer, name, default, help_string)
    return flags.DEFINE(parser, name, default, help_string, serializer=serializer)


class _PathParser(flags.ArgumentParser):
    """Lets paths through, and no addresses."""

    def parse(self, argument: str) -> str:
        """Returns the path."""
        return check_local(argument)

    def flag_type(self) -> str:
        """Returns what --help says the flag takes."""
        return "path"


class _NumberParser(flags.ArgumentParser):
    """Makes a text a number within a range; absl's own parsers let NaN through."""

    def __init__(self, kind: Any):
        self._range = range_of(kind)
        is_float = issubclass(kind.__origin__, float)
        self._number = flags.FloatParser() if is_float else flags.IntegerParser()
        self.syntactic_help = f"{self._number.syntactic_help}, {self._range}"

    def parse(self, argument: Any) -> int | float:
        """Returns the number."""
        number = self._number.parse(argument)
        if problem := self._range.problem(number):
            raise ValueError(problem)
        return number

    def flag_type(self) -> str:
        """Returns what --help says the flag takes."""
        return self._number.flag_type()


def define_sampler_flags() -> Callable[[], dict[str, Any]]:
    """Returns what gives the values {flag: value} of the flags it defines: how samples are drawn.

    They are parameters of parse_sampler(). Of rules, steps and temperatures some commands take
    several.
    """
    text, number = flags.DEFINE_string, define_number
    holders = (
        flags.DEFINE_enum(
            "sampler",
            "",
            ["", *SAMPLERS],
            "adaptive: steps over which --events_per_step events are expected; grid: --steps of "
            "them; exact: event by event; paper: equal --steps, tau_leaping, poisson. Unless told "
            "grid if --steps is given, and adaptive if not.",
        ),
        text(
            "insertions",
            "",
            "binomial (unless told), binomial:temperature=0, poisson (the paper's), or exact_gaps "
            "for a network with config.model.gap_head='distribution'.",
        ),
        text(
            "grid",
            "",
            "Times of --steps: power:power=2.5 (unless told) and sine lie closer together towards "
            "the end, cosine at the start; linear or polynomial:power=2.",
        ),
        text(
            "corrector",
            "",
            "remask:size=0.1,every=0.25: goes back by size whenever every has been gained, both as "
            "shares of the tokens; for mending by further calls.",
        ),
        number(
            "finish_below",
            0.0,
            "A text without masks is finished when it is expected to miss fewer tokens than this.",
            ShareBelowOne,
        ),
        number(
            "max_calls",
            0,
            "Calls of the network at most; 0: what only a broken network takes.",
            CountOrZero,
        ),
    )
    return lambda: {holder.name: holder.value for holder in holders}


def settings(*besides: str) -> dict[str, Any]:
    """Returns the values of the flags that decide results: all, besides those named."""
    return _values(*_PROCESS, *besides)


def _values(*besides: str) -> dict[str, Any]:
    return {flag.name: flag.value for flag in cli.own_flags() if flag.name not in besides}


# What of a command says how it runs, and nothing of what it makes.
_PROCESS = (
    *("multihost", "coordinator", "num_processes", "process_id", "join_time_limit"),
    "compilation_cache",
)


def check_insertions(processes: Iterable[Process]) -> None:
    """Raises UserError if --insertions is given for models of which none inserts."""
    if flags.FLAGS["insertions"].present and not any(process.inserts for process in processes):
        raise UserError("--insertions: MDM inserts nothing, its lengths are fixed; leave it out")


def refuse_besides(flag: str, *others: str) -> None:
    """Raises UserError if a flag of the command is given that has no say where another one is.

    Args:
      flag: The other one.
      *others: Flags that go with it, besides those that say how a command runs.
    """
    for other in cli.own_flags():
        if other.present and other.name not in {flag, *others, *_PROCESS}:
            raise UserError(f"--{other.name} has no say beside --{flag}; leave it out")


def shared_flags() -> str:
    """Returns the values of the command's flags, but for the one that tells processes apart."""
    return json_text(_values("process_id"))
