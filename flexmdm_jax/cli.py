"""How the commands run: flags parsed, and one clear line for whatever a user can mend."""

import errno
import logging as python_logging
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from flexmdm_jax import hosts
from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.overrides import check_overrides, overridden_paths


def run(main: Callable[[Sequence[str]], None], commands: Sequence[str] = ()) -> None:
    """Parses the flags, calls main, and ends as guard() says.

    Args:
      main: Takes the arguments that are no flags, the program's name first.
      commands: If there are any, the first argument must be one of them.
    """
    app.define_help_flags()
    guard(lambda: _parse_and_call(main, commands))


def guard(
    call: Callable[[], None], kept: str = "what was finished is kept, run the same command again"
) -> None:
    """Does what a command does, and exits: 2 with one line if the user can mend the cause.

    Ctrl-C ends it with one line and 130, as a shell counts it; a reader of its output that goes,
    such as head, without a line. Files are renamed into place: they are there as a whole or not.

    Args:
      call: The command, which reads its own command line.
      kept: Says what is left of a command that is interrupted.
    """
    for name in ("stdout", "stderr"):
        # Of a process that was started with the stream closed there is none.
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115
        setattr(sys, name, stream)
        # A terminal that lacks a character shows its number.
        stream.reconfigure(errors="backslashreplace")
    logging.get_absl_logger().addFilter(_worth_logging)
    python_logging.getLogger("jax._src.xla_bridge").addFilter(_in_a_line)
    sys.unraisablehook = _report_unraisable
    try:
        try:
            _call(call, kept)
        finally:
            # Here, not while Python shuts down, where it would be complained of.
            _flush()
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


def _flush() -> None:
    """Writes what was printed; where that cannot be, says so once."""
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Unless that is the very reason to end.
        if not isinstance(error.__context__, SystemExit):
            exit_with(f"standard output: {error.strerror}")


def _nobody_reads() -> bool:
    """Returns whether standard output is a pipe whose reader, such as head, has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _parse_and_call(main: Callable[[Sequence[str]], None], commands: Sequence[str]) -> None:
    check_overrides(overridden_paths(sys.argv))
    arguments = _parsed(sys.argv)
    if commands and (len(arguments) < 2 or arguments[1] not in commands):
        given = repr(arguments[1]) if len(arguments) > 1 else "nothing"
        raise UserError(f"expected one of {', '.join(commands)}, got {given}")
    if unexpected := arguments[1 + bool(commands) :]:
        raise UserError(f"unexpected argument {unexpected[0]!r}; options are --name=value")
    _check_given()
    logging.use_absl_handler()
    main(arguments)


def _call(call: Callable[[], None], kept: str) -> None:
    """Calls it, and ends with one line where the user can mend what went wrong."""
    try:
        _check_texts(sys.argv)
        call()
    except (flags.Error, UserError) as error:
        exit_with(str(error))
    except KeyboardInterrupt:
        # What is finished has been written: shards, checkpoints, files that were renamed.
        exit_with(f"interrupted; {kept}", 130)
    except OSError as error:
        if error.errno not in _USERS_ERRNO:
            raise
        exit_with(f"{error.filename or 'file system'}: {_USERS_ERRNO[error.errno]}")
    except Exception as error:
        if reason := _no_backend(error):
            exit_with(f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {reason}")
        if asked := _out_of_memory(error):
            exit_with(asked)
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


def own_flags() -> list[flags.Flag]:
    """Returns the flags of the command that runs, those that it shares with others among them."""
    return flags.FLAGS.get_flags_for_module(sys.argv[0])


def _check_given() -> None:
    """Raises UserError if a flag without a default is given nothing, or a path or source twice."""
    for flag in own_flags():
        values = flag.value if isinstance(flag.value, list) else [flag.value]
        if flag.default is None and "" in values:
            raise UserError(f"--{flag.name}= is empty; give it a value or leave it out")
        is_input = flag.flag_type() == "path" or flag.name == "source"
        if is_input and flag.present > 1 and not isinstance(flag.value, list):
            raise UserError(f"--{flag.name} is given twice, and only one can be; leave one out")


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


def _no_backend(error: Exception) -> str | None:
    """Returns why JAX has no devices, if that is what an error says."""
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    if isinstance(error, AssertionError) and where.endswith("xla_bridge.py"):
        return "JAX finds no such device here; choose another or leave it out"
    return str(error) if str(error).startswith(_NO_BACKEND) else None


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


def _in_a_line(record) -> bool:
    """Has JAX say in a line why a plugin cannot be used, that of GPUs where there is none."""
    if record.exc_info and record.exc_info[1]:
        record.msg = f"{record.getMessage()}: {first_line(record.exc_info[1])}"
        record.args, record.exc_info = (), None
    return True


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
    errno.ENAMETOOLONG: "this name is longer than the file system allows; choose a shorter one",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another",
}


def exit_with(message: str, status: int = 2) -> None:
    """Ends the process with a message as one line."""
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    hosts.leave(status)
    sys.exit(status)
