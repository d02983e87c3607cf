"""EleutherAI's lm-evaluation-harness with a model more, `flexmdm`, which is a trained run.

python -m flexmdm_jax.harness --model flexmdm --model_args workdir=runs/mine --tasks hellaswag
"""

from flexmdm_jax import cli


def main() -> None:
    """Runs the harness' own command line."""
    # The model's module says in a line if the harness is missing.
    from flexmdm_jax.evaluation import harness  # noqa: F401, I001
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    cli.guard(main, kept="with --use_cache=PATH, what was answered is kept")
