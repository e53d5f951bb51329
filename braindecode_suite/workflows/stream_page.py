"""The page of a live run: a small server on this machine only, which shows answers as they come.

It listens on 127.0.0.1, answers only requests that name this host (so that no other site can reach it through a browser), loads nothing
from anywhere else, and lets the page run its own script only. It shows; it cannot change anything.
"""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import threading
from importlib.resources import files
from typing import Any

import numpy as np

from braindecode_suite.core.errors import InputError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
WAITING = 64
"""Events that a slow browser may be behind; after that it misses some."""
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def content_policy(nonce: str) -> str:
    """Return the content security policy: the page's own script and style, pictures and events of this server, nothing else."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def to_png(image: np.ndarray) -> bytes:
    """Return an image of shape (height, width, 3) as PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


class StreamPage:
    """Serve the page from a thread of its own; `publish` never waits for a browser.

    Parameters
    ----------
    facts : dict
        Of the run, for its heading.
    pictures : array of uint8 of shape (gallery, height, width, 3) or None
    port : int
        0 takes a free one.

    Attributes
    ----------
    url : str
    """

    def __init__(self, facts: dict[str, Any], pictures: np.ndarray | None, port: int = 0) -> None:
        try:
            from aiohttp import web
        except ImportError as error:
            raise InputError(
                "`page`",
                expected="the library aiohttp",
                found=str(error),
                hint="pip install 'braindecode_suite[realtime]'",
            ) from error
        self._web, self._facts, self._pictures = web, facts, pictures
        self._template = (
            files("braindecode_suite.report").joinpath("templates", "live.html").read_text(encoding="utf-8")
        )
        self._latest: dict[str, str] = {}
        self._preview = b""
        self._listeners: set[asyncio.Queue[str]] = set()
        self._loop = asyncio.new_event_loop()
        self._port, self._failure = port, ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="page", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure:
            raise InputError(f"port {port}", expected="a port that is free", found=self._failure)
        self.url = f"http://{HOST}:{self._port}/"

    def publish(self, kind: str, facts: dict[str, Any]) -> None:
        """Show something: ``hop``, ``status`` or anything that the engine notices."""
        text = json.dumps({"kind": kind, **facts}, default=str)
        self._loop.call_soon_threadsafe(self._send, kind, text)

    def show_preview(self, image: np.ndarray, trial: Any) -> None:
        """Show a picture that was drawn of a prediction."""
        self._preview = to_png(image)
        self.publish("preview", {"trial": trial})

    def close(self) -> None:
        """Stop serving."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def _send(self, kind: str, text: str) -> None:
        self._latest[kind] = text
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(text)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        web = self._web

        @web.middleware
        async def guard(request: Any, handler: Any) -> Any:
            return await self._guard(request, handler)

        application = web.Application(middlewares=[guard])
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/events", self._events),
                web.get(r"/picture/{number:\d+}", self._picture),
                web.get("/preview", self._preview_image),
            ]
        )
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        try:
            self._loop.run_until_complete(runner.setup())
            site = web.TCPSite(runner, HOST, self._port)
            self._loop.run_until_complete(site.start())
            self._port = runner.addresses[0][1]
        except OSError as error:
            self._failure = str(error)
            self._loop.run_until_complete(runner.cleanup())
            self._ready.set()
            return
        self._ready.set()
        self._loop.run_forever()
        for queue in self._listeners:
            if not queue.full():
                queue.put_nowait("")
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _guard(self, request: Any, handler: Any) -> Any:
        """Refuse requests that name another host, or come from another site's page."""
        allowed = {f"{name}:{self._port}" for name in NAMES}
        origin = request.headers.get("Origin")
        if request.headers.get("Host") not in allowed or (
            origin is not None and origin not in {f"http://{host}" for host in allowed}
        ):
            return self._web.Response(
                status=403, text="this page is for this machine only\n", headers=HEADERS
            )
        return await handler(request)

    async def _page(self, request: Any) -> Any:
        nonce = secrets.token_urlsafe(16)
        facts = json.dumps(self._facts, default=str).replace("<", "\\u003c")
        text = self._template.replace("@NONCE@", nonce).replace("@FACTS@", facts)
        headers = {**HEADERS, "Content-Security-Policy": content_policy(nonce)}
        return self._web.Response(text=text, content_type="text/html", headers=headers)

    async def _events(self, request: Any) -> Any:
        response = self._web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[str] = asyncio.Queue(WAITING)
        for text in self._latest.values():  # what the page would show if it had been open before
            await response.write(f"data: {text}\n\n".encode())
        self._listeners.add(queue)
        try:
            while text := await queue.get():
                await response.write(f"data: {text}\n\n".encode())
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._listeners.discard(queue)
        return response

    async def _picture(self, request: Any) -> Any:
        number = int(request.match_info["number"])
        if self._pictures is None or number >= len(self._pictures):
            return self._web.Response(status=404, text="no such picture\n", headers=HEADERS)
        return self._web.Response(
            body=to_png(np.asarray(self._pictures[number])), content_type="image/png", headers=HEADERS
        )

    async def _preview_image(self, request: Any) -> Any:
        if not self._preview:
            return self._web.Response(status=404, text="no preview yet\n", headers=HEADERS)
        return self._web.Response(body=self._preview, content_type="image/png", headers=HEADERS)
