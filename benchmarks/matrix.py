"""Train the rows of matrix.yaml with one recipe.

    python benchmarks/matrix.py recipes/cifar10.yaml --out runs/cifar10 --data DIR --seeds 0 1 2
    python benchmarks/matrix.py recipes/cifar10.yaml --out runs/cifar10 --groups models branches --print
    python benchmarks/matrix.py recipes/cifar10.yaml --costs

Each row is one command, `bcdnet train RECIPE KEY=VALUE ... seed=S run_dir=OUT/ROW-sS`, and then `bcdnet eval` on the
test split. A finished run is left alone and a stopped one goes on, so that the same line can be given again after any
interruption. Words after `--` go to every command (`-- trainer.compile=true`). `--teacher FILE` takes a trained teacher
(a finished run's teacher.safetensors) instead of training it in every run. `--jobs N` has N runs at work at once, each
writing to OUT/ROW-sS.log: small networks leave most of a GPU idle. `--costs` counts every row's operations.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MATRIX = Path(__file__).resolve().parent / "matrix.yaml"
BCDNET = Path(sys.executable).with_name("bcdnet")  # the command of this environment


@dataclass(frozen=True)
class Row:
    """One line of the comparison: the words that make it out of a recipe."""

    name: str
    title: str
    group: str
    words: tuple[str, ...]
    equal: bool


def read_matrix() -> dict[str, Any]:
    """matrix.yaml: recipes, groups and rows."""
    matrix: dict[str, Any] = yaml.safe_load(MATRIX.read_text(encoding="utf-8"))
    return matrix


def rows_of(recipe: Path) -> list[Row]:
    """The rows that a recipe can be run with. KeyError, naming the known ones, where the matrix lacks the recipe."""
    matrix = read_matrix()
    if recipe.stem not in matrix["recipes"]:
        raise KeyError(f"{MATRIX.name} knows {', '.join(matrix['recipes'])}, not {recipe.stem}")
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    about = matrix["recipes"][recipe.stem]
    shared = {name: words.format(**about) for name, words in matrix["shared"].items()}
    own = {**about, **shared, "b": f"model.reduction={about['reduction']}"}
    return [
        Row(name, row["title"], row["group"], tuple(row["words"].format(**own).split()), "operations" not in row)
        for name, row in matrix["rows"].items()
        if recipe.stem in row.get("only", [recipe.stem]) and row.get("needs", "model") in content
    ]


def commands(
    recipe: Path, row: Row, seed: int, run: Path, data: str | None, teacher: str | None, words: Iterable[str]
) -> list[list[str]]:
    """The arguments of `bcdnet` that train and evaluate one run; the recipe's own data where `data` is None."""
    changed = list(row.words)
    if teacher and not any(word.startswith("teacher") for word in changed):
        changed.append(f"teacher={{checkpoint: {json.dumps(teacher)}}}")
    changed += [f"data.path={data}"] if data else []
    changed += words
    paths = [word.removeprefix("data.path=") for word in changed if word.startswith("data.path=")]
    place = paths[-1] if paths else yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]["path"]
    training = ["train", str(recipe), *changed, f"seed={seed}", f"run_dir={run}"]
    return [
        training + (["--resume"] if (run / "recipe.yaml").is_file() else []),
        ["eval", str(run), "--data", place],
    ]


def costs(recipe: Path, row: Row) -> Any:
    """What `bcdnet summary` counts for the row's network (a `Counts`)."""
    from bcdnet.analysis import count
    from bcdnet.training.build import design
    from bcdnet.training.recipe_file import load_recipe

    resolved = load_recipe(recipe, row.words)
    channels, size = resolved.data.channels, resolved.data.image_size
    model = design(resolved.model, read_matrix()["recipes"][recipe.stem]["classes"], channels)
    return count(model, (channels, size, size))


