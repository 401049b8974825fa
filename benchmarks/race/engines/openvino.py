"""OpenVINO's CPU plugin: networks in fp32 and int8, and its BinaryConvolution as a network of one layer.

int8 comes in two forms: quantised by NNCF, OpenVINO's own tool, and ONNX Runtime's QDQ file, which OpenVINO reads.
"""

from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
from openvino import opset1

from race.worker import Runner

CALIBRATION_IMAGES = 8


def versions() -> dict[str, Any]:
    return {"openvino": openvino.get_version(), "nncf": nncf.__version__, "numpy": np.__version__}


def prepare(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """`<name>.nncf.xml` beside each `<name>.onnx`."""
    generator = np.random.default_rng(0)
    for name in spec["networks"]:
        if (folder / f"{name}.nncf.xml").exists():
            continue
        images = [generator.standard_normal((1, 3, 224, 224), dtype=np.float32) for _ in range(CALIBRATION_IMAGES)]
        model = openvino.Core().read_model(folder / f"{name}.onnx")
        quantised = nncf.quantize(model, nncf.Dataset(images), subset_size=CALIBRATION_IMAGES)
        openvino.save_model(quantised, folder / f"{name}.nncf.xml", compress_to_fp16=False)
    return {}


def _binary_layer(outputs: int, inputs: int, kernel: int, size: int) -> openvino.Model:
    """float map [1, I, H, W] -> bits -> BinaryConvolution with random weights, padded with zeros -> float map."""

    def scalar(value: float) -> Any:
        return opset1.constant(np.full((1, 1, 1, 1), value, np.float32))

    x = opset1.parameter([1, inputs, size, size], openvino.Type.f32)
    bits = opset1.fake_quantize(x, scalar(0), scalar(0), scalar(0), scalar(1), 2)
    weight = openvino.Tensor(openvino.Type.u1, openvino.Shape([outputs, inputs, kernel, kernel]))
    weight.data[:] = np.random.default_rng(0).integers(0, 256, weight.data.size, dtype=np.uint8)
    pad = [kernel // 2] * 2
    constant = openvino.op.Constant(weight, shared_memory=False)
    layer = opset1.binary_convolution(bits, constant, [1, 1], pad, pad, [1, 1], "xnor-popcount", 0.0)
    return openvino.Model([layer], [x], "layer")


def load(folder: Path, spec: dict[str, Any]) -> Runner:
    core = openvino.Core()
    model = _binary_layer(*spec["layer"]) if spec["layer"] else core.read_model(folder / spec["file"])
    options = {
        "INFERENCE_NUM_THREADS": spec["threads"],
        "PERFORMANCE_HINT": "LATENCY",
        # No engine pins its threads here: where another process takes one core, the scheduler may choose the other.
        "ENABLE_CPU_PINNING": False,
    }
    if spec["precision"]:
        options["INFERENCE_PRECISION_HINT"] = spec["precision"]
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    shape = tuple(compiled.input(0).shape)
    feed = [np.random.default_rng(0).standard_normal(shape, dtype=np.float32)]
    detail = {"precision": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()}
    if not spec["layer"]:
        return Runner(lambda: request.infer(feed), detail=detail)
    # Counting costs time, so the network's whole time is taken from the request that does not count.
    counting = core.compile_model(model, "CPU", options | {"PERF_COUNT": True}).create_infer_request()

    def kernel() -> float:
        counting.infer(feed)
        return _binary_profile(counting).real_time.total_seconds()

    counting.infer(feed)
    return Runner(lambda: request.infer(feed), kernel, detail | {"kernel": _binary_profile(counting).exec_type})


def _binary_profile(request: Any) -> Any:
    return next(row for row in request.profiling_info if row.node_type == "BinaryConvolution")
