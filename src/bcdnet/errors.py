"""Every error a user of bcdnet can cause, under one base class.

The messages name the thing that is wrong and the remedy; the command line prints them as one line without a traceback.
This module is a leaf: it imports nothing of ours and no third-party package.
"""


def printable(text: str) -> str:
    """One line without codes that a terminal would obey, whatever names of files and tensors a message quotes."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class BcdnetError(ValueError):
    """Base class: something the caller passed (a file, a key, a shape) is wrong."""


class RecipeError(BcdnetError):
    """A recipe or configuration has an unknown key, a wrong type or a value out of range."""


class DataError(BcdnetError):
    """A dataset is missing, empty, truncated, mislabelled or of an unknown format."""


class ImageTooLargeError(DataError):
    """An image has more pixels than the caller allows."""


class CheckpointError(BcdnetError):
    """A bcdnet checkpoint is missing, truncated or does not describe a model that can be built."""


class InteropError(BcdnetError):
    """A foreign checkpoint lacks tensors, has extra ones or holds them in the wrong shape."""


class ProgramError(BcdnetError):
    """A packed program file violates the format; the message names the offending op or tensor."""


class CompileError(BcdnetError):
    """A module cannot be lowered to a packed program; the message names the module path and the reason."""
