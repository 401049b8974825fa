"""What the results were measured on, and how much of it other processes took meanwhile."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

NOTED_FLAGS = ("avx2", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_vpopcntdq", "asimd", "asimddp")


def describe(root: Path) -> dict[str, Any]:
    """Processor, system, and the commit of the code at `root`."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    info = dict(line.replace("\t", "").split(":", 1) for line in reversed(lines) if ":" in line)
    flags = (info.get("flags") or info.get("Features") or "").split()
    family = ", ".join(f"{name} {info[name].strip()}" for name in ("cpu family", "model", "stepping") if name in info)
    return {
        "processor": info.get("model name", platform.processor()).strip() + (f" ({family})" if family else ""),
        "cpus": os.cpu_count(),
        "flags": [flag for flag in NOTED_FLAGS if flag in flags],
        "virtual": "hypervisor" in flags,
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _git(root, "rev-parse", "HEAD"),
        "changed_files": len(_git(root, "status", "--porcelain", "--untracked-files=no").splitlines()),
    }


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", root, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError:  # no git here; what was measured is worth more than that
        return ""
    return done.stdout.strip()


def busy_seconds() -> float | None:
    """CPU seconds that all processes have used since the machine started, and those that its host took from it."""
    if not Path("/proc/stat").exists():
        return None
    user, nice, system, _idle, _wait, interrupts, soft, stolen = (
        int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
