"""Predictions over more images than one machine should read: Ray Data runs the session in a pool of workers.

Ray starts a worker that died anew and gives it the same rows again; since results do not depend on who computes them,
each row arrives here once. The driver writes them, which are small, into one Parquet file.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcdnet.decoded_images import open_image
from bcdnet.errors import BcdnetError, DataError
from bcdnet.files import lasting_file
from bcdnet.runtime.preprocess import for_images, to_input
from bcdnet.runtime.session import InferenceSession
from bcdnet.runtime.sources import MAX_PIXELS
from bcdnet.runtime.stream import rank_inputs

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from bcdnet.runtime.tables import Files

READ_CPUS = 0.5  # reading waits for disks and networks
# Columns that may hold an image: ours, Hugging Face's, and WebDataset's by suffix.
IMAGE_COLUMNS = ("bytes", "image", "jpg", "jpeg", "png", "webp")


class Predictor:
    """One worker: the packed file's bytes become a session; a call adds predictions to a table.

    The table has a column of encoded images, which is dropped, or a column `path`; all other columns stay. Adds
    `label`, `index` and `probability` of the best class, `labels` and `probabilities` of the `topk` best, and `error`,
    which says why an image could not be read. Relative paths start at `folder`: a cluster's workers run elsewhere.
    """

    def __init__(self, packed: bytes, topk: int, threads: int, max_pixels: int, folder: str) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "model.bcdn"
            path.write_bytes(packed)
            self._session = InferenceSession(path, threads=threads)
        self._topk = topk
        self._max_pixels = max_pixels
        self._folder = folder

    def __call__(self, table: pa.Table) -> pa.Table:
        rest, names, images = _split(table)
        prepared = [self._prepare(name, image) for name, image in zip(names, images, strict=True)]
        rows = rank_inputs(self._session, [x for x, _ in prepared], self._topk)
        return _with_predictions(rest, rows, [error for _, error in prepared])

    def _prepare(self, name: str, image: bytes | str | None) -> tuple[Any, str | None]:
        preprocess = for_images(self._session.preprocess)
        try:
            if image is None:
                raise DataError(f"{name}: no image in this row")
            if isinstance(image, str):
                image = os.path.join(self._folder, image)
            return to_input(open_image(image, name, max_pixels=self._max_pixels), preprocess, name), None
        except (DataError, MemoryError) as error:
            return None, str(error) or f"{name}: needs more memory than there is"


def _split(table: pa.Table) -> tuple[pa.Table, list[str], Sequence[bytes | str | None]]:
    """The table without its image columns, a name for each row, and the encoded images or their paths."""
    import pyarrow as pa

    found = [
        name for name in IMAGE_COLUMNS if name in table.column_names and _holds_images(table.schema.field(name).type)
    ]
    if not found and "path" in table.column_names:
        paths = table.column("path").to_pylist()
        return table, [_called(path) for path in paths], paths
    if not found:
        raise DataError(f"no column of encoded images or paths among {', '.join(table.column_names)}")
    images: list[bytes | None] = [None] * len(table)
    places: list[str | None] = [None] * len(table)
    for column in found:
        for row, value in enumerate(table.column(column).to_pylist()):
            data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
            images[row] = images[row] or data
            places[row] = places[row] or path
    rest = table.drop_columns(found)
    # As the columns' types say, not the values: all parts of a data set get the same columns.
    kinds = [table.schema.field(name).type for name in found]
    with_paths = any(pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 for kind in kinds)
    if with_paths and "path" not in rest.column_names:
        rest = rest.append_column("path", pa.array(places, pa.string()))
    key = next((name for name in ("path", "__key__") if name in rest.column_names), None)
    names = [_called(value) for value in rest.column(key).to_pylist()] if key else ["image"] * len(table)
    return rest, names, images


def _called(value: object) -> str:
    """What messages call a row's image: its path or key, where it has one."""
    return "image" if value is None else str(value)


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind))


