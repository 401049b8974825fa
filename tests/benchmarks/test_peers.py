"""The race's arithmetic, its worker protocol and its page."""

from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("bcdnet.runtime._core")

import peers
from race import page, rounds, summary, worker
from race.entries import CAPPED, LAYERS, WORKERS, Entry, Environment, entries, key, macs, our_targets, ours

TARGETS = ["AVX2", "AVX3_DL"]


def burst(median: float, inside: float | None = None) -> dict[str, Any]:
    return {"median": median, "least": median, "runs": 3, "cores": 1.0, "inside": inside}


def test_spread_is_median_and_quartiles() -> None:
    assert summary.spread([4.0, 1.0, 2.0, 3.0, 5.0]) == summary.Spread(3.0, 2.0, 4.0)
    assert summary.spread([7.0]) == summary.Spread(7.0, 7.0, 7.0)


def test_ratios_are_taken_within_a_round() -> None:
    # The machine is three times as slow in the second round: the ratio of the medians would be 3.
    bursts = {"peer": [burst(2.0), burst(6.0), burst(6.0)], "our": [burst(1.0), burst(3.0), burst(1.0)]}
    value = summary.ratio(bursts, "peer", "our")
    assert value is not None and value.median == 2.0
    assert summary.ratio(bursts, "absent", "our") is None


def test_every_requirement_names_entries_that_run() -> None:
    field = {entry.key: [burst(1.0, 0.5)] * 2 for entry in entries(TARGETS)}
    rows = summary.requirements(field, TARGETS)
    assert all(set(row["ratios"]) == set(TARGETS) for row in rows)
    assert {row["wanted"] for row in rows} == {3.5, 40.0, 30.0, 1.0, 1.7}
    layers = summary.layers(field, TARGETS)
    assert len(layers) == len(LAYERS) * len(TARGETS)
    assert all(set(row["ratios"]) == {f"{kind} OpenVINO{cap}" for kind in ("kernel", "network") for cap in (CAPPED, "")}
               for row in layers)  # fmt: skip


def test_entries_are_distinct_and_their_workers_exist() -> None:
    field = entries(TARGETS)
    assert len({entry.key for entry in field}) == len(field)
    assert {entry.worker for entry in field} == set(WORKERS)
    assert our_targets(["AVX3_DL", "AVX3", "AVX2"]) == TARGETS
    assert our_targets(["AVX2", "SSE4"]) == ["AVX2"]
    assert our_targets(["NEON"]) == ["NEON"]
    assert macs(LAYERS["512x512x3x3@14"]) == 512 * 512 * 9 * 196


def test_measure_warms_up_and_counts() -> None:
    calls: list[int] = []
    quick = worker.measure(worker.Runner(lambda: calls.append(1), inside=lambda: 0.25), 0.0, slow=False)
    assert quick["runs"] == worker.LEAST_RUNS and len(calls) == worker.LEAST_RUNS + worker.WARM_UPS
    assert quick["inside"] == 0.25
    slow = worker.measure(worker.Runner(lambda: sleep(0.01)), 1.0, slow=True)
    assert slow["runs"] == 1 and slow["median"] >= 0.01 and slow["inside"] is None


def test_a_worker_answers_fails_and_ends(tmp_path: Path) -> None:
    process = rounds.WorkerProcess("bcdnet", WORKERS["bcdnet"], Environment(), tmp_path / "log")
    try:
        assert process.ask(do="versions")["targets"]
        with pytest.raises(RuntimeError, match="unknown request 'sing'"):
            process.ask(do="sing")
        entry = Entry("X", ours("AVX2"), 1, "bcdnet", {})
        with pytest.raises(RuntimeError, match="KeyError"):
            rounds.race({"bcdnet": process}, [entry], rounds=1, seconds=0.0, seed=0, report=print)
    finally:
        process.close()
    assert process.process.returncode == 0


def test_a_missing_environment_names_the_remedy(tmp_path: Path) -> None:
    environment = Environment(lce=tmp_path / "python")
    with pytest.raises(FileNotFoundError, match=r"make bench.*--skip larq"):
        rounds.WorkerProcess("larq", WORKERS["larq"], environment, tmp_path / "log")


@pytest.mark.parametrize("kept", ["", "BCDNet-A | bcdnet", "ResNet-18"])
def test_the_page_shows_what_was_measured(kept: str) -> None:
    field = [entry for entry in entries(TARGETS) if kept in entry.key]
    bursts = {entry.key: [burst(0.002, 0.001)] * 3 for entry in field}
    figures = summary.figures(bursts)
    text = page.render(
        {
            "date": "2026-01-02",
            "command": "python benchmarks/peers.py",
            "machine": {
                "processor": "P", "cpus": 2, "virtual": True, "flags": ["avx2"], "system": "S", "python": "3.11.0",
                "commit": "0123456789abcdef", "changed_files": 0,
            },
            "rounds": 3,
            "race_seconds": 1.0,
            "cpus_used_by_other_processes": 0.5,
            "targets": TARGETS,
            "versions": {"bcdnet": {"bcdnet": "1"}},
            "requirements": summary.requirements(bursts, TARGETS),
            "layers": summary.layers(bursts, TARGETS),
            "entries": {
                entry.key: {"network": entry.network, "engine": entry.engine, "threads": entry.threads}
                | figures[entry.key]
                for entry in field
            },
        }
    )  # fmt: skip
    assert "Not a quiet machine" in text
    assert text.count("| ResNet-18 | 69.3 |") == len({entry.engine for entry in field if entry.network == "ResNet-18"})
    if not kept:
        assert "1.00 [1.00–1.00]" in text
        assert (
            key("BCDNet-A", ours("AVX2")) in figures and figures[key("BCDNet-A", ours("AVX2"))]["ms"]["median"] == 2.0
        )


@pytest.mark.parametrize(
    "words", [["--rounds", "0"], ["--seconds", "nan"], ["--skip", "bcdnet"], ["--skip", "pytorch"]]
)
def test_a_race_that_cannot_be_run_does_not_begin(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["peers.py", *words])
    with pytest.raises(SystemExit, match="2"):
        peers.parse()


def test_a_race_of_nobody_is_refused() -> None:
    workers: Any = {"bcdnet": SimpleNamespace(ask=lambda do: {"targets": TARGETS})}
    with pytest.raises(SystemExit, match="--only BCDNet-C: nothing that runs"):
        peers.measure(workers, SimpleNamespace(only="BCDNet-C"))
