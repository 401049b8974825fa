"""The trained models that come with the package, as packed files beside their model cards."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "weights"


def list_pretrained() -> list[str]:
    """Names that `InferenceSession` takes instead of a path."""
    return sorted(path.stem for path in FOLDER.glob("*.bcdn"))


def locate(model: str | os.PathLike[str]) -> Path:
    """The file of a shipped model's name; anything else is a path, which need not exist."""
    return FOLDER / f"{model}.bcdn" if str(model) in list_pretrained() else Path(model)
