"""What the entry points share: one clear line for bad input, and where configs are found."""

import errno
import importlib.resources
import json
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from flexmdm_jax import hosts
from flexmdm_jax.config import check_field
from flexmdm_jax.errors import UserError

# What define_…_flags() define belongs to the command that calls them, and to its --help.
flags.disclaim_key_flags()


def run(main: Callable[[Sequence[str]], None], commands: Sequence[str] = ()) -> None:
    """Parses the flags, calls main, and exits: 2 with one line if the user can mend the cause.

    Args:
      main: Takes the arguments that are no flags, the program's name first.
      commands: If there are any, the first argument must be one of them.
    """
    logging.get_absl_logger().addFilter(_worth_logging)
    sys.unraisablehook = _report_unraisable
    app.define_help_flags()
    try:
        _run(main, commands)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        hosts.leave(1)
        raise


def _run(main: Callable[[Sequence[str]], None], commands: Sequence[str]) -> None:
    try:
        arguments = flags.FLAGS(_checked(sys.argv))
        if commands and (len(arguments) < 2 or arguments[1] not in commands):
            given = repr(arguments[1]) if len(arguments) > 1 else "nothing"
            raise UserError(f"expected one of {', '.join(commands)}, got {given}")
        if unexpected := arguments[1 + bool(commands) :]:
            raise UserError(f"unexpected argument {unexpected[0]!r}; options are --name=value")
        logging.use_absl_handler()
        main(arguments)
    except (flags.Error, UserError) as error:
        _exit(str(error))
    except (AttributeError, KeyError) as error:
        # ml_collections reports a --config.field that is not in the file this way.
        if flags.FLAGS.is_parsed():
            raise
        _exit(f"--config: the file does not set the field {error}; add it there")
    except OSError as error:
        if error.errno not in _USERS_ERRNO:
            raise
        _exit(f"{error.filename or 'file system'}: {_USERS_ERRNO[error.errno]}")
    except Exception as error:
        full = _full_disk(error)
        if not full:
            raise
        print(f"error: {_USERS_ERRNO[full]}", file=sys.stderr, flush=True)
        # Writers that could not finish would complain once more while Python shuts down.
        os._exit(2)


def _report_unraisable(details) -> None:
    """Prints an exception that nobody can catch, unless it only echoes a failed save.

    After one, TensorStore's callbacks find the event loop that Orbax waited in closed.
    """
    if str(details.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(details)


def _full_disk(error: BaseException | str | None) -> int | None:
    """Returns the errno of a full disk that TensorStore or ArrayRecord put in words, or None."""
    return next((number for number in _FULL if os.strerror(number) in str(error)), None)


def _worth_logging(record) -> bool:
    """Returns False for what Orbax's threads say of a full disk; main() says it in one line."""
    error = record.exc_info[1] if record.exc_info else None
    return not (_full_disk(record.getMessage()) or _full_disk(error))


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


def _exit(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    hosts.leave(2)
    sys.exit(2)


def _checked(argv: Sequence[str]) -> list[str]:
    """Returns argv with every --config.field known, and --config=FILE found where it lies."""
    checked = []
    for argument in argv:
        name, separator, value = argument.partition("=")
        if name.startswith("--config."):
            check_field(name.removeprefix("--"))
        if name == "--config" and separator:
            argument = f"{name}={_config_path(value)}"
        checked.append(argument)
    return checked


def _config_path(value: str) -> str:
    """Returns the config file, from the installed package if configs/x.py is not in the cwd."""
    path = pathlib.Path(value)
    if path.is_file():
        return value
    packaged = importlib.resources.files("flexmdm_jax") / "configs" / path.name
    if path.parent.name == "configs" and packaged.is_file():
        return str(packaged)
    raise UserError(f"no config file {value}; the shipped ones are in configs/")


def define_process_flags() -> Callable[[], None]:
    """Returns what joins processes that run a command together, having defined its flags.

    To be called once flags are parsed, and before anything that touches a device.
    """
    together = flags.DEFINE_bool(
        "multihost", False, "One of several processes that find each other: Cloud TPU, Slurm, MPI."
    )
    coordinator = flags.DEFINE_string("coordinator", "", "Elsewhere: host:port of process 0.")
    number = flags.DEFINE_integer("num_processes", 0, "With --coordinator: of the run.")
    process = flags.DEFINE_integer("process_id", -1, "With --coordinator: this one, from 0.")
    limit = flags.DEFINE_integer("join_time_limit", 300, "Seconds to wait for the others.")

    def join() -> None:
        require_positive(join_time_limit=limit.value)
        hosts.join(
            coordinator.value,
            number.value,
            process.value,
            together=together.value,
            time_limit=limit.value,
        )

    return join


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


def shared_flags() -> str:
    """Returns the values of the command's flags, but for the one that tells processes apart."""
    own = flags.FLAGS.get_flags_for_module(sys.argv[0])
    return json.dumps({flag.name: flag.value for flag in own if flag.name != "process_id"})


def require_positive(**values: int) -> None:
    """Raises UserError unless every value is at least 1; names are those of the flags."""
    for name, value in values.items():
        if value < 1:
            raise UserError(f"--{name}={value}: must be at least 1")
