"""The comparison's table and figure, from the result files of its runs alone.

    python benchmarks/campaign.py OUT [RUNS ...]

RUNS are folders of run folders called ROW-sSEED (or ROW), as matrix.py leaves them. The small files of every finished
run are copied to OUT/RECIPE/ROW-sSEED; from these copies come results.json, README.md and comparison.svg in OUT, so
that the same command without RUNS makes them again. Operations are counted anew from each run's recipe.
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from collect import describe, each, keep, widened
from matrix import finished, read_matrix
from race.out import results_folder

KEPT = ("recipe.yaml", "environment.json", "metrics.csv", "metrics.json", "eval.json")
RUN_NAME = re.compile(r"(\w+?)(?:-s\d+)?")
REFERENCE = "reactnet"
Cells = dict[str, dict[str, Any]]  # by row name: what its seeds have in common, and their figures


def gather(folders: list[Path], out: Path) -> list[str]:
    """Copy the result files of all finished runs; the names of those that are not finished.

    ValueError for two runs whose copies would be one.
    """
    unfinished: list[str] = []
    copied: dict[Path, Path] = {}
    for run in sorted(path for folder in folders for path in folder.iterdir() if RUN_NAME.fullmatch(path.name)):
        if not all(finished(run)):
            unfinished.append(str(run))
            continue
        target = out / yaml.safe_load((run / "recipe.yaml").read_text())["name"] / run.name
        if target in copied:
            raise ValueError(f"{copied[target]} and {run} are called alike; rename one")
        copied[target] = run
        keep(run, target, KEPT)
    return unfinished


def read_results(out: Path) -> dict[str, Cells]:
    """By recipe and row: seeds' runs, mean and standard deviation (of the sample; None for one seed) of top-1.

    ValueError for two runs of one row and seed.
    """
    results: dict[str, Cells] = {}
    for recipe in sorted(path for path in out.iterdir() if path.is_dir()):
        runs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for run in sorted(recipe.iterdir()):
            if run.is_dir() and (named := RUN_NAME.fullmatch(run.name)):
                found = describe(run)
                if twin := next((other for other in runs[named[1]] if other["seed"] == found["seed"]), None):
                    raise ValueError(
                        f"{twin['run']} and {run.name} in {recipe} are both of seed {found['seed']}; remove one"
                    )
                runs[named[1]].append(found)
        if not runs:  # the files of a teacher that they share
            continue
        results[recipe.name] = {
            row: {
                "top1_mean": statistics.fmean(run["top1"] for run in found),
                "top1_std": statistics.stdev(run["top1"] for run in found) if len(found) > 1 else None,
                "runs": found,
            }
            for row, found in runs.items()
        }
    return results


def sections(cells: Cells) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, [(row, its title)]) of each group that has results; rows that the matrix lacks come last."""
    matrix = read_matrix()
    parts = []
    for group, about in matrix["groups"].items():
        own = [(name, row["title"]) for name, row in matrix["rows"].items() if row["group"] == group and name in cells]
        beside = [(name, title) for name, title in about.get("beside", {}).items() if name in cells]
        if own:
            place = {name: number for number, name in enumerate(about.get("order", ()))}
            parts.append((about["title"], sorted(beside + own, key=lambda row: place.get(row[0], -1))))
    others = [(name, name) for name in cells if name not in matrix["rows"]]
    return parts + ([("others", others)] if others else [])


def plus_minus(cell: dict[str, Any]) -> str:
    spread = "" if cell["top1_std"] is None else f" ± {cell['top1_std']:.2f}"
    return f"{cell['top1_mean']:.2f}{spread}"


