"""Ours: packed networks and packed single layers, run without torch."""

from pathlib import Path
from typing import Any

import numpy as np

from bcdnet import __version__
from bcdnet.runtime import InferenceSession, available_targets
from race.worker import Runner


def versions() -> dict[str, Any]:
    return {"bcdnet": __version__, "numpy": np.__version__, "targets": available_targets()}


def prepare(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Nothing: the PyTorch worker packs the files."""
    return {}


def load(folder: Path, spec: dict[str, Any]) -> Runner:
    session = InferenceSession(folder / spec["file"], threads=spec["threads"], target=spec["target"])
    port = session.get_inputs()[0]
    shape = (1, *(int(size) for size in port.shape[1:]))
    feed = {port.name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}

    def kernel() -> float:
        return next(row.seconds for row in session.profile(feed) if row.type == "binary_conv2d")

    detail = {"target": session.target, "bytes": (folder / spec["file"]).stat().st_size}
    return Runner(lambda: session.run(None, feed), kernel if spec["layer"] else None, detail)
