"""A stand-in for the Hugging Face hub: repositories in memory, behind the part of its HTTP interface that we use."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "a-token"


class Hub(ThreadingHTTPServer):
    """`repositories`: name -> file -> content; `private`: the names of those that were made so."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.messages: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self, document: object, status: int = 200) -> None:
        self.reply(status, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.reply(401, b"", {"X-Error-Message": "Invalid username or password."})
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            if wanted["organization"] == "others":
                return self.answer({"error": "You have no rights under the namespace others"}, 403)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.server.repositories:
                return self.answer(
                    {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}, 409
                )
            self.server.repositories[name] = {}
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.server.private.add(name)
            return self.answer({"url": f"{self.server.url}/{name}", "id": name})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.answer({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "header":
                    self.server.messages.append(entry["value"]["summary"])
                elif entry["key"] == "deletedFile":
                    del self.server.repositories[found[1]][entry["value"]["path"]]
                elif entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.repositories[found[1]][entry["value"]["path"]] = content
            commit = {
                "commitUrl": f"{self.server.url}/{found[1]}/commit/1",
                "commitOid": "1" * 40,
                "commitMessage": "x",
            }
            return self.answer({**commit, "success": True})
        return self.reply(404)

    def do_GET(self) -> None:
        if (found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", self.path)) and found[1] in self.server.repositories:
            counts = {"downloads": 0, "likes": 0, "tags": []}  # which older clients want
            return self.answer({"id": found[1], "private": found[1] in self.server.private, **counts})
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(main|[0-9a-f]{40})/(.+)", self.path)
        if not found:
            return self.reply(404)
        if found[1] == "any/down":
            return self.reply(500)
        if found[1] == "any/expired":
            return self.reply(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if found[1] not in self.server.repositories or found[1] in self.server.private:
            return self.reply(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        content = self.server.repositories[found[1]].get(found[3])
        if content is None:
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        etag = hashlib.sha256(content).hexdigest()
        return self.reply(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": "1" * 40})

    def do_HEAD(self) -> None:
        self.do_GET()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens on a free port of this machine."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
