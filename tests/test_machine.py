"""What a process may use: CPUs and memory of the machine, or what a container's limits leave of them."""

import os
import platform
from pathlib import Path
from unittest.mock import Mock

import pytest

from bcdnet.machine import available_threads, memory, processor


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """Writes a process's control group and the limits of groups, by their folders, on a machine of 64 CPUs."""

    def write(own: str, name: str = "cpu.max", **limits: str) -> None:
        (tmp_path / "own").write_text(own)
        for group, limit in limits.items():
            folder = tmp_path / "groups" / group.replace("_", "/")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{limit}\n")

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr("bcdnet.machine.GROUP", tmp_path / "own")
    monkeypatch.setattr("bcdnet.machine.GROUPS", tmp_path / "groups")
    return write


def test_without_control_groups_or_limits_all_cpus_are_there(groups) -> None:
    assert available_threads() == 64
    groups("4:memory:/a\n0::/a\n", a="max 100000")
    assert available_threads() == 64


@pytest.mark.parametrize(
    "limit, threads", [("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1), ("9900000 100000", 64)]
)
def test_a_containers_limit_on_time_is_one_on_threads(groups, limit, threads) -> None:
    groups("0::/\n", **{"": limit})  # as a container sees its own group
    assert available_threads() == threads


def test_the_tightest_limit_on_the_way_to_the_process_holds(groups) -> None:
    groups("0::/a/b\n", a="300000 100000", a_b="max 100000", a_c="100000 100000")
    assert available_threads() == 3


def test_memory_is_the_machines_or_the_containers(groups, monkeypatch) -> None:
    whole = memory()
    groups("0::/a/b\n", "memory.max", a_b="max")
    assert whole is not None and memory() == whole
    groups("0::/a/b\n", "memory.max", a="1048576")
    assert memory() == 1 << 20


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="files of Linux")
def test_what_linux_tells() -> None:
    assert processor() in (Path("/proc/cpuinfo").read_text() + platform.machine())
    kibibytes = int(Path("/proc/meminfo").read_text().split()[1])
    assert 0 < (memory() or 0) <= 1024 * kibibytes


def test_where_nothing_is_told(monkeypatch) -> None:
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=FileNotFoundError))
    monkeypatch.setattr(os, "sysconf", Mock(side_effect=ValueError), raising=False)
    assert processor() == (platform.processor() or platform.machine()) and memory() is None
