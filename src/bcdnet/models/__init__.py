"""The networks. timm knows them by name as soon as it is imported, see `bcdnet._timm_hook`."""

from bcdnet.models.checkpoint import Loaded, describe, from_description, load_model, save_model, weight_bits_of
from bcdnet.models.mixer import MixerConfig
from bcdnet.models.mobilenet import MobileNetConfig
from bcdnet.models.network import DualHead, Network, NetworkConfig
from bcdnet.models.registry import (
    TIMM_LAYERS,
    VARIANTS,
    build,
    configure,
    default_preprocess,
    name_of,
    parameters_of,
)
from bcdnet.models.resnet import ResNetConfig
from bcdnet.models.wrappers import unwrapped

__all__ = [
    "TIMM_LAYERS",
    "VARIANTS",
    "DualHead",
    "Loaded",
    "MixerConfig",
    "MobileNetConfig",
    "Network",
    "NetworkConfig",
    "ResNetConfig",
    "build",
    "configure",
    "default_preprocess",
    "describe",
    "from_description",
    "load_model",
    "name_of",
    "parameters_of",
    "save_model",
    "unwrapped",
    "weight_bits_of",
]
