import ast
import csv
import os
import re
import signal
import subprocess
import sys
import threading
import types
from itertools import pairwise
from pathlib import Path

import pytest

from bcdnet import __version__
from bcdnet.cli import main as cli
from bcdnet.errors import RecipeError

SOURCES = Path(cli.__file__).parent
REMEDY = "smaller batches need less"
CPU_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000000 bytes."


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `bcdnet ARGS`."""
    with pytest.raises(SystemExit) as left:
        cli.main(args)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that stands in the table as the verb `probe`; a test gives it its `run`."""
    module = types.ModuleType("bcdnet_probe")
    monkeypatch.setitem(sys.modules, "bcdnet_probe", module)
    monkeypatch.setitem(cli.VERBS, "probe", cli.Verb("bcdnet_probe", "Probe the mechanism."))
    return module


def test_help_and_version_leave_torch_out() -> None:
    code = """
import sys
from bcdnet.cli.main import main
for argument in ("--help", "--version"):
    try:
        main([argument])
    except SystemExit as left:
        assert left.code == 0, left.code
assert not {"torch", "timm", "bcdnet.cli.train"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"bcdnet {__version__}\n")
    for name in cli.VERBS:
        assert f" {name} " in done.stdout


def test_every_verb_has_its_file_and_every_file_its_verb() -> None:
    listed = {verb.module for verb in cli.VERBS.values()}
    files = {
        path for path in SOURCES.glob("*.py") if path.name not in ("__init__.py", "main.py", "model.py", "table.py")
    }
    assert listed == {f"bcdnet.cli.{path.stem}" for path in files}
    for path in files:
        functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        assert "run" in functions


def test_a_verb_gets_its_arguments_and_its_docstring_is_its_help(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: list[str], loud: bool = False) -> None:
        """Say the words."""
        print(" ".join(words).upper() if loud else " ".join(words))

    verb.run = run  # type: ignore[attr-defined]
    assert call(capsys, "probe", "a=1", "b", "--loud") == (0, "A=1 B\n", "")
    assert "Say the words." in call(capsys, "probe", "--help")[1]
    assert "Probe the mechanism." in call(capsys, "--help")[1]


def test_help_s_paragraphs_are_wrapped_for_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in cli.VERBS:
        lines = [line.strip() for line in call(capsys, name, "--help")[1].splitlines()]
        usage = next(number for number, line in enumerate(lines) if line.startswith("Usage: "))
        text = lines[usage : next(number for number, line in enumerate(lines) if line.startswith("╭"))]
        # A line that another one follows has no room for the first word of that one.
        ragged = [line for line, after in pairwise(text) if line and after and len(f"{line} {after.split()[0]}") < 78]
        assert ragged == [], name


def test_usage_names_arguments_alike(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.VERBS:
        usage = next(line for line in call(capsys, name, "--help")[1].splitlines() if "Usage:" in line)
        words = usage.split("[OPTIONS]")[1].split()
        # Some versions of typer put braces around what must be given.
        assert all(re.fullmatch(r"\{?\[?[A-Z/=_]+\]?\}?(\.\.\.\]?)?", word) for word in words), usage
        assert ("..." in usage) == (name in ("predict", "serve", "train")), usage


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            RecipeError("epoch: unknown key; did you mean epochs?"),
            2,
            "error: epoch: unknown key; did you mean epochs?\n",
        ),
        (
            ModuleNotFoundError("…", name="torch.nn"),
            2,
            "error: this command needs torch: pip install 'bcdnet[train]'\n",
        ),
        (PermissionError(13, "Permission denied", "there/x"), 2, "error: there/x: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (MemoryError(), 2, "error: not enough memory (of this machine); smaller batches need less\n"),
        (
            RuntimeError(f"[enforce fail at alloc_cpu.cpp:127] err == 0. {CPU_MEMORY}\nframe #0"),
            2,
            f"error: not enough memory ([enforce fail at alloc_cpu.cpp:127] err == 0. {CPU_MEMORY}); {REMEDY}\n",
        ),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore"),
            2,
            f"error: not enough memory (CUDA out of memory. Tried to allocate 20.00 GiB.); {REMEDY}\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_user_can_cause_is_one_line(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    def run() -> None:
        raise error

    verb.run = run  # type: ignore[attr-defined]
    assert call(capsys, "probe") == (code, "", message)


@pytest.mark.parametrize(("closed", "out", "err"), [("stdout", "", "error: it\n"), ("stderr", "a,b\n", "")])
def test_what_has_no_place_to_go_goes_nowhere_else(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, closed, out, err
) -> None:
    def run() -> None:
        csv.writer(sys.stdout, lineterminator="\n").writerow("ab")
        raise RecipeError("it")

    verb.run = run  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, closed, None)
    assert call(capsys, "probe") == (2, out, err)
    getattr(sys, closed).close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_the_exit_code_tells_what_a_full_disk_cannot() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "bcdnet", "probe"], stderr=full, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        ("torch timm pytorch_grad_cam", ["explain", "bcdnet_a", "x.png", "-o", "x.html"], "explain"),
        ("pytorch_grad_cam torch", ["explain", "bcdnet_a", "x.png", "-o", "x.html"], "explain"),
        ("onnx torch timm", ["export", "bcdnet_b_r18_fashion_mnist", "-o", "x.onnx"], "onnx"),
        ("huggingface_hub", ["predict", "hf-hub:a/b", "x.png"], "hub"),
        ("torch timm", ["summary", "bcdnet_a"], "train"),
    ],
)
def test_what_is_missing_comes_with_the_extra_of_the_verb(missing, words, extra, tmp_path) -> None:
    (tmp_path / "x.png").touch()
    code = f"import sys; sys.modules.update(dict.fromkeys({missing.split()}))\n"
    code += f"from bcdnet.cli.main import main; main({words})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.endswith(f"pip install 'bcdnet[{extra}]'\n"), done.stderr


def test_a_packed_file_becomes_onnx_without_torch(tmp_path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'timm']))\n"
    code += "from bcdnet.cli.main import main; main(['export', 'bcdnet_b_r18_fashion_mnist', '-o', 'x.onnx'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (tmp_path / "x.onnx").is_file(), done.stderr


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'bcdnet.gone'", name="bcdnet.gone"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_a_bug_of_ours_keeps_its_traceback(verb: types.ModuleType, error: Exception) -> None:
    def run() -> None:
        raise error

    verb.run = run  # type: ignore[attr-defined]
    with pytest.raises(type(error)):
        cli.main(["probe"])


@pytest.mark.skipif(os.name != "posix", reason="sends a signal of POSIX")
def test_a_command_that_is_told_to_end_leaves_nothing_half_written(tmp_path) -> None:
    code = """
