"""Files that are whole or not there: written beside their place, then renamed; and none in an input's place. A leaf."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bcdnet.errors import BcdnetError

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)  # what writing itself meets, which names no file


def refuse_overwriting(outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise BcdnetError if one of `outputs` is one of `inputs`, links followed; neither need exist."""
    originals = {os.path.realpath(path): os.fspath(path) for path in inputs}
    for output in outputs:
        if (original := originals.get(os.path.realpath(output))) is not None:
            raise BcdnetError(f"{os.fspath(output)}: would write over {original}, which is read; choose another output")


@contextmanager
def naming(path: str | os.PathLike[str], beside: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Let an OSError that names `beside`, or no file as that of a full disk, name `path`, which the block writes."""
    try:
        yield
    except OSError as error:
        if (error.filename is None and error.errno in FULL) or (beside and error.filename == os.fspath(beside)):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None  # of the error's own class
        raise


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, beside `path` and with its suffix; the file gets its name once the block has ended well.

    Folders on the way to it are made. If the block fails, what was at `path` stays. A link is followed: what it points
    to is replaced, and its permissions are kept. Raises OSError that names `path` where it cannot be written, or is
    there and no regular file (a folder, a device, a pipe).
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = os.urandom(4).hex()  # process ids repeat, among threads and containers
    beside = target.with_name(f".{target.stem[:32]}.{mark}.partial{target.suffix}")
    try:
        with naming(path, beside):
            yield beside
            if target.exists():
                beside.chmod(target.stat().st_mode & 0o7777)
            beside.replace(target)
    finally:
        with suppress(OSError):  # where it could not be written, it cannot be removed
            beside.unlink()


@contextmanager
def lasting_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """`whole_file` for what took long to compute: its content is on the disk before it gets its name, and then that."""
    with whole_file(path) as beside:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
    if os.name == "posix":  # elsewhere folders cannot be opened and need not be
        folder = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a lasting file of text."""
    with lasting_file(path) as beside:
        beside.write_text(text, encoding="utf-8")
