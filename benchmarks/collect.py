"""Gather finished runs into one result folder: their small files, a table, a figure.

    python benchmarks/collect.py OUT RUN [RUN ...] --title "Fashion-MNIST, width 0.25"

Each RUN is a run folder of `bcdnet train` that `bcdnet eval RUN --data ...` has evaluated. OUT gets a folder for each
run (recipe.yaml, environment.json, metrics.csv, metrics.json, eval.json, curves.png, confusion.png), `results.json`,
`README.md` with the table, and `comparison.png`. Nothing is typed in by hand, so that it can be made again. The folders
in which data and runs lay on that machine are written as `data` and `runs`.
"""

import argparse
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from race.out import results_folder

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bcdnet.analysis import count
from bcdnet.figures import COLOURS
from bcdnet.nn import set_weight_bits
from bcdnet.training.build import design
from bcdnet.training.log import read_rows
from bcdnet.training.recipe_file import as_yaml, load_recipe
from bcdnet.training.run_folder import portable

KEPT = ("recipe.yaml", "environment.json", "metrics.csv", "metrics.json", "eval.json", "curves.png", "confusion.png")
LEAST_SPAN = 4.0  # points of top-1 that a figure shows: several standard errors of a test set


def portable_file(path: Path) -> Any:
    """What a result file of a run holds, JSON or YAML, without the places of that machine."""
    read = json.loads if path.suffix == ".json" else yaml.safe_load  # YAML takes JSON's 1e-07 for a string
    return portable(read(path.read_text(encoding="utf-8")), load_recipe(path.parent / "recipe.yaml"))


def describe(run: Path) -> dict[str, Any]:
    """One run's figures, from its result files alone; operations are counted anew from its recipe."""
    recipe = load_recipe(run / "recipe.yaml")
    evaluated, metrics, environment = (
        portable_file(run / f"{name}.json") for name in ("eval", "metrics", "environment")
    )
    # Into a folder of its own name: runs of several folders may have been called alike.
    words = [
        f"run_dir=runs/{run.name}" if word.startswith("run_dir=") else word
        for word in shlex.split(environment["command"])
    ]
    steps = {name: step for name, step in metrics.items() if name != "teacher"}
    model = design(recipe.model, len(evaluated["per_class"]), recipe.data.channels)
    set_weight_bits(model, recipe.steps[-1].weight_bits)
    counts = count(model, (recipe.data.channels, recipe.data.image_size, recipe.data.image_size))
    return {
        "run": run.name,
        "model": portable(str(recipe.model), recipe),
        "command": shlex.join(words),
        "seed": environment["seed"],
        "commit": commit_of(environment["git"]),
        "machine": ", ".join(environment["machine"]["gpus"]) or environment["machine"]["processor"],
        "versions": environment["versions"],
        "top1": evaluated["top1"],
        "top1_by_step": {name: step["top1"] for name, step in steps.items()},
        "teacher_top1": metrics["teacher"]["top1"] if "teacher" in metrics else None,
        "ece": evaluated["ece"],
        "images": evaluated["images"],
        "epochs": sum(step["epochs"] for step in steps.values()),
        # A teacher from elsewhere has figures too, but was not trained here.
        "train_seconds": sum(step.get("train_seconds", 0.0) for step in metrics.values()),
        "params": counts.params,
        "packed_bytes": counts.packed_bytes,
        "bops": counts.bops,
        "flops": counts.flops,
        "ops": counts.ops,
    }


def commit_of(git: dict[str, Any] | None) -> str:
    """What a run was made from; says so where files had been changed since."""
    return "" if git is None else git["commit"][:12] + (" with changed files" if git["dirty"] else "")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| run | model | top-1 (%) | by step (%) | ECE (%) | BOPs (1e6) | FLOPs (1e6) | OPs (1e6) | packed (kB) "
        "| epochs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        steps = " → ".join(f"{top1:.2f}" for top1 in row["top1_by_step"].values())
        steps += f" (teacher {row['teacher_top1']:.2f})" if row["teacher_top1"] is not None else ""
        lines.append(
            f"| `{row['run']}` | {row['model']} | **{row['top1']:.2f}** | {steps} | {100 * row['ece']:.2f} "
            f"| {row['bops'] / 1e6:.2f} | {row['flops'] / 1e6:.2f} | {row['ops'] / 1e6:.2f} "
            f"| {row['packed_bytes'] / 1e3:.0f} | {row['epochs']} |"
        )
    return "\n".join(lines)


