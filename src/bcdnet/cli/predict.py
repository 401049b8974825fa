"""`bcdnet predict`: what a model sees in images."""

from __future__ import annotations

import csv
import errno
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bcdnet.cli.model import MOST_PIXELS, Model, model_files, packed_file
from bcdnet.cli.table import print_table
from bcdnet.errors import BcdnetError, printable
from bcdnet.files import refuse_overwriting, whole_file

if TYPE_CHECKING:
    from bcdnet.runtime.sources import Source
    from bcdnet.runtime.stream import Outcome


# Suffixes that Pillow writes as they are; a copy of anything else becomes a PNG.
COPIED_AS_IS = (".jpg", ".jpeg", ".png", ".webp")


def run(
    model: Model,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE", help="Image files, folders, globs, - for standard input, a webcam's number, addresses."
        ),
    ],
    topk: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with one object for each image.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: one row for each image and class.")] = False,
    annotate: Annotated[Path | None, typer.Option(help="Folder for copies with the predictions drawn below.")] = None,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch http and https addresses.")] = False,
    max_pixels: Annotated[int, typer.Option(min=1, max=MOST_PIXELS, help="Skip larger images.")] = MOST_PIXELS // 2,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images that the network takes at once.")] = 16,
    threads: Annotated[
        int | None, typer.Option(min=1, help="By default all CPUs; with --engine ray, 1 a process.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: many machines; also reads Parquet and WebDataset.")
    ] = "local",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Parquet file to write, with --engine ray."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that predict, with --engine ray; by default 2."),
    ] = None,
) -> None:
    """Classify images: JPEG, PNG, WebP and what else Pillow reads, turned upright as their EXIF data say.

    A damaged or oversized image is named and skipped; exit code 1 then tells of it at the end. Packed files need no
    torch; a model file or run folder is packed first.
    """
    import warnings

    from bcdnet.runtime import InferenceSession
    from bcdnet.runtime.sources import find_images
    from bcdnet.runtime.stream import predict_stream

    if as_json and as_csv:
        raise BcdnetError("--json and --csv exclude each other")
    # Pillow's remarks on odd files, and on many pixels, of which --max-pixels decides.
    warnings.filterwarnings("ignore", module="PIL")
    if engine == "ray":
        if output is None or as_json or as_csv or annotate is not None or allow_urls:
            raise BcdnetError(
                "--engine ray writes Parquet: give -o FILE, and none of --json, --csv, --annotate, --allow-urls"
            )
        _predict_with_ray(model, sources, output, topk, batch, workers or 2, threads or 1, max_pixels)
        return
    if output is not None:
        raise BcdnetError("-o is for --engine ray; print --json or --csv into a file, or give --annotate FOLDER")
    if workers is not None:
        raise BcdnetError("--workers is for --engine ray; --threads says how many CPUs to take")
    if annotate is not None and annotate.exists() and not annotate.is_dir():
        raise BcdnetError(f"{annotate}: is a file; give --annotate a folder")
    found = find_images(sources, allow_urls=allow_urls, max_pixels=max_pixels)
    with packed_file(model) as path:
        session = InferenceSession(path, threads=threads)
    stream = predict_stream(session, found, topk=topk, batch=batch, keep_images=annotate is not None)
    copies = None if annotate is None else Copies(annotate, found)
    problems: list[str] = []
    rows: list[Outcome] = []
    try:
        with _progress(len(found)) as advance:
            outcomes = _watch(stream, copies, problems, advance)
            if as_json:
                _print_json(outcomes)
            elif as_csv:
                _print_csv(outcomes)
            else:
                rows.extend(outcomes)
    finally:  # whatever stops it, what was classified is shown
        _print_table(rows)
    if problems:
        copied = "" if copies is None else " or copied"
        typer.echo(f"{len(problems)} of {len(found)} images could not be read{copied}", err=True)
        raise typer.Exit(1)


def _predict_with_ray(
    model: str, sources: list[str], output: Path, topk: int, batch: int, workers: int, threads: int, max_pixels: int
) -> None:
    from bcdnet.runtime.distributed import predict_dataset

    refuse_overwriting([output], model_files(model))
    begin = perf_counter()
    with packed_file(model) as path:
        rows, problems = predict_dataset(
            path, sources, output, topk=topk, batch=batch, workers=workers, threads=threads, max_pixels=max_pixels
        )
    typer.echo(f"wrote {output}: {rows:,} images, {rows / (perf_counter() - begin):,.0f} images/s", err=True)
    if problems:
        typer.echo(f"{problems} of {rows} images could not be read; the column error says why", err=True)
        raise typer.Exit(1)


