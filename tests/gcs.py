"""Google's buckets in this process: gcp-storage-emulator on the loopback, with what it lacks and trainers need.

It takes every write, whatever generation the request names. Here a request whose ifGenerationMatch is not the object's
is answered with 412, as Google documents it; and requests can be made to fail.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlparse

import pytest


class Emulator:
    """An emulator with one bucket. fault: what answers a request (method, object's name), None for the emulator."""

    bucket = "itune-test"

    def __init__(self, server: Any, port: int):
        self.host = f"http://localhost:{port}"
        self._storage = server._storage
        self.fault: Callable[[str, str], int | None] = lambda method, name: None
        self.requests: list[tuple[str, str]] = []

    def url(self, folder: str) -> str:
        return f"gs://{self.bucket}/{folder}"

    def objects(self, folder: str = "") -> dict[str, dict[str, Any]]:
        """{name below the folder: its resource}."""
        found = self._storage.objects.get(self.bucket, {})
        return {name.removeprefix(folder): about for name, about in found.items() if name.startswith(folder)}

    def read(self, name: str) -> bytes:
        return self._storage.get_file(self.bucket, name)

    def age(self, name: str, seconds: float) -> None:
        """As if the object had been written so long ago."""
        then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
        self.objects()[name]["updated"] = then.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def generation(self, name: str) -> int:
        return int(self.objects().get(name, {}).get("generation", 0))


def object_of(request: Any) -> str:
    """The name of the object that a request is about; "" for a listing."""
    path = urlparse(request.full_url).path
    if "/o/" in path:
        return unquote(path.partition("/o/")[2])
    if request.query.get("uploadType") == ["multipart"]:
        return request.query.get("name", [request.data["meta"].get("name", "")])[0]
    return request.query.get("name", [""])[0]


@contextlib.contextmanager
def emulator() -> Iterator[Emulator]:
    """Sets STORAGE_EMULATOR_HOST meanwhile, for this process and those that it starts."""
    module = pytest.importorskip("gcp_storage_emulator.server")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = module.create_server("localhost", port, in_memory=True, default_bucket=Emulator.bucket)
    found = Emulator(server, port)
    handle = module.Router.handle

    def conditioned(router: Any, method: str) -> None:
        handler = router._request_handler
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.rfile = io.BytesIO(body)
        request, response = module.Request(handler, method), module.Response(handler)
        name = object_of(request)
        handler.rfile = io.BytesIO(body)  # for the emulator to read once more
        found.requests.append((method, name))
        status = found.fault(method, name)
        asked = request.query.get("ifGenerationMatch")
        if status is None and asked and method in ("POST", "PUT", "DELETE"):
            there = found.generation(name)
            if int(asked[0]) != there:
                status = 404 if method == "DELETE" and not there else 412
        if status is None:
            handle(router, method)
            return
        response.status = HTTPStatus(status)
        response.json({"error": {"code": status, "message": f"{name}: {HTTPStatus(status).phrase}"}})
        response.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Router, "handle", conditioned)
        # It answers one request at a time: of eight that come together, five may wait; the rest would time out.
        patch.setattr(module.server.HTTPServer, "request_queue_size", 64)
        server.start()
        patch.setenv("STORAGE_EMULATOR_HOST", found.host)
        yield found
        server.stop()
