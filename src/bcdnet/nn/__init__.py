"""The paper's building blocks."""

from bcdnet.nn.activation import RPReLU, RSign, Sign
from bcdnet.nn.binary import BinaryConv2d, BinaryLayer, BinaryLinear, binarize_weight, set_weight_bits, undecayed
from bcdnet.nn.conv import ContextualConvBlock, Duplicate, make_shortcut
from bcdnet.nn.embedding import ContextHead, ContextLinear, ContextualEmbedding, SpatialMean
from bcdnet.nn.mixer import TokenMixingBlock
from bcdnet.nn.mlp import BinaryMLPBlock, PointwiseBlock
from bcdnet.nn.recompute import recomputed
from bcdnet.nn.rescale import rescale_latent_weights
from bcdnet.nn.shift import LongRangeShift, ShortRangeShift
from bcdnet.nn.sign import ESTIMATORS, set_progress, sign
from bcdnet.nn.statistics import drop_statistics, lacks_statistics, restore_statistics

__all__ = [
    "ESTIMATORS",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "BinaryMLPBlock",
    "ContextHead",
    "ContextLinear",
    "ContextualConvBlock",
    "ContextualEmbedding",
    "Duplicate",
    "LongRangeShift",
    "PointwiseBlock",
    "RPReLU",
    "RSign",
    "ShortRangeShift",
    "Sign",
    "SpatialMean",
    "TokenMixingBlock",
    "binarize_weight",
    "drop_statistics",
    "lacks_statistics",
    "make_shortcut",
    "recomputed",
    "rescale_latent_weights",
    "restore_statistics",
    "set_progress",
    "set_weight_bits",
    "sign",
    "undecayed",
]