def _with_predictions(rest: pa.Table, rows: list[Any], errors: list[str | None]) -> pa.Table:
    import pyarrow as pa

    best = [row[0] if row else None for row in rows]
    columns = {
        "label": pa.array([found and found.label for found in best], pa.string()),
        "index": pa.array([found and found.index for found in best], pa.int64()),
        "probability": pa.array([found and found.probability for found in best], pa.float64()),
        "labels": pa.array([[found.label for found in row] for row in rows], pa.list_(pa.string())),
        "probabilities": pa.array([[found.probability for found in row] for row in rows], pa.list_(pa.float64())),
        "error": pa.array(errors, pa.string()),
    }
    for name, column in columns.items():
        # What the data set itself calls so (its true label, mostly) is kept beside.
        if name in rest.column_names:
            kept = f"given_{name}"
            while kept in rest.column_names:  # of two columns of one name neither could be read again
                kept = f"given_{kept}"
            rest = rest.rename_columns([kept if old == name else old for old in rest.column_names])
        rest = rest.append_column(name, column)
    return rest


def open_files(files: Files) -> Dataset:
    """The files' rows; of images their paths, since the workers read them without a copy in Ray's object store."""
    import ray

    from bcdnet.runtime.tables import read_tables

    schema, rows, folder = files.schema, [{"path": path} for path in files.paths], os.getcwd()
    if schema is None:
        return ray.data.from_items(rows)

    def read(paths: pa.Table) -> Iterator[pa.Table]:
        for path in paths.column("path").to_pylist():
            yield from read_tables(os.path.join(folder, path), schema)

    # One task a file.
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        read, batch_format="pyarrow", num_cpus=READ_CPUS
    )


def predict_dataset(
    packed: Path,
    sources: Sequence[str],
    output: Path,
    *,
    topk: int = 5,
    batch: int = 64,
    workers: int = 2,
    threads: int = 1,
    max_pixels: int = MAX_PIXELS,
    advance: Callable[[int, int], None] = lambda _rows, _problems: None,
) -> tuple[int, int]:
    """Write one Parquet file with a row for each image; (rows, rows that could not be read).

    Joins the cluster at `$RAY_ADDRESS`, or starts Ray on this machine for the while. `advance` is told both counts
    after each block. Before Ray starts raises BcdnetError for sources that cannot be read and for an output that is one
    of them (`find_files`), and OSError for one that cannot be written. Raises BcdnetError if Ray does not start;
    DataError for sources that hold nothing, or where a worker fails.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody asked for reports to Ray's makers
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves them where anything else runs
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "CRITICAL")  # what fails is raised; its traceback is Ray's own affair
    import ray  # first: if it is missing, its extra brings pyarrow too
    from ray.exceptions import RayError

    started = not ray.is_initialized()
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bcdnet.runtime.tables import find_files

    files = find_files(sources, output)
    # Opened before Ray starts, which takes long: a place that cannot be written is told at once.
    with lasting_file(output) as beside, beside.open("wb") as stream:
        rows = problems = 0
        writer: pq.ParquetWriter | None = None
        if started:
            # More CPUs than the workers take, so that reading is never starved by them.
            alone: dict[str, Any] = {"num_cpus": workers * threads + 2, "include_dashboard": False}
            here = {} if os.environ.get("RAY_ADDRESS") else alone
            try:
                ray.init(logging_level=logging.WARNING, log_to_driver=False, **here)
            except Exception as error:  # Ray has no class of its own for this
                raise BcdnetError(f"Ray does not start: {_cause(error)}") from error
        try:
            ray.data.DataContext.get_current().enable_progress_bars = False
            results: Any = open_files(files).map_batches(
                Predictor,
                fn_constructor_args=(packed.read_bytes(), topk, threads, max_pixels, os.getcwd()),
                batch_format="pyarrow",
                batch_size=batch,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=threads,
            )
            for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                writer = writer or pq.ParquetWriter(stream, table.schema)
                writer.write_table(table)
                rows += len(table)
                problems += len(table) - table.column("error").null_count
                advance(rows, problems)
            if writer is None or not rows:
                raise DataError("the sources hold no rows")
        except (RayError, pa.ArrowException) as error:
            raise DataError(_cause(error)) from error
        finally:
            if started:
                ray.shutdown()
            if writer is not None:
                writer.close()
    return rows, problems


def _cause(error: Exception) -> str:
    """What a worker raised: Ray quotes it with much around it, and the first exception named is where it began."""
    raised = re.findall(r"^([\w.]+: .+)$", str(error), re.MULTILINE) or [" ".join(str(error).split())]
    return re.sub(r"^bcdnet\.errors\.\w+: ", "", raised[0])
