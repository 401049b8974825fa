"""What importing bcdnet costs and does. Each test asks a fresh interpreter, since this one has imported everything."""

import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"


def fresh_python(code: str, *flags: str) -> str:
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_numpy_world_leaves_torch_out() -> None:
    loaded = fresh_python(
        "import sys, bcdnet, bcdnet.program, bcdnet.runtime, bcdnet.serve; "
        "print([m for m in ('torch', 'timm') if m in sys.modules])"
    )
    assert loaded == "[]"


def test_networks_leave_timm_out() -> None:
    """Which brings torchvision: together they take longer than torch."""
    loaded = fresh_python(
        "import sys, bcdnet.models, bcdnet.analysis, bcdnet.compiler, bcdnet.interop; "
        "print([m for m in ('timm', 'torchvision') if m in sys.modules])"
    )
    assert loaded == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("order", ["timm, bcdnet", "bcdnet, timm"])
def test_timm_knows_our_models_in_either_order_of_import(order: str) -> None:
    # The second half: timm must look as if it had been imported without us.
    code = f"""import {order}
print(timm.is_model('bcdnet_b'), type(timm.__spec__.loader).__name__)
print(timm.create_model('bcdnet_b_r18_cifar10', pretrained=True).num_classes)"""
    assert fresh_python(code).split() == ["True", "SourceFileLoader", "10"]


WITHOUT_TIMM = f"""
import sys
sys.path.insert(0, {str(SRC)!r})
import bcdnet
try:
    import timm
except ModuleNotFoundError as error:
    print(error)
"""


def test_import_without_timm_or_any_other_package() -> None:
    # -S leaves site-packages out; what a user then gets for `import timm` is Python's own error.
    assert fresh_python(WITHOUT_TIMM, "-I", "-S") == "No module named 'timm'"
