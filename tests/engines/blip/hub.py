"""A model hub of our own on loopback: the few routes that a download takes, over one folder."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = hashlib.sha1(b"the only commit").hexdigest()


@contextmanager
def serving(folder: Path, name: str, revision: str = "main", stalls_at: str | None = None) -> Iterator[str]:
    """The address of a hub that has the folder as the model `name` at that revision, and nothing else.

    Of the file `stalls_at` it sends a half, and the rest only when the context ends.
    """
    ended = threading.Event()
    facts = {"folder": folder, "name": name, "revision": revision, "stalls_at": stalls_at, "ended": ended}
    handler = type("Handler", (_Handler,), facts)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        ended.set()
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    name: str
    revision: str
    stalls_at: str | None
    ended: threading.Event
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """What a file is."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """The list of files, or one of them."""
        self._answer(with_body=True)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Says nothing."""

    def _answer(self, *, with_body: bool) -> None:
        body = self._found()
        self.send_response(404 if body is None else 200)
        self.send_header("content-length", str(len(body or b"")))
        self.send_header("x-repo-commit", COMMIT)
        if body is None:
            self.send_header("x-error-code", "RepoNotFound")
        else:
            self.send_header("etag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if with_body and body is not None:
            half = len(body) // 2 if self.path.endswith(f"/{self.stalls_at}") else len(body)
            self.wfile.write(body[:half])
            if half < len(body):
                self.ended.wait()

    def _listed(self, file: str) -> dict[str, object]:
        return {"type": "file", "path": file, "size": (self.folder / file).stat().st_size, "oid": file}

    def _found(self) -> bytes | None:
        path = self.path.partition("?")[0]
        files = sorted(file.name for file in self.folder.iterdir())
        if path.startswith(f"/api/models/{self.name}/tree/"):
            return json.dumps([self._listed(file) for file in files]).encode()
        if path == f"/api/models/{self.name}/revision/{self.revision}":
            siblings = [{"rfilename": file} for file in files]
            return json.dumps({"id": self.name, "sha": COMMIT, "siblings": siblings}).encode()
        prefix, _, file = path.rpartition("/")
        if prefix == f"/{self.name}/resolve/{COMMIT}" and file in files:
            return (self.folder / file).read_bytes()
        return None
