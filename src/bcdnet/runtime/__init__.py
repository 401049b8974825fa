"""Run packed programs: numpy, safetensors, Pillow and the native core; never torch."""

from bcdnet.pretrained import list_pretrained
from bcdnet.runtime.prediction import Prediction
from bcdnet.runtime.session import InferenceSession, NodeArg, OpProfile, available_targets

__all__ = ["InferenceSession", "NodeArg", "OpProfile", "Prediction", "available_targets", "list_pretrained"]