class Copies:
    """Writes annotated copies into a folder, none over another. Raises BcdnetError for one that would lose a source."""

    def __init__(self, folder: Path, sources: list[Source]) -> None:
        self.folder = folder
        self._taken: set[Path] = set()
        self._originals = {Path(source.name).resolve() for source in sources}
        refuse_overwriting(map(self._path, sources), (source.name for source in sources))

    def _path(self, source: Source) -> Path:
        relative = source.relative
        return self.folder / (
            relative if relative.suffix.lower() in COPIED_AS_IS else relative.with_name(f"{relative.name}.png")
        )

    def write(self, outcome: Outcome) -> str | None:
        """Write the copy of one image that was read; if its format cannot hold it, what to say of that."""
        from bcdnet.runtime.annotate import annotate

        if outcome.image is None:
            return None
        first = path = self._path(outcome.source)
        number = 1
        while path in self._taken or path.resolve() in self._originals:
            number += 1
            path = first.with_stem(f"{first.stem}-{number}")
        self._taken.add(path)
        copy = annotate(outcome.image, outcome.predictions)
        try:
            with whole_file(path) as beside:
                copy.save(beside)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                return f"{path}: this copy's name is too long"
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault: no other copy would fare better
            return f"{path}: a copy of {copy.width} x {copy.height} pixels does not fit into this format ({error})"
        return None


def _watch(
    stream: Iterator[Outcome], copies: Copies | None, problems: list[str], advance: Callable[[str | None], None]
) -> Iterator[Outcome]:
    """Pass the outcomes on; report, count and copy on the way."""
    for outcome in stream:
        problem = outcome.error if outcome.error is not None or copies is None else copies.write(outcome)
        if problem is not None:
            problems.append(problem)
        advance(problem)
        yield replace(outcome, image=None)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str | None], None]]:
    """A bar with images per second on stderr, and the errors above it; one line with the totals at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    begin, done = perf_counter(), 0

    def rate() -> str:
        return f"{done / max(perf_counter() - begin, 1e-9):,.0f} images/s"

    # A file that takes the results is none of the bar's: rich would print what goes to it above the bar instead.
    redirect = sys.stdout.isatty()
    shown = console.is_terminal
    bar = Progress(*columns, console=console, transient=True, disable=not shown, redirect_stdout=redirect)
    # Before version 15 rich ends a bar that it does not show with an empty line.
    with bar if shown else nullcontext():
        task = bar.add_task("", total=total, rate="")

        def advance(error: str | None) -> None:
            nonlocal done
            done += 1
            if error is not None:
                # A file's name may hold what rich would take for markup.
                console.print(Text(f"skipped {printable(error)}"), soft_wrap=True)
            bar.update(task, completed=done, rate=rate())

        yield advance
    if done > 1:
        console.print(f"{done:,} images, {rate()}", highlight=False)


def _entry(outcome: Outcome) -> dict[str, Any]:
    if outcome.error is not None:
        return {"file": outcome.source.name, "error": outcome.error}
    return {"file": outcome.source.name, "predictions": [asdict(best) for best in outcome.predictions]}


def _print_json(outcomes: Iterator[Outcome]) -> None:
    typer.echo("[", nl=False)
    separator = ""
    try:
        for outcome in outcomes:
            typer.echo(f"{separator}\n {json.dumps(_entry(outcome))}", nl=False)
            separator = ","
    finally:  # whatever stops it, what was printed can be read
        typer.echo("\n]")


def _print_csv(outcomes: Iterator[Outcome]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("file", "rank", "label", "index", "probability"))
    for outcome in outcomes:
        for place, best in enumerate(outcome.predictions, start=1):
            writer.writerow((outcome.source.name, place, best.label, best.index, f"{best.probability:.6f}"))


def _print_table(rows: list[Outcome]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="fold")
    for place in range(1, max((len(row.predictions) for row in rows), default=0) + 1):
        table.add_column("class" if place == 1 else f"{place}.", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True)
    for row in rows:
        if row.error is None:
            cells = [(printable(best.label), f"{100 * best.probability:.1f} %") for best in row.predictions]
            table.add_row(Text(printable(row.source.name)), *(Text(text) for pair in cells for text in pair))
    if table.row_count:
        print_table(table)
