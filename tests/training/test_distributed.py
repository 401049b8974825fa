"""Two processes (gloo) against one with the same global batch."""

import copy
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from bcdnet.training.assess import assess
from bcdnet.training.recipe import Recipe
from bcdnet.training.recipe_file import to_yaml
from bcdnet.training.sync_bn import CrossProcessBatchNorm2d, synchronise_batch_norm

# SGD, since Adam's first steps are the signs of the gradients, which rounding turns where they are near 0. Two real-
# valued networks drift apart slowly; two binary ones agree until rounding turns a sign in one of them, after some ten
# iterations here, and are different runs from there.
STEP = {"batch_size": 128, "optimizer": "sgd"}
BINARY = {**STEP, "lr": 1e-3, "iterations": 2}
PLAIN: dict[str, Any] = {
    "augment": {},
    "teacher": {
        "model": "resnet18_twin_small",
        "kwargs": {"width": 1 / 16},
        "train": {**STEP, "lr": 1e-2, "iterations": 8},
    },
    "steps": [{"name": "step1", **BINARY}, {"name": "step2", "weight_bits": 1, **BINARY}],
    "trainer": {"accelerator": "cpu", "log_every": 1},
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command_of(recipe: Recipe, folder: Path, processes: int) -> list[str]:
    """What trains the recipe in `folder / str(processes)`."""
    path = folder / f"{processes}.yaml"
    path.write_text(to_yaml(recipe))
    code = "from bcdnet.cli.main import main; main()"
    script = folder / "command.py"  # Lightning starts the other processes with this process's script and arguments
    script.write_text(code)
    command = [sys.executable, str(script), "train", str(path), f"trainer.devices={processes}"]
    return [*command, f"run_dir={folder / str(processes)}"]


def train_in_processes(recipe: Recipe, folder: Path, processes: int) -> list[dict[str, str]]:
    command = command_of(recipe, folder, processes)
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=900)
    with (folder / str(processes) / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["event"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True])
def test_the_loss_is_that_of_one_process(make_recipe: Callable[..., Recipe], tmp_path: Path, recomputed: bool) -> None:
    one = train_in_processes(make_recipe(**PLAIN), tmp_path, 1)
    trainer = {**PLAIN["trainer"], "grad_checkpointing": recomputed}
    two = train_in_processes(make_recipe(**PLAIN | {"trainer": trainer}), tmp_path, 2)
    assert [(row["step"], row["iteration"]) for row in one] == [(row["step"], row["iteration"]) for row in two]
    assert len(one) == 12
    assert float(one[7]["train_loss"]) < float(one[0]["train_loss"]) - 0.3  # it learned something
    for alone, together in zip(one, two, strict=True):
        assert float(together["train_loss"]) == pytest.approx(float(alone["train_loss"]), abs=1e-4), alone


@pytest.mark.slow
def test_the_figures_are_those_of_what_is_exported(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Without synchronised batch norm each process has statistics of its own; the first one's are exported."""
    trainer = {**PLAIN["trainer"], "sync_bn": False}
    train_in_processes(make_recipe(**PLAIN | {"teacher": None, "trainer": trainer}), tmp_path, 2)
    figures = json.loads((tmp_path / "2" / "metrics.json").read_text())["step2"]
    found = assess(tmp_path / "2", "digits", "test", 256, torch.device("cpu"))
    assert (figures["top5"], figures["loss"]) == pytest.approx((found.top5, found.loss), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_one_process_ends_all_with_a_checkpoint(
    make_recipe: Callable[..., Recipe], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    steps = [{"name": "step1", **BINARY, "iterations": 500}]
    trainer = {**PLAIN["trainer"], "checkpoint_every": 1000}
    recipe = make_recipe(**PLAIN | {"teacher": None, "steps": steps, "trainer": trainer, "validation": {"every": 1000}})
    process = subprocess.Popen(
        command_of(recipe, tmp_path, 2),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background may ignore it
    )
    rows = tmp_path / "2" / "metrics.csv"
    while process.poll() is None and not (rows.is_file() and "step1,train" in rows.read_text()):
        time.sleep(0.1)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == status, said
    (checkpoint,) = (tmp_path / "2" / "checkpoints").iterdir()
    assert int(rows.read_text().splitlines()[-1].split(",")[3]) == int(checkpoint.stem[-9:])


def batch_norm_worker(rank: int, folder: str, compiled: bool) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x, upstream, layer = batch_norm_case()
    synchronise_batch_norm(nn.Sequential(layer))
    assert isinstance(layer, CrossProcessBatchNorm2d)
    mine = slice(0, 5) if rank == 0 else slice(5, 8)  # unequal shares
    part = x[mine].clone().requires_grad_()
    # `fullgraph` raises where the graph would break.
    out = torch.compile(layer, fullgraph=True)(part) if compiled else layer(part)
    (out * upstream[mine]).sum().backward()
    for parameter in layer.parameters():
        dist.all_reduce(parameter.grad)
    results = [out.detach(), part.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var]
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def batch_norm_case() -> tuple[torch.Tensor, torch.Tensor, nn.BatchNorm2d]:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return torch.randn(8, 3, 4, 4) * 2 + 100, torch.randn(8, 3, 4, 4), layer


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_batch_norm_over_processes_is_that_of_the_whole_batch(tmp_path: Path, compiled: bool) -> None:
    # As programs of their own: a forked process must not run autograd, a spawned one cannot import a test module.
    words = [[str(rank), str(tmp_path), "compiled" if compiled else "as it is"] for rank in (0, 1)]
    workers = [subprocess.Popen([sys.executable, __file__, *own]) for own in words]
    assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    x, upstream, layer = batch_norm_case()
    x.requires_grad_()
    out = layer(x)
    (out * upstream).sum().backward()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([parts[0][0], parts[1][0]]), out, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([parts[0][1], parts[1][1]]), x.grad, rtol=1e-4, atol=1e-5)
    for part in parts:
        for value, expected in zip(
            part[2:], (layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var), strict=True
        ):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_one_process_has_the_usual_batch_norm() -> None:
    x, _, layer = batch_norm_case()
    expected = layer(x)
    layer.reset_running_stats()
    synchronise_batch_norm(nn.Sequential(layer))
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer.eval()(x), nn.BatchNorm2d.forward(layer, x))


def test_statistics_are_those_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process with the same images makes every sum twice as large."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.mul_(2))
    x, upstream, layer = batch_norm_case()
    whole = copy.deepcopy(layer)
    synchronise_batch_norm(nn.Sequential(layer))
    part, both = x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()
    out, expected = layer(part), whole(both)
    (out * upstream).sum().backward()
    (expected * torch.cat([upstream, upstream])).sum().backward()
    torch.testing.assert_close(out, expected[:8], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(part.grad, both.grad[:8], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(2 * layer.weight.grad, whole.weight.grad, rtol=1e-4, atol=1e-3)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(layer, name), getattr(whole, name), rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    batch_norm_worker(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "compiled")
