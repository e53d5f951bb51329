"""A bucket on this machine that answers like S3, and fails when told to: drops lines, ignores Range, sends wrong bytes, is busy."""

from __future__ import annotations

import hashlib
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Bucket:
    """Objects by key, and what goes wrong with the next answers.

    Attributes
    ----------
    objects : dict of str to bytes
    etags : dict of str to str
        Where they are not the MD5 of the object.
    page : int
        Objects on a page of the listing.
    busy : int
        Answers that are a 503 first.
    drops : dict of str to list of int
        Bytes of an object after which the line breaks, one an answer.
    wrong : dict of str to int
        Answers in which the first byte of an object is another.
    ranges : str
        ``kept``, ``ignored`` (200 and everything) or ``shifted`` (206 with other bytes).
    headers : dict of str to str
        Sent with every object.
    asked : list of (str, str)
        Path and Range of every request.
    seen : list of dict
        Headers of every request.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    page: int = 1000
    busy: int = 0
    drops: dict[str, list[int]] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    ranges: str = "kept"
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    address: str = ""

    def etag(self, key: str) -> str:
        return self.etags.get(key) or hashlib.md5(self.objects[key]).hexdigest()

    def listing(self, prefix: str, token: str) -> bytes:
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        start = int(token or 0)
        some, rest = keys[start : start + self.page], keys[start + self.page :]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><ETag>&quot;{self.etag(key)}&quot;</ETag>"
            f"<Size>{len(self.objects[key])}</Size></Contents>"
            for key in some
        )
        more = f"<NextContinuationToken>{start + self.page}</NextContinuationToken>" if rest else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(bool(rest)).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
        ).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self) -> None:
        bucket, url = self.bucket, urlsplit(self.path)
        bucket.asked.append((self.path, self.headers.get("Range", "")))
        bucket.seen.append(dict(self.headers))
        if bucket.busy:
            bucket.busy -= 1
            return self._send(503, b"slow down")
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if asked.get("list-type") == "2":
            return self._send(200, bucket.listing(asked["prefix"], asked.get("continuation-token", "")))
        key = unquote(url.path).removeprefix("/bucket/")
        if key not in bucket.objects:
            return self._send(404, b"no such key")
        return self._send_object(key)

    def _send_object(self, key: str) -> None:
        bucket, content = self.bucket, self.bucket.objects[key]
        if bucket.wrong.get(key):
            bucket.wrong[key] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status, start, headers = 200, 0, dict(bucket.headers)
        if match and bucket.ranges != "ignored":
            status, start = 206, int(match[1]) + (bucket.ranges == "shifted")
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        drops = bucket.drops.get(key)
        self._send(status, body, headers, drops.pop(0) if drops else None)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, stop: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if stop is None else body[:stop])
        if stop is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # a client that has gone is no news


@contextmanager
def serve(bucket: Bucket) -> Iterator[Bucket]:
    """Serve a bucket on the loopback; its `address` is set."""
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    bucket.address = f"http://127.0.0.1:{server.server_address[1]}/bucket"
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
