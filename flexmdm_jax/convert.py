"""Weights in and out: python -m flexmdm_jax.convert llada --from=LLaDA-8B-Base --out=data/llada.

llada    a downloaded LLaDA or LLaMA (--from), or a GGUF file of one -> a base folder
export   a base folder (--from) -> safetensors and config.json
merge    a run (--from) -> a run without adapters, with a base of its own
peft     a run (--from) -> PEFT adapters, or PEFT adapters (--from) and --config -> a run
flexmdm  a checkpoint of the paper's code (--from) and --config -> a run
xlm      a FlexMDM of xlm-core (--from), a folder -> a run
"""

import pathlib

from absl import flags, logging

from flexmdm_jax import cli, options
from flexmdm_jax.config import Config, read_config
from flexmdm_jax.conversion.base import open_base
from flexmdm_jax.conversion.flexmdm_torch import exchange_rows, read_flexmdm
from flexmdm_jax.conversion.llada import export_model, import_model
from flexmdm_jax.conversion.peft import is_peft, read_peft
from flexmdm_jax.conversion.sources import SpecialIds
from flexmdm_jax.conversion.xlm import check_tokenizer, gpt2_with, read_xlm, read_xlm_config
from flexmdm_jax.data.tokenizers import GPT2Tokenizer, Tokenizer, make_tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.ranges import CountOrZero
from flexmdm_jax.training.frozen import open_matching_base
from flexmdm_jax.training.imports import export_adapters, import_run, merge_run
from flexmdm_jax.training.state import Setup

_FROM = options.define_path("from", None, "What to convert.")
_OUT = options.define_path("out", None, "Folder to make; must not hold files yet.")
_BASE = options.define_path("base", "", "A run's base folder, if not where its config says.")
_CONFIG = options.define_config("Of the run to make.")
_TOKENIZER = flags.DEFINE_string("tokenizer", "gpt2", "Of the run to make; see prepare.")
_TOKENIZER_DIR = options.define_path("tokenizer_dir", None, "Folder of GPT-2's two files.")
_PAD = options.define_number("pad_id", 50257, "Of a checkpoint of the paper's code.", CountOrZero)
_MASK = options.define_number("mask_id", 50258, "Of a checkpoint of the paper's code.", CountOrZero)
_MASK_OF_BASE = flags.DEFINE_string(
    "mask", "", "MASK of a base: an id, new (a row of its own) or none; else as the model says."
)
_END = options.define_number("end", None, "END of a base or of xlm, if not the usual.", CountOrZero)


def _llada(source: pathlib.Path, out: pathlib.Path) -> None:
    print(import_model(source, out, SpecialIds(_MASK_OF_BASE.value, _END.value)))


def _export(source: pathlib.Path, out: pathlib.Path) -> None:
    export_model(open_base(source), out)


def _merge(source: pathlib.Path, out: pathlib.Path) -> None:
    merge_run(source, out, _BASE.value)


def _peft(source: pathlib.Path, out: pathlib.Path) -> None:
    if not is_peft(source):
        export_adapters(source, out, _BASE.value)
        return

    def read(setup: Setup, shapes):
        if getattr(setup.model, "lora", None) is None:
            raise UserError("--config has no adapters: set config.model.llada.lora.rank")
        architecture = open_matching_base(setup).architecture
        return read_peft(source, architecture, setup.model.lora, shapes)

    import_run(out, _config(), _tokenizer(), read)


def _flexmdm(source: pathlib.Path, out: pathlib.Path) -> None:
    def read(setup: Setup, shapes):
        theirs = {"mask": _MASK.value, "end": _PAD.value}
        ours = {"mask": setup.process.vocabulary.mask, "end": setup.process.vocabulary.end}
        return exchange_rows(read_flexmdm(source, shapes), theirs, ours)

    config = _config()
    if config.model.kind != "dit":
        raise UserError("--config: the paper's checkpoints are DiTs; set config.model.kind='dit'")
    import_run(out, config, _tokenizer(), read)


def _xlm(source: pathlib.Path, out: pathlib.Path) -> None:
    config, mask, rows = read_xlm_config(source)
    tokenizer = _tokenizer()
    if isinstance(tokenizer, GPT2Tokenizer):
        own_end = tokenizer.vocabulary.mask - 1
        tokenizer = gpt2_with(tokenizer, rows, mask, own_end if _END.value is None else _END.value)
    check_tokenizer(tokenizer, rows, mask, config.model.xlm.pad, source)
    import_run(out, config, tokenizer, lambda _, shapes: read_xlm(source, config, shapes))


def _config() -> Config:
    if _CONFIG.value is None:
        raise UserError("--config is missing; it says what the run to make is")
    return read_config(_CONFIG.value)


def _tokenizer() -> Tokenizer:
    directory = pathlib.Path(_TOKENIZER_DIR.value) if _TOKENIZER_DIR.value else None
    return make_tokenizer(_TOKENIZER.value, (), directory)


COMMANDS = {
    "llada": _llada,
    "export": _export,
    "merge": _merge,
    "peft": _peft,
    "flexmdm": _flexmdm,
    "xlm": _xlm,
}

# Flags that some commands take alone.
_GO_WITH = {
    "base": ("merge", "peft"),
    "config": ("peft", "flexmdm"),
    "tokenizer": ("peft", "flexmdm", "xlm"),
    "tokenizer_dir": ("peft", "flexmdm", "xlm"),
    "pad_id": ("flexmdm",),
    "mask_id": ("flexmdm",),
    "mask": ("llada",),
    "end": ("llada", "xlm"),
}


def main(arguments):
    """Runs the command."""
    logging.set_verbosity(logging.ERROR)
    command = arguments[1]
    for name, commands in _GO_WITH.items():
        if flags.FLAGS[name].present and command not in commands:
            raise UserError(f"--{name} is for {' and '.join(commands)}; leave it out")
    if _BASE.value and is_peft(pathlib.Path(_FROM.value)):
        raise UserError("--base is that of a run, and --from holds adapters; leave it out")
    COMMANDS[command](pathlib.Path(_FROM.value), pathlib.Path(_OUT.value))
    print(f"{command}: {_OUT.value}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["from", "out"])
    cli.run(main, commands=tuple(COMMANDS))
