"""What a browser kept of a page gives way to what was exported since, where the server says nothing of caching."""

from __future__ import annotations

import functools
import os
import shutil
import threading
import time
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bcdnet.program import read_program, write_program

YEAR = 365 * 86400  # a tenth of it is how long a browser may keep what is so old


def age(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_reload_shows_the_new_model_with_the_new_scripts(
    browser: Any, site: Path, packed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(site, tmp_path / "site")
    age(folder, 2 * YEAR)
    scripts = {path.name for path in folder.glob("*.js")} - {"start.js"}  # which never changes
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("#choose:enabled")
        write_program(replace(read_program(packed), provenance={"model": "newer"}), folder / "model.bcdn")
        for name in scripts:
            with (folder / name).open("a") as file:
                file.write(f'\nconsole.log("new {name}");')
        age(folder, YEAR)
        asked.clear()
        ran: list[str] = []
        page.on("console", lambda message: ran.append(message.text))
        page.reload()
        page.wait_for_selector("#choose:enabled")
        assert page.text_content("#facts").startswith("newer: ")
        assert {"/bcdnet.wasm", "/page.css"} <= set(asked)
        assert set(ran) == {f"new {name}" for name in scripts}
        page.close()
        server.shutdown()
