"""The folder of the results, looked at before anything is measured: at the end, what was found would be lost."""

import argparse
import os
from pathlib import Path


def results_folder(text: str) -> Path:
    """A type of argparse's: a folder's path. ArgumentTypeError where none can be made or written to."""
    folder = Path(text)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written to: {there} is no folder, or a closed one")
    return folder
