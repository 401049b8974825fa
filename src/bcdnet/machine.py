"""What this machine has for the process: its processor, CPUs and memory. A leaf."""

import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def processor() -> str:
    """The CPU's model name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_threads() -> int:
    """Number of CPUs that this process may use, or that a container's limit on their time is worth, rounded up.

    Threads beyond such a limit use up the time of all, and then all of them stand still for the rest of a period.
    """
    cpus: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for limit in _limits("cpu.max"):
        with suppress(ValueError):  # "max": none
            quota, period = map(int, limit.split())
            cpus = min(cpus, quota / period)
    return math.ceil(cpus)


def memory() -> int | None:
    """Bytes of memory that this machine has, or a container's limit; None where the system does not tell."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    for limit in _limits("memory.max"):
        with suppress(ValueError):  # "max": none
            found = min(found, int(limit))
    return found


def _limits(name: str) -> Iterator[str]:
    """What Linux's control groups (version 2) say of a limit: the process's own group and those above it."""
    with suppress(OSError):  # no Linux
        own = next((line[3:] for line in GROUP.read_text().splitlines() if line.startswith("0::")), "")
        folder = GROUPS / own.lstrip("/")
        for group in (folder, *folder.parents):
            with suppress(OSError):  # the uppermost has none
                yield (group / name).read_text()
