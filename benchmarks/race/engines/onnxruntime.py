"""ONNX Runtime's CPU provider: fp32, and int8 by its own static quantisation (QDQ)."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from race.worker import Runner

CALIBRATION_IMAGES = 8


def versions() -> dict[str, Any]:
    return {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__, "numpy": np.__version__}


class _RandomImages(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.images = [generator.standard_normal((1, 3, 224, 224), dtype=np.float32) for _ in range(CALIBRATION_IMAGES)]

    def get_next(self) -> dict[str, Any] | None:
        return {"image": self.images.pop()} if self.images else None


def prepare(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """`<name>.qdq.onnx` beside each `<name>.onnx`: u8 activations, i8 weights per output channel."""
    for name in spec["networks"]:
        target = folder / f"{name}.qdq.onnx"
        if target.exists():
            continue
        ready, partial = folder / f"{name}.ready.onnx", folder / f"{name}.qdq.partial"
        quant_pre_process(folder / f"{name}.onnx", ready)
        quantization.quantize_static(
            ready,
            partial,
            _RandomImages(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        ready.unlink()
        partial.rename(target)
    return {}


def load(folder: Path, spec: dict[str, Any]) -> Runner:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / spec["file"], options, providers=["CPUExecutionProvider"])
    feed = {"image": np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)}
    return Runner(lambda: session.run(None, feed))
