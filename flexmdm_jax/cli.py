"""What the entry points share: one clear line for bad input, and where configs are found."""

import errno
import importlib.resources
import os
import pathlib
import re
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from flexmdm_jax import hosts
from flexmdm_jax.config import load_config_file
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import check_local, json_text
from flexmdm_jax.overrides import check_overrides, make_room, overridden_paths
from flexmdm_jax.process import Process
from flexmdm_jax.ranges import CountOrUnset, CountOrZero, Seconds, Seed, range_of

# What define_…_flags() define belongs to the command that calls them, and to its --help.
flags.disclaim_key_flags()


def run(main: Callable[[Sequence[str]], None], commands: Sequence[str] = ()) -> None:
    """Parses the flags, calls main, and exits: 2 with one line if the user can mend the cause.

    Ctrl-C ends it with one line and 130, as a shell counts it; a reader of its output that goes,
    such as head, without a line. Files are renamed into place: they are there as a whole or not.

    Args:
      main: Takes the arguments that are no flags, the program's name first.
      commands: If there are any, the first argument must be one of them.
    """
    for name in ("stdout", "stderr"):
        # Of a process that was started with the stream closed there is none.
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115
        setattr(sys, name, stream)
        # A terminal that lacks a character shows its number.
        stream.reconfigure(errors="backslashreplace")
    logging.get_absl_logger().addFilter(_worth_logging)
    sys.unraisablehook = _report_unraisable
    app.define_help_flags()
    try:
        try:
            _run(main, commands)
        finally:
            # Here, not while Python shuts down, where it would be complained of.
            print(end="", flush=True)
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        hosts.leave(_PIPE_BROKE)
        sys.exit(_PIPE_BROKE)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        hosts.leave(1)
        raise


def _nobody_reads() -> bool:
    """Returns whether standard output is a pipe whose reader, such as head, has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run(main: Callable[[Sequence[str]], None], commands: Sequence[str]) -> None:
    try:
        _check_texts(sys.argv)
        check_overrides(overridden_paths(sys.argv))
        arguments = _parsed(sys.argv)
        if commands and (len(arguments) < 2 or arguments[1] not in commands):
            given = repr(arguments[1]) if len(arguments) > 1 else "nothing"
            raise UserError(f"expected one of {', '.join(commands)}, got {given}")
        if unexpected := arguments[1 + bool(commands) :]:
            raise UserError(f"unexpected argument {unexpected[0]!r}; options are --name=value")
        _check_given(flags.FLAGS.get_flags_for_module(sys.argv[0]))
        logging.use_absl_handler()
        main(arguments)
    except (flags.Error, UserError) as error:
        _exit(str(error))
    except KeyboardInterrupt:
        # What is finished has been written: shards, checkpoints, files that were renamed.
        _exit("interrupted; what was finished is kept, run the same command again", 130)
    except OSError as error:
        if error.errno not in _USERS_ERRNO:
            raise
        _exit(f"{error.filename or 'file system'}: {_USERS_ERRNO[error.errno]}")
    except Exception as error:
        if str(error).startswith(_NO_BACKEND):
            _exit(f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {error}")
        if asked := _out_of_memory(error):
            _exit(asked)
        full = _full_disk(error)
        if not full:
            raise
        print(f"error: {_USERS_ERRNO[full]}", file=sys.stderr, flush=True)
        # Writers that could not finish would complain once more while Python shuts down.
        os._exit(2)


def _check_texts(argv: Sequence[str]) -> None:
    """Raises UserError if an argument is not text in the encoding of the system."""
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError(f"{argument!a}: not UTF-8; write it so, or rename the file") from None


def _check_given(own: Iterable[flags.Flag]) -> None:
    """Raises UserError if a flag without a default is given, and given nothing."""
    for flag in own:
        values = flag.value if isinstance(flag.value, list) else [flag.value]
        if flag.default is None and "" in values:
            raise UserError(f"--{flag.name}= is empty; give it a value or leave it out")


def _parsed(argv: Sequence[str]) -> list[str]:
    """Returns the arguments that are no flags."""
    try:
        return flags.FLAGS(argv)
    except flags.DuplicateFlagError as error:
        # Each file of a config defines flags for its fields.
        if sum(re.match("--?config(=|$)", argument) is not None for argument in argv) < 2:
            raise
        raise UserError("--config is given twice; give one file") from error
    except flags.IllegalFlagValueError as error:
        missing = re.findall(r"Flag --(\w+) must have a value other than None", str(error))
        if not missing:
            raise
        raise UserError(f"--{' and --'.join(missing)} must be given; see --help") from None
    except flags.UnrecognizedFlagError as error:
        if not error.flagname.startswith("config."):
            raise
        advice = "name its file first: --config=FILE"
        if "config" not in flags.FLAGS:
            advice = "this command reads no config"
        raise UserError(f"--{error.flagname} is a field of a config; {advice}") from None
    except ValueError as error:
        # Of a flag such as --noconfig.x=true.
        raise UserError(str(error)) from None


def _report_unraisable(details) -> None:
    """Prints an exception that nobody can catch, unless it only echoes a failed save.

    After one, TensorStore's callbacks find the event loop that Orbax waited in closed.
    """
    if str(details.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(details)


def _full_disk(error: BaseException | str | None) -> int | None:
    """Returns the errno of a full disk that TensorStore or ArrayRecord put in words, or None."""
    return next((number for number in _FULL if os.strerror(number) in str(error)), None)


def _out_of_memory(error: Exception) -> str | None:
    """Returns a line for an error of XLA or NumPy that says that memory is lacking, or None."""
    text = str(error)
    lacking = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text
    if not lacking:
        return None
    asked = re.search(r"allocat\w* ([\d.,]+ ?\w*)", text)
    what = f"not enough memory for {asked[1]} at once" if asked else "not enough memory"
    return (
        f"{what}; lower the batch size (config.training.batch_size, --batch_size), "
        "config.data.max_length or the model, or train with config.model.remat=full"
    )


def _worth_logging(record) -> bool:
    """Returns False for what Orbax's threads say of a full disk; main() says it in one line."""
    error = record.exc_info[1] if record.exc_info else None
    return not (_full_disk(record.getMessage()) or _full_disk(error))


