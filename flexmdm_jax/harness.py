"""EleutherAI's lm-evaluation-harness with a model more, `flexmdm`, which is a trained run.

python -m flexmdm_jax.harness --model flexmdm --model_args workdir=runs/mine --tasks hellaswag
"""

import traceback

from flexmdm_jax import cli
from flexmdm_jax.errors import UserError, first_line

# Where the harness checks what its command line says.
_CHECKS = ("lm_eval/config/evaluate_config.py", "lm_eval/evaluator.py")


def main() -> None:
    """Runs the harness' own command line.

    Raises:
      UserError: If the harness is missing, or something on the command line is wrong.
    """
    # The model's module says in a line if the harness is missing.
    from flexmdm_jax.evaluation import harness  # noqa: F401, I001
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except (OSError, TypeError, ValueError) as error:
        if not traceback.extract_tb(error.__traceback__)[-1].filename.endswith(_CHECKS):
            raise
        raise UserError(f"{first_line(error)}; see --help and ls tasks") from None


if __name__ == "__main__":
    cli.guard(main, kept="with --use_cache=PATH, what was answered is kept")
