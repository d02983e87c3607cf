"""PyTorch's own files, read without running what is in them."""

import pathlib
import zipfile
from typing import Any

from flexmdm_jax.errors import UserError, first_line

# Lightning keeps the training config beside the weights, an OmegaConf object: read as empty shells.
_SHELL_PACKAGE = "omegaconf."
_SHELLS = frozenset(
    {"typing.Any", "collections.defaultdict"}
    | {f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool")}
)


class _Shell:
    """Stands for an object of another library; holds nothing and does nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


def load_pickle(path: pathlib.Path) -> Any:
    """Returns what torch.save() wrote: tensors and plain containers, and nothing that runs.

    Raises:
      UserError: If the file is missing or damaged, PyTorch is not installed, or it holds code.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a file of torch.save()") from None
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} needs PyTorch: pip install torch, or use safetensors instead"
        ) from None
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is truncated, damaged or no file of torch.save(); copy or download it again"
        )
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    if bad := [name for name in foreign if not _harmless(name)]:
        raise UserError(
            f"{path} holds code ({bad[0]}), which is never run; ask its maker for safetensors"
        )
    shells = [(type(name, (_Shell,), {}), name) for name in foreign]
    try:
        with torch.serialization.safe_globals(shells):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # Damage shows in many exception types.
        reason = first_line(error)
        raise UserError(f"{path} cannot be read ({reason}); copy or download it again") from None


def _harmless(name: str) -> bool:
    """Returns whether a class may be read as a shell, whose construction does nothing."""
    return name in _SHELLS or name.startswith(_SHELL_PACKAGE)