# As a shell counts what SIGPIPE ends.
_PIPE_BROKE = 141
_NO_BACKEND = "Unable to initialize backend"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_USERS_ERRNO = {
    errno.ENOSPC: "no space left on the disk; free some and run the same command again",
    errno.EDQUOT: "disk quota reached; free some space and run the same command again",
    errno.EFBIG: "a file grew larger than this system allows (ulimit -f); raise the limit",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "operation not permitted; choose a folder that you may write to",
    errno.EROFS: "read-only file system; choose a folder that you may write to",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another",
}


def _exit(message: str, status: int = 2) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    hosts.leave(status)
    sys.exit(status)


def define_config_flag(
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
        _exit(str(error))
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
    packaged = importlib.resources.files("flexmdm_jax") / "configs" / path.name
    if path.parent.name == "configs" and packaged.is_file():
        return str(packaged)
    raise UserError("no such file; the shipped ones are in configs/")


def define_process_flags() -> Callable[[], None]:
    """Returns what joins processes that run a command together, having defined its flags.

    To be called once flags are parsed, and before anything that touches a device.
    """
    together = flags.DEFINE_bool(
        "multihost", False, "One of several processes that find each other: Cloud TPU, Slurm, MPI."
    )
    coordinator = flags.DEFINE_string("coordinator", "", "Elsewhere: host:port of process 0.")
    number = define_number_flag("num_processes", 0, "With --coordinator: of the run.", CountOrZero)
    process = define_number_flag(
        "process_id", -1, "With --coordinator: this one, from 0.", CountOrUnset
    )
    limit = define_number_flag("join_time_limit", 300, "Seconds to wait for the others.", Seconds)

    def join() -> None:
        hosts.join(
            coordinator.value,
            number.value,
            process.value,
            together=together.value,
            time_limit=limit.value,
        )

    return join


def define_seed_flag(help_string: str) -> flags.FlagHolder:
    """Returns the holder of --seed."""
    return define_number_flag("seed", 0, help_string, Seed)


def define_number_flag(
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


def define_path_flag(
    name: str, default: str | None, help_string: str, *, several: bool = False
) -> flags.FlagHolder:
    """Returns the holder of a flag that is a file or a folder of this machine; see above."""
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


def define_sampler_flags() -> Callable[[], dict[str, str]]:
    """Returns what gives the values {flag: value} of the flags it defines: how samples are drawn.

    They are parameters of parse_sampler(). Of rules, steps and temperatures some commands take
    several.
    """
    holders = (
        flags.DEFINE_string(
            "insertions", "poisson", "poisson (the paper's), binomial or binomial:temperature=0."
        ),
        flags.DEFINE_string(
            "grid",
            "linear",
            "Times of the steps: linear, sine (closer together towards the end), cosine (at the "
            "start) or polynomial:power=2.",
        ),
    )
    return lambda: {holder.name: holder.value for holder in holders}


def settings(*besides: str) -> dict[str, Any]:
    """Returns the values of the flags that decide results: all, besides those named."""
    own = flags.FLAGS.get_flags_for_module(sys.argv[0])
    return {flag.name: flag.value for flag in own if flag.name not in {*_PROCESS, *besides}}


_PROCESS = ("multihost", "coordinator", "num_processes", "process_id", "join_time_limit")


def check_insertions(processes: Iterable[Process]) -> None:
    """Raises UserError if --insertions is given for models of which none inserts."""
    if flags.FLAGS["insertions"].present and not any(process.inserts for process in processes):
        raise UserError("--insertions: MDM inserts nothing, its lengths are fixed; leave it out")


def shared_flags() -> str:
    """Returns the values of the command's flags, but for the one that tells processes apart."""
    own = flags.FLAGS.get_flags_for_module(sys.argv[0])
    return json_text({flag.name: flag.value for flag in own if flag.name != "process_id"})
