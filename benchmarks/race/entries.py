"""Who runs: every network and single layer on every engine, and the worker process that measures it."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

THREADS = (1, 2)
CAPPED = " @AVX2"  # ends the name of an engine that was told to use AVX2 at most

# Published top-1 on ImageNet-1K (%) of the float network, or of the binary one.
# MobileNet-V1 and ResNet-18 as in the BCDNet paper (arXiv 2209.01404); MobileNet-V2: arXiv 1801.04381;
# MobileNet-V3-Large: arXiv 1905.02244; ReActNet-A: arXiv 2003.03488.
ACCURACY = {
    "MobileNet-V1": 70.6,
    "MobileNet-V2": 72.0,
    "MobileNet-V3-Large": 75.2,
    "ResNet-18": 69.3,
    "ReActNet-A": 69.4,
    "BCDNet-A": 71.8,
    "BCDNet-B": 72.3,
}
FLOAT_NETWORKS = {  # timm's names
    "MobileNet-V1": "mobilenetv1_100",
    "MobileNet-V2": "mobilenetv2_100",
    "MobileNet-V3-Large": "mobilenetv3_large_100",
    "ResNet-18": "resnet18",
}
PACKED_NETWORKS = {"BCDNet-A": "bcdnet_a", "BCDNet-B": "bcdnet_b", "ReActNet-A": "reactnet_a"}
# Binary layers by name: (output channels, input channels, kernel size, map size); stride 1, padded to keep the map.
LAYERS = {
    f"{outputs}x{inputs}x{kernel}x{kernel}@{size}": (outputs, inputs, kernel, size)
    for outputs, inputs, kernel, size in (
        (512, 512, 3, 14),
        (256, 256, 3, 28),
        (1024, 1024, 1, 7),
        (1024, 1024, 3, 7),
        (128, 128, 3, 56),
        (64, 64, 3, 56),
        (512, 512, 1, 14),
    )
}
ARITHMETICS = {
    "PyTorch, bcdnet.nn": "module",
    "PyTorch, weights scaled first": "scaled",
    "PyTorch, weights scaled first and estimators": "surrogate",
}


def macs(layer: tuple[int, int, int, int]) -> int:
    """Multiply-accumulates of one of LAYERS, borders counted as if they had all taps."""
    outputs, inputs, kernel, size = layer
    return outputs * inputs * kernel**2 * size**2


@dataclass(frozen=True)
class Environment:
    """The Python interpreters that hold the engines."""

    ours: Path = Path(sys.executable)
    bench: Path = Path(".venv-bench/bin/python")
    lce: Path = Path(".venv-lce/bin/python")


@dataclass(frozen=True)
class Worker:
    """A process to start: which engine, in which of the environments, with which variables."""

    engine: str
    environment: str
    variables: dict[str, str] = field(default_factory=dict)


_ONEDNN_AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
WORKERS = {
    "bcdnet": Worker("bcdnet", "ours"),
    "pytorch": Worker("pytorch", "ours"),
    "pytorch-avx2": Worker(
        "pytorch", "ours", {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"} | _ONEDNN_AVX2
    ),
    "onnxruntime": Worker("onnxruntime", "bench"),
    "openvino": Worker("openvino", "bench", {"NNCF_CI": "1"}),  # no telemetry
    "openvino-avx2": Worker("openvino", "bench", {"NNCF_CI": "1"} | _ONEDNN_AVX2),
    "larq": Worker(
        "larq", "lce", {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ),
}


@dataclass(frozen=True)
class Entry:
    """One network (or layer) on one engine with a number of threads; `spec` is for the engine's `load`."""

    network: str
    engine: str
    threads: int
    worker: str
    spec: dict[str, Any] = field(compare=False)

    @property
    def key(self) -> str:
        return key(self.network, self.engine, self.threads)


def key(network: str, engine: str, threads: int = 1) -> str:
    """The name of an entry in results.json."""
    return f"{network} | {engine} | {threads}"


def ours(target: str) -> str:
    """Our engine's name for an instruction set of `bcdnet.runtime.available_targets()`."""
    return f"bcdnet {target}"


def our_targets(available: list[str]) -> list[str]:
    """AVX2, to which the requirements apply, and the best of this machine: two names or one."""
    return list(dict.fromkeys(["AVX2" if "AVX2" in available else available[0], available[0]]))


def entries(targets: list[str]) -> list[Entry]:
    """All of them, for our instruction sets `targets`."""
    found: list[Entry] = []

    def add(network: str, engine: str, worker: str, threads: tuple[int, ...] = THREADS, /, **spec: Any) -> None:
        found.extend(Entry(network, engine, count, worker, spec | {"threads": count}) for count in threads)

    for network, name in PACKED_NETWORKS.items():
        for target in targets:
            add(network, ours(target), "bcdnet", file=f"{name}.bcdn", target=target, layer=False)
    for engine, arithmetic in ARITHMETICS.items():
        spec = {"network": "bcdnet_a", "arithmetic": arithmetic}
        add("BCDNet-A", engine, "pytorch", **spec)
        add("BCDNet-A", engine + CAPPED, "pytorch-avx2", (1,), **spec)
    for network, name in FLOAT_NETWORKS.items():
        add(network, "ONNX Runtime fp32", "onnxruntime", file=f"{name}.onnx")
        add(network, "ONNX Runtime int8", "onnxruntime", file=f"{name}.qdq.onnx")
        for engine, file, precision in (
            ("OpenVINO fp32", f"{name}.onnx", "f32"),
            ("OpenVINO default", f"{name}.onnx", None),
            ("OpenVINO int8 (NNCF)", f"{name}.nncf.xml", None),
            ("OpenVINO int8 (QDQ)", f"{name}.qdq.onnx", None),
        ):
            add(network, engine, "openvino", file=file, precision=precision, layer=None)
            if engine != "OpenVINO default":  # which fails under the cap where the processor has bfloat16
                add(network, engine + CAPPED, "openvino-avx2", (1,), file=file, precision="f32", layer=None)
    for engine, kernels in (("Larq Compute Engine", "default"), ("Larq Compute Engine, indirect BGEMM", "indirect")):
        add("ReActNet-A", engine, "larq", kernels=kernels)
    for name, layer in LAYERS.items():
        for target in targets:
            add(name, ours(target), "bcdnet", (1,), file=f"{name}.bcdn", target=target, layer=True)
        add(name, "OpenVINO", "openvino", (1,), layer=layer, precision="f32")
        add(name, "OpenVINO" + CAPPED, "openvino-avx2", (1,), layer=layer, precision="f32")
    return found


def preparation(environment: Environment) -> dict[str, dict[str, Any]]:
    """What each worker makes before the race, in this order."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    float_networks = {"networks": list(FLOAT_NETWORKS.values())}
    return {
        "pytorch": float_networks
        | {
            "packed": list(PACKED_NETWORKS.values()),
            "layers": LAYERS,
            "onnx_packages": str(environment.bench.parent.parent / "lib" / version / "site-packages"),
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        },
        "onnxruntime": float_networks,
        "openvino": float_networks,
        "larq": {},
    }
