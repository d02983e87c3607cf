"""All commands under one name: flexmdm train …, or python -m flexmdm_jax train …"""

import runpy
import sys

from flexmdm_jax import __version__
from flexmdm_jax.fields import nearest

# In the order in which they are first needed.
COMMANDS = {
    "quickstart": "does all that follows with a text of yours, in the minutes that you give it",
    "prepare": "makes a dataset of texts, or of a task whose truth is known",
    "train": "trains a model on one; the same command again goes on where it stopped",
    "sample": "writes texts: from nothing, after a prompt, into gaps",
    "evaluate": "measures a trained model, or several side by side",
    "harness": "has it do the tasks of EleutherAI's lm-evaluation-harness",
    "serve": "answers over HTTP as OpenAI's completions do, with a page to play on",
    "convert": "takes weights of other libraries in, and gives them out",
    "aot": "compiles for TPUs and GPUs that are not there: what they would need",
}


def main() -> None:
    """Runs the command that the first argument names, as python -m flexmdm_jax.NAME would."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-help", "-h", "help"):
        print(_overview())
    elif name in ("--version", "-version"):
        print(f"flexmdm_jax {__version__}")
    elif name in COMMANDS:
        # Flags belong to the module whose file stands first, whichever way it was started.
        sys.argv = ["", *rest]
        runpy.run_module(f"flexmdm_jax.{name}", run_name="__main__", alter_sys=True)
    else:
        print(f"error: unknown command {name!r}{nearest(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    usage = "usage: flexmdm COMMAND --name=value ...; flexmdm COMMAND --help has its flags"
    return "\n".join([usage, "", *lines])


if __name__ == "__main__":
    main()
