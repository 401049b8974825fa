"""Compile the core for browsers: src/bcdnet/web_assets/bcdnet.wasm, and from which sources it was made (build.json).

Needs Emscripten and Highway's headers: on Debian `apt-get install emscripten node-acorn libhwy-dev`. Both results are
committed, since whoever installs the package has no Emscripten; tests/web/test_build.py tells when they are old.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "src/bcdnet/web_assets"
EXPORTS = ["_bcdnet_load", "_bcdnet_run", "_bcdnet_error", "_bcdnet_target", "_malloc", "_free"]
# Exceptions carry the reason why a file is refused. One static target: a browser has WASM SIMD or does not load this.
COMMON = ["-msimd128", "-fwasm-exceptions"]
COMPILE = [
    "-O3",
    *COMMON,
    "-std=c++20",
    "-ffp-contract=off",
    "-DHWY_COMPILE_ONLY_STATIC",
    "-DNDEBUG",
    "-Wall",
    "-Wextra",
]
LINK = [
    "-Os",
    *COMMON,
    "--no-entry",
    "-sSTANDALONE_WASM",
    "-sALLOW_MEMORY_GROWTH",
    f"-sEXPORTED_FUNCTIONS={','.join(EXPORTS)}",
]


def sources() -> list[Path]:
    """Everything that the module is made from, this script included."""
    core = [
        path for part in ("include", "kernels", "reference", "runtime") for path in (ROOT / "core" / part).rglob("*")
    ]
    return sorted([path for path in core if path.is_file()] + [*ROOT.glob("web/*.cc"), Path(__file__)])


def fingerprint() -> str:
    """SHA-256 of the sources' names and contents."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def build() -> None:
    before = fingerprint()
    headers = Path(os.environ.get("HWY_INCLUDE", "/usr/include"))
    if not (headers / "hwy/highway.h").exists():
        sys.exit(f"error: no Highway in {headers}; install libhwy-dev or set HWY_INCLUDE")
    # Debian's Emscripten looks for node's packages here.
    environment = {"NODE_PATH": "/usr/share/nodejs"} | os.environ
    with tempfile.TemporaryDirectory() as folder:
        # Not the system's headers, which are for another machine: only Highway's.
        (Path(folder) / "include").mkdir()
        (Path(folder) / "include/hwy").symlink_to(headers / "hwy")
        includes = ["-I", ROOT / "core/include", "-I", ROOT / "core", "-isystem", f"{folder}/include"]
        objects = []
        for number, source in enumerate(path for path in sources() if path.suffix == ".cc"):
            objects.append(f"{folder}/{number}.o")
            print(source.relative_to(ROOT))
            subprocess.run(["em++", *COMPILE, *includes, "-c", source, "-o", objects[-1]], check=True, env=environment)
        module = f"{folder}/bcdnet.wasm"
        subprocess.run(["em++", *LINK, *objects, "-o", module], check=True, env=environment)
        version = subprocess.run(
            ["em++", "--version"], check=True, capture_output=True, text=True, env=environment
        ).stdout
        if fingerprint() != before:
            sys.exit("error: the sources changed meanwhile; build again")
        (ASSETS / "bcdnet.wasm").write_bytes(Path(module).read_bytes())
    number = re.search(r"\d+\.\d+\.\d+", version)
    record = {"sources": before, "emscripten": number and number[0]}
    (ASSETS / "build.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{ASSETS / 'bcdnet.wasm'}: {(ASSETS / 'bcdnet.wasm').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    build()
