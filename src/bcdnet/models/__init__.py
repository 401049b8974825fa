"""The networks; importing this package registers them with timm."""

from bcdnet.models.checkpoint import Loaded, describe, from_description, load_model, save_model, weight_bits_of
from bcdnet.models.mixer import MixerConfig
from bcdnet.models.mobilenet import MobileNetConfig
from bcdnet.models.network import DualHead, Network, NetworkConfig
from bcdnet.models.registry import FAMILIES, TIMM_LAYERS, VARIANTS, build, configure, create_for_timm, name_of
from bcdnet.models.resnet import ResNetConfig
from bcdnet.models.wrappers import unwrapped

__all__ = [
    "FAMILIES",
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
    "create_for_timm",
    "describe",
    "from_description",
    "load_model",
    "name_of",
    "save_model",
    "unwrapped",
    "weight_bits_of",
]
