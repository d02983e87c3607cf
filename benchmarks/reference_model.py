"""Shows that a converted LLaMA is still itself: it goes on with a sentence, and scores a text.

python -m benchmarks.reference_model --base=data/smollm2
"""

import pathlib
import re
import sys

import numpy as np
from absl import flags, logging

from flexmdm_jax import cli, options
from flexmdm_jax.evaluation.reference import PIECE, open_reference

README = str(pathlib.Path(__file__).parents[1] / "README.md")
_BASE = options.define_path("base", None, "Folder that `convert llada` wrote.")
_PROMPT = flags.DEFINE_string("prompt", "The capital of France is", "What it goes on from.")
_EXPECT = flags.DEFINE_string("expect", "Paris", "A word of what has to follow; empty: any.")
_TEXT = options.define_path("text", README, "What is scored, paragraph by paragraph.")


def paragraphs(text: str) -> list[str]:
    """Returns the paragraphs of prose of a Markdown file: no tables, lists, commands or titles."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    blocks = (block.strip() for block in prose.split("\n\n"))
    return [block for block in blocks if re.match(r"[\w*\[]", block) and len(block) > 80]


def main(_):
    logging.set_verbosity(logging.ERROR)
    reference = open_reference(_BASE.value)
    following = reference.greedy(_PROMPT.value, 12)
    print(f"{_PROMPT.value}|{following}")
    if _EXPECT.value not in following:
        sys.exit(f"{_EXPECT.value!r} does not follow: this is not the model that it should be")
    texts = paragraphs(pathlib.Path(_TEXT.value).read_text())
    nats = reference.nats(texts)
    error = np.std(nats) / np.sqrt(len(nats))
    print(
        f"{np.mean(nats):.2f} ± {error:.2f} nats per token of {pathlib.Path(_TEXT.value).name} "
        f"({len(nats):,} tokens in {len(texts)} paragraphs, pieces of {PIECE})"
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("base")
    cli.run(main)
