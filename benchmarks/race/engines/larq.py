"""Larq Compute Engine: ReActNet-A built from larq's layers, converted, run by its own interpreter.

N images, H x W positions, C channels, in this order.
"""

from pathlib import Path
from typing import Any

import larq
import larq_compute_engine
import numpy as np
import tensorflow as tf
from larq_compute_engine.tflite.python.interpreter import Interpreter

from race.worker import Runner

VERSION = "0.16.0"
LAYERS = tf.keras.layers


def versions() -> dict[str, Any]:
    return {
        "larq-compute-engine": VERSION,
        "larq": larq.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }


class Bias(LAYERS.Layer):
    """A learnable bias per channel: half of RSign, and both ends of RPReLU."""

    def build(self, shape: Any) -> None:
        self.bias = self.add_weight("bias", (shape[-1],), initializer=tf.keras.initializers.RandomNormal(stddev=0.1))

    def call(self, x: Any) -> Any:
        return x + self.bias


def _binary(x: Any, channels: int, kernel: int, stride: int) -> Any:
    """Binary convolution and BN, which the converter fuses; padded with ones, as this engine prefers it."""
    convolution = larq.layers.QuantConv2D(
        channels,
        kernel,
        strides=stride,
        padding="same",
        pad_values=1.0,
        input_quantizer="ste_sign",
        kernel_quantizer="ste_sign",
        kernel_constraint="weight_clip",
        use_bias=False,
    )
    return LAYERS.BatchNormalization()(convolution(x))


def _rprelu(x: Any) -> Any:
    slope = LAYERS.PReLU(shared_axes=[1, 2], alpha_initializer=tf.keras.initializers.Constant(0.25))
    return Bias()(slope(Bias()(x)))


def _block(x: Any, channels: int, stride: int) -> Any:
    """Binary 3x3, then binary 1x1, once or, where channels double, twice on one input."""
    width = x.shape[-1]
    shortcut = LAYERS.AveragePooling2D(2, 2)(x) if stride == 2 else x
    x = _rprelu(LAYERS.Add()([_binary(Bias()(x), width, 3, stride), shortcut]))
    bits = Bias()(x)
    halves = [LAYERS.Add()([_binary(bits, width, 1, 1), x]) for _ in range(channels // width)]
    return _rprelu(halves[0] if len(halves) == 1 else LAYERS.Concatenate()(halves))


def _reactnet_a() -> Any:
    image = LAYERS.Input((224, 224, 3))
    x = LAYERS.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(image)
    x = LAYERS.BatchNormalization()(x)
    widths = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    for channels in widths:
        x = _block(x, channels, 2 if channels != x.shape[-1] and channels != 64 else 1)
    return tf.keras.Model(image, LAYERS.Dense(1000)(LAYERS.GlobalAveragePooling2D()(x)))


def prepare(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    target = folder / f"reactnet_a.lce-{VERSION}.tflite"
    if not target.exists():
        tf.keras.utils.set_random_seed(0)
        partial = target.with_suffix(".partial")
        partial.write_bytes(larq_compute_engine.convert_keras_model(_reactnet_a()))
        partial.rename(target)
    return {}


def load(folder: Path, spec: dict[str, Any]) -> Runner:
    file = folder / f"reactnet_a.lce-{VERSION}.tflite"
    indirect = spec["kernels"] == "indirect"
    interpreter = Interpreter(file.read_bytes(), num_threads=spec["threads"], use_indirect_bgemm=indirect)
    image = np.random.default_rng(0).standard_normal((1, 224, 224, 3), dtype=np.float32)
    return Runner(lambda: interpreter.predict(image), detail={"bytes": file.stat().st_size})
