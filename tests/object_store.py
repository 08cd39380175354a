"""A real S3 server for tests (moto's, in a process of its own), and a proxy before it that throttles and cuts answers.

    with S3Server() as server:                       # http://127.0.0.1:PORT
        with FaultyProxy(server.url, fault) as proxy: ...

`fault(method, path)` says what becomes of a request: None passes it on.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["slow down", "cut", "hang up", "after"]
_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


class S3Server:
    """A server with nothing in it, at `url`; empty again after `kill` and `start`."""

    def __init__(self) -> None:
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, __file__, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.kill()


class FaultyProxy:
    """Passes requests on to `target`, but for those of which `fault` says otherwise.

    "slow down" answers 503; "cut" closes the connection in the middle of the answer's body; "hang up" closes it before
    an answer; "after" passes the request on and closes the connection without the answer.
    """

    def __init__(self, target: str, fault: Callable[[str, str], Fault | None]) -> None:
        proxy = self
        self.fault, self.requests = fault, list[tuple[str, str]]()
        self._target = urlsplit(target).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                proxy._answer(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = _read_body(handler)
        self.requests.append((handler.command, handler.path))
        fault = self.fault(handler.command, handler.path)
        handler.close_connection = fault is not None
        if fault == "hang up":
            return
        if fault == "slow down":
            handler.send_response(503)
            handler.send_header("Content-Length", str(len(_SLOW_DOWN)))
            handler.end_headers()
            handler.wfile.write(_SLOW_DOWN if handler.command != "HEAD" else b"")
            return
        try:
            connection = http.client.HTTPConnection(self._target, timeout=30)
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for key, value in handler.headers.items():
                if key.lower() != "expect":
                    connection.putheader(key, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
        except OSError:  # the server was killed
            handler.close_connection = True
            return
        if fault == "after":
            return
        handler.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "connection", "server", "date"):
                handler.send_header(key, value)
        if answer.getheader("Content-Length") is None:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._server.shutdown()
        self._server.server_close()


def _read_body(handler: BaseHTTPRequestHandler) -> bytes:
    """The body of a request as it came, chunks and all."""
    if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = b""
    while True:
        line = handler.rfile.readline()
        size = int(line.partition(b";")[0], 16)
        body += line + handler.rfile.read(size + 2)
        if not size:
            return body


def _serve(port: int) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    sys.stdout.write(f"{server.get_host_and_port()[1]}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