def print_costs(recipe: Path, rows: list[Row]) -> None:
    """A Markdown table of every row's operations, beside ReActNet's."""
    counted = {row.name: costs(recipe, row) for row in rows}
    base = counted.get("reactnet") or costs(recipe, next(row for row in rows_of(recipe) if row.name == "reactnet"))
    print("| row | BOPs (1e6) | FLOPs (1e6) | OPs (1e6) | over ReActNet |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        own = counted[row.name]
        over = f"{100 * (own.ops / base.ops - 1):+.2f} %"
        print(f"| {row.title} | {own.bops / 1e6:.2f} | {own.flops / 1e6:.2f} | {own.ops / 1e6:.2f} | {over} |")


def finished(run: Path) -> list[bool]:
    """Whether the run is trained, and whether it is evaluated."""
    return [(run / "metrics.json").is_file() and (run / "model.safetensors").is_file(), (run / "eval.json").is_file()]


def left(run: Path, pair: list[list[str]]) -> list[list[str]]:
    """Of the commands that train and evaluate a run, those that are not done."""
    return [words for words, done in zip(pair, finished(run), strict=True) if not done]


def carry_out(run: Path, pair: list[list[str]], log: Path | None) -> bool:
    """Do what is left of one run, its output into `log` if there is one; whether all went well."""
    with log.open("a", encoding="utf-8") if log else nullcontext() as output:
        for words in left(run, pair):
            print(shlex.join(["bcdnet", *words]), flush=True)
            if subprocess.run([BCDNET, *words], stdout=output, stderr=output, check=False).returncode:
                return False
    return True


def main() -> None:
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, help="folder of the run folders")
    parser.add_argument("--data", help="the dataset, instead of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--groups", nargs="+", default=None, help="only these groups of rows")
    parser.add_argument("--rows", nargs="+", default=None, help="only these rows")
    parser.add_argument("--teacher", help="a trained teacher's file, instead of training one in every run")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs are at work at once")
    parser.add_argument("--costs", action="store_true", help="show each row's operations, and run none")
    parser.add_argument("--print", action="store_true", help="show the commands that are left, and run none")
    arguments = parser.parse_args(given[:end])
    try:
        known = rows_of(arguments.recipe)
    except (KeyError, OSError) as error:
        parser.error(str(error.args[0] if isinstance(error, KeyError) else error))
    if unknown := set(arguments.groups or ()) - {row.group for row in known}:
        parser.error(f"no group {', '.join(sorted(unknown))} for {arguments.recipe.stem} in {MATRIX.name}")
    rows = [
        row
        for row in known
        if (arguments.groups is None or row.group in arguments.groups)
        and (arguments.rows is None or row.name in arguments.rows)
    ]
    if unknown := set(arguments.rows or ()) - {row.name for row in rows}:
        within = f" (--groups {' '.join(arguments.groups)})" if arguments.groups else ""
        parser.error(f"no row {', '.join(sorted(unknown))} for {arguments.recipe.stem} in {MATRIX.name}{within}")
    if arguments.costs:
        print_costs(arguments.recipe, rows)
        return
    if arguments.out is None:
        parser.error("--out: say where the runs shall go")
    if arguments.jobs < 1:
        parser.error(f"--jobs: at least 1, got {arguments.jobs}")
    words, runs = given[end + 1 :], {}
    for seed in arguments.seeds:  # all rows once before any row twice: whatever stops it leaves a whole comparison
        for row in rows:
            run = arguments.out / f"{row.name}-s{seed}"
            runs[run] = commands(arguments.recipe, row, seed, run, arguments.data, arguments.teacher, words)
    if arguments.print:
        print("\n".join(shlex.join(["bcdnet", *words]) for run, pair in runs.items() for words in left(run, pair)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    logs = [run.with_suffix(".log") if arguments.jobs > 1 else None for run in runs]
    with ThreadPoolExecutor(arguments.jobs) as workers:
        try:
            well = list(workers.map(carry_out, runs, runs.values(), logs))
        except KeyboardInterrupt:  # which the runs at work have got too
            workers.shutdown(cancel_futures=True)
            raise
    failed = [run.name for run, good in zip(runs, well, strict=True) if not good]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the same command tries them again")


if __name__ == "__main__":
    main()
