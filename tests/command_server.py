"""Runs commands, each in a fork of this process; started by commands.py.

A request is a line of JSON: a command's module, argv, folder, environment and the files its output
goes to, answered by the fork's number; or such a number, answered by its exit status once it has
ended. Importing what commands share takes longer than most of them; a command's own module, which
defines its flags, is not among it.
"""

import atexit
import gc
import importlib
import json
import os
import pathlib
import pkgutil
import runpy
import sys
import threading

from effort import THOROUGH

import flexmdm_jax

COMMANDS = {
    *("aot", "convert", "evaluate", "harness", "prepare", "quickstart", "sample", "serve", "train"),
}


def import_shared_modules():
    for module in pkgutil.walk_packages(flexmdm_jax.__path__, "flexmdm_jax."):
        # Who needs lm-evaluation-harness imports it, and that takes long.
        if not {*COMMANDS, "configs"}.intersection(module.name.split(".")):
            importlib.import_module(module.name)


def become(request):
    """Makes this process the one that a command asks for."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for stream, path in enumerate((os.devnull, request["stdout"], request["stderr"])):
        opened = os.open(path, os.O_RDONLY if stream == 0 else os.O_WRONLY)
        os.dup2(opened, stream)
        os.close(opened)
    sys.argv = request["argv"]
    # As python -m finds it: first in the folder it was started in.
    sys.path.insert(0, "")


def serve():
    """Returns the module to run, in a fork; the process itself never returns."""
    for line in sys.stdin:
        request = json.loads(line)
        if "child" in request:
            _, status = os.waitpid(request["child"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if not child:
            become(request)
            return request["module"]
        print(child, flush=True)
    os._exit(0)


def run_and_leave(module):
    """Runs a module as python -m does, and leaves all that was imported as it is.

    Python takes it apart, object by object, which takes several times as long as a command that is
    refused. Only thorough tests see what goes wrong then.
    """
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.path.remove(str(pathlib.Path(__file__).parent))
    # As in conftest.py.
    gc.set_threshold(10_000, 20, 20)
    import_shared_modules()
    # Else each fork walks through all of it, and so copies it, when it ends.
    gc.freeze()
    print("ready", flush=True)
    if THOROUGH:
        runpy.run_module(serve(), run_name="__main__", alter_sys=True)
    run_and_leave(serve())
