"""Images and labels for training and evaluation: opening, checking, loading, batching, augmenting.

`load_splits(config, augment, seed)` gives the sets of a recipe, `Batches` their batches, `Augment` and
`evaluate_transform` the network's input.
"""

from bcdnet.data.augment import Augment
from bcdnet.data.batches import Batches
from bcdnet.data.check import check_dataset
from bcdnet.data.config import AugmentConfig, DataConfig, preprocess_of
from bcdnet.data.dataset import Dataset
from bcdnet.data.load import Splits, load_images, load_splits
from bcdnet.data.open import open_dataset
from bcdnet.data.resize import evaluate_transform
from bcdnet.data.sources import Images, Source, Stream

__all__ = [
    "Augment",
    "AugmentConfig",
    "Batches",
    "DataConfig",
    "Dataset",
    "Images",
    "Source",
    "Splits",
    "Stream",
    "check_dataset",
    "evaluate_transform",
    "load_images",
    "load_splits",
    "open_dataset",
    "preprocess_of",
]
