"""`bcdnet doctor`: what works on this machine, for bug reports. Whatever is missing is a line, never a failure."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata, util
from typing import Annotated, Any

import typer

import bcdnet
from bcdnet.cli.table import print_table
from bcdnet.machine import available_threads, memory, processor

# All that a command may need, under the names that pip knows.
LIBRARIES = (
    "numpy", "safetensors", "pillow", "typer", "rich", "torch", "torchvision", "timm", "lightning", "torchmetrics",
    "kornia", "pyyaml", "pyarrow", "filelock", "scikit-learn", "matplotlib", "tensorboard", "datasets",
    "huggingface-hub", "grad-cam", "onnx", "onnxruntime", "fastapi", "starlette", "uvicorn", "python-multipart",
    "prometheus-client", "ray", "opencv-python-headless", "opencv-python",
)  # fmt: skip


def run(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what works on this machine: the native core and its instruction sets, torch and its GPUs, versions.

    Paste the output into a bug report.
    """
    findings = examine()
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    for title, rows in findings.items():
        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for name, value in rows.items():
            # One item a line, so that what is pasted holds whole names.
            table.add_row(name, Text("\n".join(map(_plain, value if isinstance(value, list) else [value]))))
        print_table(table, title)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def examine() -> dict[str, dict[str, Any]]:
    """Titles to rows; values are strings, numbers, booleans, lists of strings, or None for what is not known."""
    return {
        "bcdnet": {"version": bcdnet.__version__, "python": platform.python_version(), "system": platform.platform()},
        "machine": _machine(),
        "core": _core(),
        "torch": _torch(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _machine() -> dict[str, Any]:
    found = memory()
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "CPUs": os.cpu_count(),
        "CPUs for this process": available_threads(),
        "memory (GB)": found and round(found / 1e9, 1),
    }


def _core() -> dict[str, Any]:
    from bcdnet.errors import BcdnetError
    from bcdnet.pretrained import list_pretrained
    from bcdnet.runtime.native import core

    found: dict[str, Any] = {"built": False}
    try:
        targets = list(core().targets())
        found = {"built": True, "best target": targets[0], "targets": targets}
    except BcdnetError as error:
        found["remedy"] = str(error)
    # A core that loads but does not run is worth a report, not a traceback.
    except Exception as error:
        found["problem"] = repr(error)
    return found | {"shipped models": list_pretrained()}


def _torch() -> dict[str, Any]:
    if util.find_spec("torch") is None:
        return {"installed": False, "remedy": "pip install 'bcdnet[train]' to train and to pack models"}
    try:
        import torch

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return {
            "installed": True,
            "version": torch.__version__,
            "threads": torch.get_num_threads(),
            "built for CUDA": torch.version.cuda or "none",
            "GPUs": gpus or ["none"],
        }
    # A broken installation of torch, or of a GPU's driver, is what this verb is there to show.
    except Exception as error:
        return {"installed": True, "problem": repr(error)}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