import time
from bcdnet.cli import predict
from bcdnet.cli.main import main
from bcdnet.files import whole_file

def run(place: str) -> None:
    with whole_file(place) as beside:
        beside.write_text("half")
        print("what was found")
        print("writing", file=__import__("sys").stderr, flush=True)
        time.sleep(60)

predict.run = run
main()
"""
    command = [sys.executable, "-c", code, "predict", str(tmp_path / "x")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stderr.readline() == "writing\n"
        process.terminate()
        assert process.communicate(timeout=20) == ("what was found\n", "")
    assert process.returncode == -signal.SIGTERM and list(tmp_path.iterdir()) == []


def test_the_command_line_within_a_program_leaves_its_signals_alone(verb: types.ModuleType) -> None:
    """It may also be called in a thread, where Python sets no handlers."""
    seen, before = [], signal.getsignal(signal.SIGTERM)

    def look() -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    def call_main() -> None:
        with pytest.raises(SystemExit) as left:
            cli.main(["probe"])
        seen.append(left.value.code)

    verb.run = look
    call_main()
    assert seen[0] is not signal.SIG_DFL and seen[1] == 0 and signal.getsignal(signal.SIGTERM) is before
    thread = threading.Thread(target=call_main)
    thread.start()
    thread.join()
    assert seen[2:] == [before, 0]


def test_a_verb_that_is_misspelt(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "tarin", "x")
    assert (code, err) == (2, "error: No such command 'tarin'; did you mean train?; see bcdnet --help\n")


def test_help_is_short_too_and_completion_knows_the_verbs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(capsys, "predict", "-h") == call(capsys, "predict", "--help")
    for words, expected in (("bcdnet pr", "predict"), ("bcdnet predict --to", "--topk")):
        for name, value in (("_BCDNET_COMPLETE", "complete_bash"), ("COMP_WORDS", words)):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        assert call(capsys)[1].split() == [expected]


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "bcdnet", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("bcdnet ")


@pytest.mark.parametrize("args", [["nosuch"], ["--nosuch"], ["probe", "--nosuch"]])
def test_usage_errors_exit_with_2(verb: types.ModuleType, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    verb.run = lambda: None  # type: ignore[attr-defined]
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "")
    command = "bcdnet probe" if "probe" in args else "bcdnet"
    assert err.startswith("error: ") and err.endswith(f"; see {command} --help\n") and err.count("\n") == 1
    assert "nosuch" in err


def test_a_usage_error_is_one_line_whatever_it_quotes(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(number: int) -> None:
        """Take a number."""

    verb.run = run  # type: ignore[attr-defined]
    for args in ([], ["a\n\x1b[2J"]):
        code, out, err = call(capsys, "probe", *args)
        assert (code, out) == (2, "") and err.count("\n") == 1 and "\x1b" not in err
    code, out, err = call(capsys)
    assert code == 2 and "Usage: bcdnet" in out + err and "error" not in err


def test_a_usage_error_says_what_may_be_chosen_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    for words, where in (
        (["predict", "x", "y", "--engine", "spark"], "'--engine': 'spark'"),
        (["analyze", "spark", "x"], "'KIND': 'spark'"),
    ):
        assert call(capsys, *words)[2].startswith(f"error: Invalid value for {where} is not one of ")
