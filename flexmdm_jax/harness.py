"""EleutherAI's lm-evaluation-harness with a model more, `flexmdm`, which is a trained run.

python -m flexmdm_jax.harness --model flexmdm --model_args workdir=runs/demo --tasks hellaswag
"""

from flexmdm_jax import cli
from flexmdm_jax.errors import UserError


def main() -> None:
    """Runs the harness' own command line."""
    try:
        # The model's module says in a line if the harness is missing.
        from flexmdm_jax.evaluation import harness  # noqa: F401, I001
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except UserError as error:
        cli.exit_with(str(error))


if __name__ == "__main__":
    main()
