"""A model hub on the loopback: the paths of the real one that its client asks for, and ways to go wrong."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LoopbackHub(ThreadingHTTPServer):
    """Serves ``files`` by their path ``owner/name/file``, in the given ``mode``:

    * "ok"; "slow": a tenth at a time, with a tenth of ``pause`` seconds between;
    * a status, as 401, 404 or 500, for every file;
    * "silent": never answers; "portal": answers every path with a page;
    * "breaks off": closes in the middle, once; "breaks off always"; "begins anew always": the same, and it knows no
      ranges; "stalls": sends the first half and then nothing.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], mode: str | int = "ok", pause: float = 1.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.mode, self.pause = files, mode, pause
        self.closing = threading.Event()
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(files: dict[str, bytes], mode: str | int = "ok", pause: float = 1.0) -> Iterator[LoopbackHub]:
    server = LoopbackHub(files, mode, pause)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server = self.server
        server.requests.append(f"{self.command} {self.path}")
        if server.mode == "silent":
            server.closing.wait()
            return
        if server.mode == "portal":
            self._send(200, b"<html>Please log in</html>", {}, body=body)
            return
        repo, _, name = self.path.strip("/").partition("/resolve/main/")
        content = server.files.get(f"{repo}/{name}")
        status = server.mode if isinstance(server.mode, int) else 200 if content is not None else 404
        if content is None or status != 200:
            code = {404: "EntryNotFound", 401: "GatedRepo"}.get(status)
            self._send(status, b"", {"X-Repo-Commit": COMMIT} | ({"X-Error-Code": code} if code else {}), body=body)
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start and server.mode != "begins anew always":
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206, content[start:], headers, body=body)
        else:
            self._send(200, content, headers, body=body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self._body(content)

    def _body(self, content: bytes) -> None:
        server, half = self.server, len(content) // 2
        try:
            if server.mode == "slow":
                part = len(content) // 10 + 1
                for start in range(0, len(content), part):
                    self.wfile.write(content[start : start + part])
                    time.sleep(server.pause / 10)
            elif server.mode == "stalls":
                self.wfile.write(content[:half])
                server.closing.wait()
            elif str(server.mode).startswith(("breaks off", "begins anew")):
                server.mode = "ok" if server.mode == "breaks off" else server.mode
                self.wfile.write(content[:half])
                self.close_connection = True
            else:
                self.wfile.write(content)
        except OSError:  # the client has gone
            pass
