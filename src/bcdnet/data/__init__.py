"""Images and labels for training and evaluation: opening, checking, loading, batching, augmenting.

`load_train` and `load_images` give the sets of a recipe, `Batches` their batches, `Augment` and
`evaluate_transform` the network's input. Each name is imported when it is first used, because `open_dataset` reads
images without torch and the rest needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bcdnet.data.augment import Augment
    from bcdnet.data.batches import Batches
    from bcdnet.data.check import check_dataset
    from bcdnet.data.config import AugmentConfig, DataConfig, preprocess_of
    from bcdnet.data.dataset import Dataset
    from bcdnet.data.load import load_images, load_train
    from bcdnet.data.open import open_dataset
    from bcdnet.data.resize import evaluate_transform
    from bcdnet.data.sources import Images, Source, Stream

_HOMES = {
    "Augment": "augment",
    "AugmentConfig": "config",
    "Batches": "batches",
    "DataConfig": "config",
    "Dataset": "dataset",
    "Images": "sources",
    "Source": "sources",
    "Stream": "sources",
    "check_dataset": "check",
    "evaluate_transform": "resize",
    "load_images": "load",
    "load_train": "load",
    "open_dataset": "open",
    "preprocess_of": "config",
}

__all__ = [
    "Augment",
    "AugmentConfig",
    "Batches",
    "DataConfig",
    "Dataset",
    "Images",
    "Source",
    "Stream",
    "check_dataset",
    "evaluate_transform",
    "load_images",
    "load_train",
    "open_dataset",
    "preprocess_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bcdnet.data.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
