"""One file over HTTP, on lines that break: goes on where it stopped, and comes under its name only when it is whole and right."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import one_line

BLOCK = 2**20
LONGEST_PAUSE = 60.0
BUSY = (429, 500, 502, 503, 504)
BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)
MIB = 2**20
PART_SIZES = tuple(
    n * MIB for n in (5, 6, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 200, 250, 256, 500, 512, 1000, 1024)
)
"""Parts that programs upload in: those of boto3 and the AWS command line (8 MiB), of browsers, of git-annex (up to 1 GiB)."""


class DownloadError(RuntimeError):
    """A file, or the list of files, could not be had; nobody's own mistake."""


class _Dropped(Exception):
    """A failure that is worth another try."""


@dataclass(frozen=True)
class Patience:
    """How failures of the line are met.

    Attributes
    ----------
    tries : int
        Without a single new byte.
    pause : float
        Seconds before the second try; doubled with every further one, up to a minute.
    timeout : float
        Seconds of silence after which a line counts as broken.
    """

    tries: int = 6
    pause: float = 1.0
    timeout: float = 60.0

    def wait(self, failures: int) -> None:
        """Sleep before another try."""
        time.sleep(min(self.pause * 2 ** (failures - 1), LONGEST_PAUSE))


PATIENT = Patience()


def open_session(address: str) -> requests.Session:
    """Return a session that names nobody: no password of the machine is sent. Proxies are used, except to this very machine."""
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"
    session.auth = _anonymous
    session.trust_env = not _is_loopback(urlsplit(address).hostname or "")
    return session


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_page(
    session: requests.Session, url: str, parameters: dict[str, str], patience: Patience = PATIENT
) -> bytes:
    """Return a short answer whole, trying again while the other side is busy or the line breaks.

    Raises
    ------
    DownloadError
    """
    failures = 0
    while True:
        try:
            with _answer(session, url, patience, params=parameters) as response:
                return response.content
        except _Dropped as error:
            failures += 1
            if failures >= patience.tries:
                raise DownloadError(f"{url}: {error} ({failures} tries)") from error
            patience.wait(failures)


def download(
    session: requests.Session,
    url: str,
    target: Path,
    size: int,
    etag: str,
    *,
    patience: Patience = PATIENT,
    progress: Callable[[int], None] = lambda done: None,
) -> bool:
    """Get one file; what an earlier call left of it is taken up again.

    Bytes go into ``<name>.<version>.part`` beside `target`, which is renamed when size and checksum are right: a part of another
    version of the file is never continued.

    Parameters
    ----------
    session : requests.Session
        See `open_session`.
    url : str
    target : Path
    size : int
        Bytes, as listed.
    etag : str
        See `etag_agrees`.
    patience : Patience
    progress : callable
        Called with the bytes there are so far.

    Returns
    -------
    bool
        Whether the checksum could be compared; False if only the size was.

    Raises
    ------
    DownloadError
        If the line fails too often, the file is refused, or its content is wrong twice.
    OSError
        If it cannot be written.
    """
    part = part_path(target, etag)
    target.parent.mkdir(parents=True, exist_ok=True)
    for other in target.parent.iterdir():
        if other != part and re.fullmatch(rf"{re.escape(target.name)}\.[A-Za-z0-9-]+\.part", other.name):
            other.unlink()
    failures = wrong = 0
    while True:
        have = part.stat().st_size if part.is_file() else 0
        try:
            if have < size or not part.is_file():
                _append(session, url, part, have, size, patience, progress)
        except _Dropped as error:
            gained = part.is_file() and part.stat().st_size > have
            failures = 1 if gained else failures + 1
            if failures >= patience.tries:
                raise DownloadError(f"{error} ({failures} tries)") from error
            patience.wait(failures)
            continue
        progress(size)
        agrees = part.stat().st_size == size and etag_agrees(part, etag)
        if agrees is not False:
            os.replace(part, target)
            return bool(agrees)
        wrong += 1
        found = f"{part.stat().st_size} bytes of other content than {etag!r}"
        part.unlink()
        progress(0)
        if wrong > 1:
            raise DownloadError(
                f"expected {size} bytes with the checksum of the listing; found {found}, twice"
            )


def is_right(path: Path, size: int, etag: str) -> bool:
    """Tell whether a file is there, of this size and content (as far as the ETag tells)."""
    return path.is_file() and path.stat().st_size == size and etag_agrees(path, etag) is not False


def part_path(target: Path, etag: str) -> Path:
    """Return where the bytes of one version of a file gather."""
    version = re.sub(r"[^A-Za-z0-9-]", "", etag)[:16] or "unknown"
    return target.with_name(f"{target.name}.{version}.part")


def etag_agrees(path: Path, etag: str) -> bool | None:
    """Compare a file with the ETag that S3 gives it.

    That is the MD5 of the content where it was uploaded in one part; for N parts it is the MD5 of the parts' MD5s one after the
    other, and ``-N``. How long the parts were is not said: the sizes in use that give N parts are tried.

    Returns
    -------
    bool or None
        None where nothing can be said: no MD5, or parts of an unusual size.
    """
    match = re.fullmatch(r"([0-9a-f]{32})(?:-([1-9]\d*))?", etag)
    if match is None:
        return None
    size = path.stat().st_size
    if match[2] is None:
        return _md5_of_parts(path, max(size, 1))[0].hex() == match[1]
    n_parts = int(match[2])
    likely = (size,) if n_parts == 1 else PART_SIZES
    for length in likely:
        if length and -(-size // length) == n_parts:
            parts = _md5_of_parts(path, length)
            if hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest() == match[1]:
                return True
    return None


def _md5_of_parts(path: Path, length: int) -> list[bytes]:
    digests: list[bytes] = []
    with path.open("rb") as stream:
        while True:
            digest, left = hashlib.md5(usedforsecurity=False), length
            while left and (block := stream.read(min(BLOCK, left))):
                digest.update(block)
                left -= len(block)
            if left == length and digests:
                return digests
            digests.append(digest.digest())
            if left:
                return digests


@contextmanager
def _answer(
    session: requests.Session, url: str, patience: Patience, **options: Any
) -> Iterator[requests.Response]:
    """Yield an answer of status 2xx; failures that may pass are `_Dropped`, others a `DownloadError`."""
    try:
        with session.get(url, stream=True, timeout=patience.timeout, **options) as response:
            if response.status_code in BUSY:
                raise _Dropped(f"the other side answered {response.status_code} {response.reason}")
            if not 200 <= response.status_code < 300:
                raise DownloadError(
                    f"{url}: the other side answered {response.status_code} {response.reason}"
                )
            yield response
    except BROKEN as error:
        raise _Dropped(one_line(error)) from error
    except requests.RequestException as error:
        raise InputError(url, expected="an address that can be asked", found=one_line(error)) from error


def _append(
    session: requests.Session,
    url: str,
    part: Path,
    have: int,
    size: int,
    patience: Patience,
    progress: Callable[[int], None],
) -> None:
    """Read on from byte `have`; a server that begins anew is followed."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    with _answer(session, url, patience, headers=headers) as response:
        goes_on = response.status_code == 206
        if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise DownloadError(
                f"asked for bytes from {have}, got {response.headers.get('Content-Range', 'others')}"
            )
        have = have if goes_on else 0
        with part.open("ab" if goes_on else "wb") as stream:
            progress(have)
            for block in response.raw.stream(BLOCK, decode_content=False):
                stream.write(block)
                have += len(block)
                progress(min(have, size))
                if have > size:
                    return  # longer than listed: the comparison says so
    if have < size:
        raise _Dropped(f"the line broke after {have} of {size} bytes")
