"""What a process that only predicts has to import, asked of fresh interpreters; benchmarks/startup.py times it."""

import subprocess
import sys
from pathlib import Path

VALID = Path(__file__).parents[1] / "malformed" / "valid.bcdn"
# What we import ourselves, and what finds us where the installation is editable; of importlib only what is cheap, since
# importlib.abc would bring tempfile.
OURS = {"bcdnet", "importlib", "__future__", "dataclasses", "json", "difflib", "copy", "unicodedata"}
WHAT_OTHERS_BRING = (
    "import numpy, numpy.typing, safetensors.numpy, pathlib, json, dataclasses, difflib, copy, unicodedata"
)


def modules_after(code: str) -> set[str]:
    """Modules that a fresh interpreter imports for the code."""
    code = f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_runtime_brings_numpy_and_little_else() -> None:
    brought = modules_after("import bcdnet.runtime") - modules_after(WHAT_OTHERS_BRING)
    assert {name.split(".")[0] for name in brought} <= OURS


def test_a_prediction_imports_no_torch_and_no_plotting() -> None:
    loaded = modules_after(
        "import numpy\nfrom bcdnet.runtime import InferenceSession\n"
        f"session = InferenceSession({str(VALID)!r})\n"
        "session.run(None, {'image': numpy.zeros((1, 1, 4, 4), numpy.float32)})"
    )
    heavy = {"torch", "torchvision", "timm", "matplotlib", "pandas", "scipy", "rich", "typer", "PIL", "tempfile"}
    assert not heavy & loaded and "bcdnet.runtime._core" in loaded