def table(cells: Cells) -> str:
    """One recipe's rows in Markdown."""
    lines = [
        "| | top-1 (%) | over ReActNet | seeds | OPs (1e6) | after step 1 (%) | ECE (%) | packed (kB) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = cells.get(REFERENCE)
    for title, rows in sections(cells):
        lines.append(f"| *{title}* | | | | | | | |")
        for name, label in rows:
            cell, first = cells[name], cells[name]["runs"][0]
            gain = f"{cell['top1_mean'] - base['top1_mean']:+.2f}" if base and name != REFERENCE else ""
            before = statistics.fmean(next(iter(run["top1_by_step"].values())) for run in cell["runs"])
            ece = 100 * statistics.fmean(run["ece"] for run in cell["runs"])
            lines.append(
                f"| {label} | {plus_minus(cell)} | {gain} | {len(cell['runs'])} | {first['ops'] / 1e6:.2f} "
                f"| {before:.2f} | {ece:.2f} | {first['packed_bytes'] / 1e3:.0f} |"
            )
    return "\n".join(lines)


def page(results: dict[str, Cells]) -> str:
    """The result folder's README."""
    text = ["# Does context help?", "", "![top-1 of every row](comparison.svg)", ""]
    for recipe, cells in results.items():
        runs = [run for cell in cells.values() for run in cell["runs"]]
        images = runs[0]["images"]
        middle = statistics.fmean(run["top1"] for run in runs) / 100
        error = 100 * (middle * (1 - middle) / images) ** 0.5
        text += [
            f"## {recipe}", "", table(cells), "",
            f"Mean ± standard deviation over seeds, of {images:,} test images (one standard error of such a test set: "
            f"{error:.2f} points); {each(runs, 'epochs')} epochs; "
            f"{sum(run['train_seconds'] for run in runs) / 3600:.1f} hours of training on "
            f"{each(runs, 'machine')}; "
            f"torch {', '.join(sorted({run['versions']['torch'] for run in runs}))}; "
            f"commit {each(runs, 'commit')}.",
            "", "```bash", *(run["command"] for run in runs), "```", "",
        ]  # fmt: skip
    return "\n".join(text)


def draw(results: dict[str, Cells], path: Path) -> None:
    """Top-1 of every row: a dot for each seed, the mean, and one standard deviation to each side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "bcdnet"  # the same results give the same file
    heights = [sum(len(rows) + 1.4 for _, rows in sections(cells)) for cells in results.values()]
    figure, panels = plt.subplots(
        1, len(results), figsize=(6.2 * len(results), 0.9 + 0.27 * max(heights)), layout="constrained", squeeze=False
    )
    for axes, (recipe, cells) in zip(panels[0], results.items(), strict=True):
        y, ticks, labels = 0.0, [], []
        for title, rows in sections(cells):
            ticks.append(y)
            labels.append(title)
            for name, label in rows:
                y += 1
                cell = cells[name]
                colour = "#e07b28" if name == REFERENCE else "#777777" if name == "twin" else "#2a6fbb"
                if cell["top1_std"]:
                    axes.errorbar(cell["top1_mean"], y, xerr=cell["top1_std"], color=colour, capsize=3, lw=1.4)
                axes.plot(
                    [run["top1"] for run in cell["runs"]], [y] * len(cell["runs"]), "o", ms=3, c=colour, alpha=0.4
                )
                axes.plot(cell["top1_mean"], y, "D", ms=6, c=colour)
                axes.annotate(
                    f"{cell['top1_mean']:.2f}", (cell["top1_mean"], y), (0, 6), textcoords="offset points",
                    ha="center", fontsize=7, color=colour,
                )  # fmt: skip
                ticks.append(y)
                labels.append(label)
            y += 1.4
        if REFERENCE in cells:
            axes.axvline(cells[REFERENCE]["top1_mean"], color="#e07b28", lw=0.8, ls=":")
        axes.set(yticks=ticks, yticklabels=labels, ylim=(max(heights) - 0.6, -0.9), xlabel="top-1 (%)", title=recipe)
        titles = {title for title, _ in sections(cells)}
        for text in axes.get_yticklabels():
            text.set_fontweight("bold" if text.get_text() in titles else "normal")
        axes.margins(x=0.12)
        axes.set_xlim(widened(*axes.get_xlim()))
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params("y", length=0)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=results_folder)
    parser.add_argument("runs", type=Path, nargs="*")
    arguments = parser.parse_args()
    if missing := [str(folder) for folder in arguments.runs if not folder.is_dir()]:
        parser.error(f"no such folder: {', '.join(missing)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        unfinished = gather(arguments.runs, arguments.out)
        results = read_results(arguments.out)
    except ValueError as error:
        parser.error(str(error))
    for name in unfinished:
        print(f"left out, not finished: {name}")
    if not results:
        parser.error(f"{arguments.out} holds no results; give folders of finished runs")
    (arguments.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.out / "README.md").write_text(page(results), encoding="utf-8")
    draw(results, arguments.out / "comparison.svg")
    for recipe, cells in results.items():
        print(f"{recipe}\n{table(cells)}\n")


if __name__ == "__main__":
    main()
