"""Image files of the results folder as data URIs, small enough that a report stays one modest file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

LARGEST = 192  # pixels; larger images are photographs, shown as thumbnails


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image, ready for an ``<img>``: where it is None, `alt` says what is missing."""

    uri: str | None
    alt: str
    width: int = 0
    height: int = 0
    note: str = ""

    @property
    def small(self) -> bool:
        """Whether the image is shown enlarged, with its pixels kept as they are."""
        return 0 < max(self.width, self.height) <= 96


def load_picture(path: Path, alt: str, note: str = "") -> Picture:
    """Return an image file as a data URI: its own pixels as PNG up to 192 pixels, a JPEG thumbnail beyond.

    A file that is missing or cannot be read gives a picture without URI, never an error: the report shows its `alt`.
    """
    if not path.is_file():
        return Picture(uri=None, alt=f"{alt}: not saved", note=note)
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if opened.mode in ("1", "L", "I", "I;16", "F") else "RGB")
    except (OSError, UnidentifiedImageError):
        return Picture(uri=None, alt=f"{alt}: cannot be read", note=note)
    stream = io.BytesIO()
    if max(image.size) <= LARGEST:
        image.save(stream, format="PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        image.save(stream, format="JPEG", quality=85)
        kind = "jpeg"
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(
        uri=f"data:image/{kind};base64,{data}", alt=alt, width=image.width, height=image.height, note=note
    )