def each(rows: list[dict[str, Any]], key: str) -> str:
    """What the rows have there, each value once."""
    return ", ".join(map(str, sorted({row[key] for row in rows})))


def page(title: str, rows: list[dict[str, Any]]) -> str:
    """The result folder's README."""
    commands = "\n".join(f"{row['command']}    # {row['train_seconds'] / 60:.0f} min of training" for row in rows)
    versions = {f"{name} {version}" for row in rows for name, version in row["versions"].items()}
    images = " or ".join(f"{count:,}" for count in sorted({row["images"] for row in rows}))
    return (
        f"# {title}\n\n{table(rows)}\n\n![comparison](comparison.png)\n\n"
        f"Evaluated on {images} test images. FLOPs and OPs count convolutions and linear layers only "
        "(docs/counting.md).\n\n"
        f"```bash\n{commands}\n```\n\n"
        f"Seed {each(rows, 'seed')}; commit {each(rows, 'commit')}; {each(rows, 'machine')}; "
        f"{', '.join(sorted(versions))}.\n"
    )


def curve(run: Path) -> list[tuple[float, float]]:
    """(epochs, top-1 in %) of every evaluation of the student, one step after the other; the teacher's are not its."""
    points, start, step, end = [], 0.0, "", 0.0
    for row in read_rows(run / "metrics.csv"):
        if row["step"] == "teacher":
            continue
        if row["step"] != step:
            start, step = end, row["step"]
        end = start + float(row["epoch"])
        if row["event"] == "epoch" and row["val_top1"]:
            points.append((end, float(row["val_top1"])))
    return points


def widened(low: float, high: float) -> tuple[float, float]:
    """The limits of an axis of top-1, at least `LEAST_SPAN` apart, or noise would fill the picture."""
    wider = max(0.0, LEAST_SPAN - (high - low)) / 2
    return low - wider, high + wider


def draw(runs: list[Path], rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Top-1 over the epochs of every run, with the final figure at the end of each line."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for run, row, colour in zip(runs, rows, COLOURS * len(runs), strict=False):
        axes.plot(
            *zip(*curve(run), strict=True), color=colour, marker="o", ms=3, label=f"{row['run']}: {row['top1']:.2f} %"
        )
    axes.set(xlabel="epochs, one step after the other", ylabel="top-1 on the test split (%)", title=title)
    axes.set_ylim(widened(*axes.get_ylim()))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def keep(run: Path, folder: Path, names: Sequence[str] = KEPT) -> None:
    """Copy result files of a run, without this machine's paths. A copy of an earlier call stays as it is."""
    if run.resolve() == folder.resolve():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name == "recipe.yaml":
            (folder / name).write_text(as_yaml(portable_file(run / name)), encoding="utf-8")
        elif name == "environment.json":
            (folder / name).write_text(json.dumps(portable_file(run / name), indent=2) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(run / name, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=results_folder)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--title", required=True)
    arguments = parser.parse_args()
    names = [run.name for run in arguments.runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        parser.error(f"several runs are called {', '.join(twice)}: rename their folders")
    for run in arguments.runs:
        if missing := [name for name in KEPT if not (run / name).is_file()]:
            parser.error(
                f"{run} lacks {', '.join(missing)}: is the run finished, and evaluated by `bcdnet eval {run}`?"
            )
    rows = [describe(run) for run in arguments.runs]
    for run in arguments.runs:
        keep(run, arguments.out / run.name)
    (arguments.out / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    (arguments.out / "README.md").write_text(page(arguments.title, rows), encoding="utf-8")
    draw(arguments.runs, rows, arguments.title, arguments.out / "comparison.png")
    print(table(rows))


if __name__ == "__main__":
    main()
