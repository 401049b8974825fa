"""What names mean: folders and globs, pipes, addresses that ask for a name and a password."""

from __future__ import annotations

import base64
import http.server
import os
import threading
from collections.abc import Iterator

import pytest
from PIL import Image

from bcdnet.errors import DataError
from bcdnet.runtime.sources import find_images

LOGIN = "Basic " + base64.b64encode("a name:p@ss:wörd".encode()).decode()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str | None]]]:
    """HOST:PORT of a server that gives /a.png to whom it knows and sends /elsewhere on, and what it was told."""
    told: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers["Authorization"])
            moved, known = self.path == "/elsewhere", told[-1] == LOGIN
            self.send_response(302 if moved else 200 if known else 401)
            if moved:
                self.send_header("Location", "/a.png")
            self.end_headers()
            if known and not moved:
                Image.new("RGB", (3, 2)).save(self.wfile, "PNG")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{found.server_port}", told
        found.shutdown()


def test_a_server_is_told_name_and_password_and_nobody_else(server) -> None:
    host, told = server
    known, unknown, moved = find_images(
        [
            f"http://a%20name:p%40ss:w%C3%B6rd@{host}/a.png",
            f"http://a%20name:guess@{host}/a.png",
            f"http://a%20name:p%40ss:w%C3%B6rd@{host}/elsewhere",
        ],
        allow_urls=True,
    )
    assert known.open().size == (3, 2)
    assert known.name == f"http://a%20name:***@{host}/a.png"
    with pytest.raises(DataError) as caught:
        unknown.open()
    assert "answers 401" in str(caught.value) and "guess" not in str(caught.value)
    with pytest.raises(DataError, match="answers 401"):
        moved.open()
    assert told[-2:] == [LOGIN, None]


def test_a_name_may_stand_alone(server) -> None:
    host, told = server
    (source,) = find_images([f"http://somebody@{host}/a.png"], allow_urls=True)
    with pytest.raises(DataError, match=f"^http://somebody@{host}/a.png: the server answers 401"):
        source.open()
    assert told == ["Basic " + base64.b64encode(b"somebody:").decode()]


def test_the_images_of_a_glob_or_a_folder_come_in_sorted_order(tmp_path) -> None:
    for name in ("b/2.png", "b/1.png", "a/9.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (1, 1)).save(tmp_path / name)
    for pattern, expected in (("*", "9 1 2 c"), ("?/*.png", "9 1 2"), ("b", "1 2"), ("b/[12].png", "1 2")):
        found = find_images([str(tmp_path / pattern)])
        assert [source.relative.stem for source in found] == expected.split()


def test_a_glob_of_any_depth_takes_each_file_once(tmp_path, monkeypatch) -> None:
    for name in ("x/y/z/a.png", "x/b.png", "c.png"):
        (tmp_path / "deep" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1, 1)).save(tmp_path / "deep" / name)
    monkeypatch.chdir(tmp_path)
    for pattern in ("deep/**", "./deep/**"):
        found = find_images([pattern])
        assert [source.name for source in found] == ["deep/c.png", "deep/x/b.png", "deep/x/y/z/a.png"]
        assert [str(source.relative) for source in found] == ["c.png", "x/b.png", "x/y/z/a.png"]
    assert len(find_images(["deep/c.png", "deep/c.png"])) == 2  # as often as it is named


@pytest.mark.skipif(os.name != "posix", reason="makes pipes and links")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Pillow leaves the pipe open
def test_a_pipe_is_read_where_it_is_named_alone(tmp_path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name in (tmp_path, tmp_path / "*.png"):
        found = [source.relative.name for source in find_images([str(name)])]
        assert sorted(found) == ["a.png", "gone.png", "link.png"]
    (named,) = find_images([str(tmp_path / "pipe.png")])
    writer = threading.Thread(
        target=(tmp_path / "pipe.png").write_bytes, args=((tmp_path / "a.png").read_bytes(),), daemon=True
    )
    writer.start()
    assert named.open().size == (3, 2)
