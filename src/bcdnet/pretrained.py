"""The trained models that come with the package, as packed files beside their model cards."""

import os
from pathlib import Path

from bcdnet.program.file import is_safetensors
from bcdnet.program.schema import METADATA_KEY

FOLDER = Path(__file__).parent / "weights"
SUFFIX = ".bcdn"


def list_pretrained() -> list[str]:
    """Names that `InferenceSession` takes instead of a path."""
    return sorted(path.stem for path in FOLDER.glob(f"[!.]*{SUFFIX}"))  # hidden ones are half written


def locate(model: str | os.PathLike[str]) -> Path:
    """The file of a shipped model's name; anything else is a path, which need not exist.

    A Path is no name: that of "./NAME" is "NAME".
    """
    return FOLDER / f"{model}{SUFFIX}" if isinstance(model, str) and model in list_pretrained() else Path(model)


def is_packed(model: str) -> bool:
    """Whether a name means a packed file: a shipped model, a path that ends like one, a file that begins like one."""
    return model.endswith(SUFFIX) or model in list_pretrained() or is_safetensors(Path(model), METADATA_KEY)
