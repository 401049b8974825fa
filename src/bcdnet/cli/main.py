"""The `bcdnet` command: one table of verbs, each imported only when it runs, so that `bcdnet --help` stays quick.

To add a verb, write `cli/<verb>.py` with one typed function `run(...)` (a typer command: `typer.Argument`,
`typer.Option`) that imports torch and the like inside its body, and add one line to `VERBS`.
"""

import difflib
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from threading import current_thread, main_thread
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from bcdnet import __version__
from bcdnet.errors import BcdnetError, printable

HELP = {"help_option_names": ["-h", "--help"]}
UsageError: Any = typer.BadParameter.__base__  # older versions of typer have it from click, newer ones from themselves


@dataclass(frozen=True)
class Verb:
    """The module of a verb, its line in `bcdnet --help`, the extra that brings what it imports."""

    module: str
    help: str
    extra: str = "train"


VERBS: dict[str, Verb] = {
    "summary": Verb("bcdnet.cli.summary", "What a network costs: parameters, operations, packed size."),
    "train": Verb("bcdnet.cli.train", "Train what a recipe says."),
    "eval": Verb("bcdnet.cli.eval", "Accuracy, calibration and speed of a trained model on a dataset."),
    "predict": Verb("bcdnet.cli.predict", "What a model sees in images."),
    "explain": Verb("bcdnet.cli.explain", "Where a model looks, and what its MLP blocks add.", "explain"),
    "serve": Verb("bcdnet.cli.serve", "Models behind HTTP, with a page."),
    "export": Verb("bcdnet.cli.export", "Pack a model into one file that runs without torch."),
    "verify": Verb("bcdnet.cli.verify", "Compare a packed file with its model, bit by bit."),
    "bench": Verb("bcdnet.cli.bench", "How fast a packed file runs on this machine."),
    "card": Verb("bcdnet.cli.card", "Pack a finished run under a name, with a model card of measured figures."),
    "export-web": Verb("bcdnet.cli.export_web", "A web page that runs a packed model in the browser."),
    "analyze": Verb("bcdnet.cli.analyze", "Binarisation error, weight flips, dynamic thresholds, receptive field."),
    "push": Verb("bcdnet.cli.push", "Put a trained model on the Hugging Face hub."),
    "doctor": Verb("bcdnet.cli.doctor", "What works on this machine, for bug reports."),
    "import": Verb("bcdnet.cli.import_", "Convert a published BCDNet or ReActNet checkpoint."),
}


# Which extra brings a package that any verb may miss; the verb's own brings all others.
EXTRAS = {
    "huggingface_hub": "hub",
    "onnx": "onnx",
    "ray": "ray",
    **dict.fromkeys(("fastapi", "multipart", "prometheus_client", "python_multipart", "uvicorn"), "serve"),
}


def load(name: str) -> Any:
    """Import a verb's module and make a command of its `run`, whose docstring is the verb's full help."""
    function = importlib.import_module(VERBS[name].module).run
    # A paragraph is one line: typer wraps it for the terminal, and would keep the source's line ends too.
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    single = typer.Typer(add_completion=False)
    single.command(name=name, help=text, context_settings=HELP)(function)
    command: Any = typer.main.get_command(single)
    for argument in command.params:
        if argument.param_type_name == "argument":
            argument.metavar = argument.metavar or argument.name.upper()
            # Older versions of typer leave the dots of several values to the name.
            if argument.nargs != 1 and "..." not in argument.get_usage_pieces(typer.Context(command))[0]:
                argument.metavar += "..."
    return command


class VerbGroup(TyperGroup):
    """Lists the verbs from the table and imports one only when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # What --help lists; resolve_command puts the real command in its place.
        return TyperCommand(cmd_name, help=VERBS[cmd_name].help) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if (near := difflib.get_close_matches(args[0], VERBS, n=1)) and args[0] not in VERBS:
            raise UsageError(f"No such command '{args[0]}'; did you mean {near[0]}?", ctx)
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in VERBS else command, rest


app = typer.Typer(cls=VerbGroup, context_settings=HELP, pretty_exceptions_enable=False, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bcdnet {__version__}")
        raise typer.Exit


@app.callback()
def bcdnet(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Build, train, understand and deploy accurate binary neural networks for images."""


def _is_lack_of_memory(error: Exception) -> bool:
    """Torch raises an OutOfMemoryError of its own for a GPU, and for the CPU what it raises for anything else."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator: " in str(error)


class _TerminatedError(BaseException):
    """SIGTERM came."""


def _terminate(_number: int, _frame: Any) -> None:
    raise _TerminatedError


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM, if it is nobody else's and not ignored, ends the process once what is half written is removed."""
    # Python takes a handler from its main thread alone.
    ours = current_thread() is main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except _TerminatedError:
        with suppress(OSError):
            sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; always leaves through SystemExit, or by SIGTERM if that is sent.

    Exit codes: 0 success; 1 what `predict` and `verify` tell with it; 2 a usage error, a `BcdnetError` or a file that
    cannot be read or written (one line on stderr, no traceback); 130 interrupted.
    """
    # Closed ones (>&- in a shell): print would take the other's place, and csv knows no None.
    sys.stdout, sys.stderr = (
        stream or open(os.devnull, "w", errors="replace")  # noqa: SIM115 (open to the end)
        for stream in (sys.stdout, sys.stderr)
    )
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    words = sys.argv[1:] if argv is None else argv
    verb = next((word for word in words if word in VERBS), None)
    try:
        with _orderly_end():
            sys.exit(typer.main.get_command(app)(args=argv, prog_name="bcdnet", standalone_mode=False) or 0)
    except UsageError as error:
        # Newer versions of typer quote pydantic, which says before each message of typer's what it is.
        message = " ".join(error.format_message().split()).replace(": Value error, ", ": ", 1)
        if not message:  # where the help was printed instead
            sys.exit(2)
        command = error.ctx.command_path if error.ctx else " ".join(filter(None, ("bcdnet", verb)))
        message = f"{message.rstrip('.')}; see {command} --help"
    except BcdnetError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        package = (error.name or "bcdnet").split(".")[0]
        if package == "bcdnet":
            raise
        extra = EXTRAS.get(package, VERBS[verb].extra if verb else "train")
        message = f"this command needs {package}: pip install 'bcdnet[{extra}]'"
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        reason = (str(error) or "of this machine").splitlines()[0]
        message = f"not enough memory ({reason}); smaller batches need less"
    except OSError as error:
        message = f"{error.filename}: {error.strerror or error}" if error.filename else error.strerror or str(error)
    except KeyboardInterrupt:
        sys.exit(130)
    with suppress(OSError):  # a full disk, a log that nobody reads: the exit code tells
        print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(2)
