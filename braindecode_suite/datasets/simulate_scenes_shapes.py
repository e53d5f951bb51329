"""What the objects and the places of the procedural scenes look like.

An object is a list of painted polygons in its own box, which spans -0.5 to 0.5 in both directions, y downwards. A place is a
muted background with some furniture; object colours are saturated, so that no object vanishes in its place.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Part = tuple[str, np.ndarray]


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return _polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, n: int = 24) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    points = np.stack([rx * np.cos(t), ry * np.sin(t)], 1)
    c, s = np.cos(turn), np.sin(turn)
    return points @ np.array([[c, s], [-s, c]]) + np.array([x, y])


def _arc(
    x: float, y: float, r: float, thickness: float, start: float, stop: float, n: int = 14
) -> np.ndarray:
    """Thick arc from angle `start` to `stop` (degrees, clockwise from the right)."""
    t = np.deg2rad(np.linspace(start, stop, n))
    ring = np.stack([np.cos(t), np.sin(t)], 1)
    return np.concatenate([ring * r, ring[::-1] * (r - thickness)]) + np.array([x, y])


def _star(points: int, outer: float, inner: float) -> np.ndarray:
    t = np.arange(2 * points) * np.pi / points - np.pi / 2
    r = np.where(np.arange(2 * points) % 2 == 0, outer, inner)
    return np.stack([r * np.cos(t), r * np.sin(t)], 1)


def _petals(n: int, distance: float, long: float, wide: float) -> list[Part]:
    turns = [2 * np.pi * k / n for k in range(n)]
    return [("body", _ellipse(distance * np.cos(t), distance * np.sin(t), long, wide, t, 16)) for t in turns]


SHAPES: dict[str, list[Part]] = {
    "face": [
        ("body", _ellipse(0, 0, 0.43, 0.49)),
        ("white", _ellipse(-0.17, -0.12, 0.115, 0.1)),
        ("white", _ellipse(0.17, -0.12, 0.115, 0.1)),
        ("black", _ellipse(-0.16, -0.11, 0.06, 0.06)),
        ("black", _ellipse(0.18, -0.11, 0.06, 0.06)),
        ("shade", _polygon((0.0, -0.06), (0.07, 0.1), (-0.05, 0.1))),
        ("black", _arc(0.0, 0.1, 0.25, 0.09, 20, 160)),
    ],
    "person": [
        ("tint", _ellipse(0, -0.36, 0.125, 0.14)),
        (
            "body",
            _polygon(
                (-0.16, -0.2),
                (-0.48, -0.34),
                (-0.48, -0.2),
                (-0.16, -0.02),
                (-0.18, 0.12),
                (-0.28, 0.5),
                (-0.1, 0.5),
                (0.0, 0.2),
                (0.1, 0.5),
                (0.28, 0.5),
                (0.18, 0.12),
                (0.16, -0.02),
                (0.48, -0.2),
                (0.48, -0.34),
                (0.16, -0.2),
            ),
        ),
    ],
    "house": [
        ("body", _box(-0.38, -0.06, 0.38, 0.48)),
        ("shade", _polygon((-0.5, -0.06), (0.0, -0.5), (0.5, -0.06))),
        ("white", _box(-0.3, 0.06, -0.12, 0.24)),
        ("white", _box(0.12, 0.06, 0.3, 0.24)),
        ("black", _box(-0.08, 0.16, 0.08, 0.48)),
    ],
    "word": [
        ("body", _box(-0.5, -0.25, 0.5, 0.25)),
        ("white", _box(-0.43, -0.16, -0.18, -0.085)),
        ("white", _box(-0.345, -0.16, -0.265, 0.16)),
        ("white", _arc(0.0, 0.0, 0.16, 0.075, 0, 360, 20)),
        ("white", _box(0.18, -0.16, 0.43, -0.085)),
        ("white", _box(0.265, -0.16, 0.345, 0.16)),
    ],
    "car": [
        (
            "body",
            _polygon(
                (-0.5, 0.02),
                (-0.34, -0.03),
                (-0.2, -0.26),
                (0.16, -0.26),
                (0.3, -0.03),
                (0.5, 0.03),
                (0.5, 0.2),
                (-0.5, 0.2),
            ),
        ),
        ("white", _polygon((-0.25, -0.03), (-0.16, -0.19), (-0.03, -0.19), (-0.03, -0.03))),
        ("white", _polygon((0.03, -0.03), (0.03, -0.19), (0.13, -0.19), (0.22, -0.03))),
        ("black", _ellipse(-0.27, 0.2, 0.125, 0.125)),
        ("black", _ellipse(0.27, 0.2, 0.125, 0.125)),
        ("white", _ellipse(-0.27, 0.2, 0.05, 0.05)),
        ("white", _ellipse(0.27, 0.2, 0.05, 0.05)),
    ],
    "tree": [
        ("black", _box(-0.07, 0.3, 0.07, 0.5)),
        ("body", _polygon((-0.4, 0.34), (0.0, -0.04), (0.4, 0.34))),
        ("body", _polygon((-0.32, 0.1), (0.0, -0.26), (0.32, 0.1))),
        ("tint", _polygon((-0.23, -0.16), (0.0, -0.5), (0.23, -0.16))),
    ],
    "cup": [
        ("body", _arc(0.2, 0.0, 0.29, 0.1, -85, 85)),
        ("body", _polygon((-0.42, -0.38), (0.24, -0.38), (0.18, 0.42), (-0.36, 0.42))),
        ("white", _ellipse(-0.09, -0.36, 0.3, 0.09)),
    ],
    "fish": [
        ("shade", _polygon((-0.16, 0.0), (-0.5, -0.28), (-0.42, 0.0), (-0.5, 0.28))),
        ("shade", _polygon((-0.06, -0.2), (0.1, -0.36), (0.24, -0.18))),
        ("body", _ellipse(0.12, 0.0, 0.37, 0.24)),
        ("white", _ellipse(0.31, -0.06, 0.075, 0.075)),
        ("black", _ellipse(0.33, -0.06, 0.04, 0.04)),
    ],
    "star": [("body", _star(5, 0.52, 0.21))],
    "flower": [
        *_petals(6, 0.29, 0.21, 0.155),
        ("black", _ellipse(0, 0, 0.16, 0.16)),
        ("white", _ellipse(0, 0, 0.1, 0.1)),
    ],
    "chair": [
        ("body", _box(-0.34, -0.5, -0.2, 0.08)),
        ("body", _box(-0.34, 0.02, 0.36, 0.16)),
        ("shade", _box(-0.34, 0.14, -0.22, 0.5)),
        ("shade", _box(0.24, 0.14, 0.36, 0.5)),
    ],
    "boat": [
        ("black", _box(-0.03, -0.5, 0.03, 0.2)),
        ("tint", _polygon((0.05, -0.46), (0.44, 0.1), (0.05, 0.1))),
        ("white", _polygon((-0.05, -0.36), (-0.05, 0.1), (-0.36, 0.1))),
        ("body", _polygon((-0.5, 0.16), (0.5, 0.16), (0.32, 0.46), (-0.32, 0.46))),
    ],
}


class _Ground:
    """A canvas in fractions of its side, every colour dimmed or lit by the same factor."""

    def __init__(self, side: int, light: float) -> None:
        self.side, self.light = side, light
        self.picture = Image.new("RGB", (side, side))
        self.draw = ImageDraw.Draw(self.picture)

    def _lit(self, colour: Sequence[int]) -> tuple[int, int, int]:
        r, g, b = (min(round(c * self.light), 255) for c in colour)
        return r, g, b

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Sequence[int]) -> None:
        s = self.side
        if x1 > x0 and y1 > y0:
            self.draw.rectangle((x0 * s, y0 * s, x1 * s, y1 * s), fill=self._lit(colour))

    def disc(self, x: float, y: float, r: float, colour: Sequence[int], flat: float = 1.0) -> None:
        s = self.side
        self.draw.ellipse(
            ((x - r) * s, (y - r * flat) * s, (x + r) * s, (y + r * flat) * s), fill=self._lit(colour)
        )

    def shape(self, points: Sequence[tuple[float, float]], colour: Sequence[int]) -> None:
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=self._lit(colour))


def _beach(g: _Ground, u: np.ndarray) -> None:
    h = 0.36 + 0.1 * u[0]
    g.box(0, 0, 1, h, (186, 216, 230))
    g.disc(0.15 + 0.7 * u[1], 0.13, 0.08, (250, 246, 214))
    g.box(0, h, 1, h + 0.18, (96, 148, 172))
    g.box(0, h + 0.18, 1, 1, (226, 208, 168))


def _forest(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 0.75, (72, 92, 70))
    g.box(0, 0.75, 1, 1, (84, 74, 56))
    for k in range(5):
        x = 0.2 * k + 0.14 * u[k]
        g.box(x, 0, x + 0.06, 0.8, (52, 46, 40))


def _street(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 1, (198, 202, 208))
    for k in range(4):
        top = 0.08 + 0.25 * u[k]
        g.box(0.25 * k, top, 0.25 * k + 0.23, 0.66, (150, 132, 124) if k % 2 else (128, 124, 130))
    g.box(0, 0.66, 1, 1, (92, 92, 96))
    for k in range(4):
        g.box(0.28 * k + 0.1 * u[4], 0.82, 0.28 * k + 0.1 * u[4] + 0.14, 0.85, (216, 214, 206))


def _kitchen(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 1, (226, 228, 222))
    for k in range(1, 6):
        at = k / 6 + 0.06 * (u[0] - 0.5)
        g.box(at, 0, at + 0.014, 0.68, (184, 192, 190))
        g.box(0, 0.7 * k / 6, 1, 0.7 * k / 6 + 0.014, (184, 192, 190))
    h = 0.66 + 0.06 * u[1]
    g.box(0, h, 1, h + 0.06, (118, 92, 72))
    g.box(0, h + 0.06, 1, 1, (172, 146, 120))


def _snow(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 1, (176, 184, 198))
    g.disc(0.2 * u[0], 0.95, 0.55, (240, 243, 248))
    g.disc(0.8 + 0.2 * u[1], 1.0, 0.6, (226, 232, 242))
    g.box(0, 0.66, 1, 1, (246, 248, 252))
    for k in range(8):
        g.disc(u[k], 0.45 * u[-1 - k], 0.014, (250, 250, 252))


def _desert(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 1, (240, 224, 196))
    g.disc(0.2 + 0.6 * u[0], 0.98, 0.6, (206, 164, 112))
    h = 0.66 + 0.08 * u[1]
    g.shape([(0, h), (0.4 + 0.3 * u[2], h - 0.1), (1, h + 0.06), (1, 1), (0, 1)], (186, 142, 94))


def _night(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 1, (24, 26, 48))
    for k in range(9):
        g.disc(u[k], 0.6 * u[-1 - k], 0.014, (220, 220, 232))
    g.disc(0.1 + 0.8 * u[2], 0.13, 0.08, (232, 230, 208))
    g.box(0, 0.76 + 0.06 * u[1], 1, 1, (40, 40, 44))


def _meadow(g: _Ground, u: np.ndarray) -> None:
    h = 0.42 + 0.12 * u[0]
    g.box(0, 0, 1, h, (202, 222, 236))
    g.disc(0.2 + 0.6 * u[1], 0.14, 0.13, (242, 244, 246), 0.45)
    g.box(0, h, 1, 1, (150, 180, 122))
    g.disc(0.8 * u[2], h + 0.04, 0.3, (150, 180, 122), 0.35)
    for k in range(7):
        g.disc(u[3 + k], h + 0.1 + (0.85 - h) * u[-1 - k], 0.016, (226, 230, 200))


def _mountains(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 1, (206, 206, 222))
    for k, x in enumerate((0.05, 0.5, 0.95)):
        top, x = 0.12 + 0.16 * u[k], x + 0.2 * (u[3 + k] - 0.5)
        g.shape([(x - 0.45, 0.8), (x, top), (x + 0.45, 0.8)], (122, 118, 132) if k != 1 else (102, 100, 114))
        g.shape([(x - 0.1, top + 0.145), (x, top), (x + 0.1, top + 0.145)], (240, 242, 246))
    g.box(0, 0.76, 1, 1, (128, 134, 110))


def _reef(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 0.45, (92, 158, 164))
    g.box(0, 0.45, 1, 1, (62, 122, 134))
    for k in range(5):
        g.disc(u[k], 0.9 * u[-1 - k], 0.022, (156, 200, 200))
    for k in range(5):
        x = 0.22 * k + 0.1 * u[k]
        g.shape([(x - 0.05, 1), (x + 0.04 * u[5], 0.76 + 0.1 * u[k]), (x + 0.06, 1)], (44, 86, 82))
    g.box(0, 0.94, 1, 1, (176, 166, 136))


def _library(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 1, (94, 66, 50))
    tones = ((142, 96, 84), (104, 110, 98), (160, 140, 106), (92, 96, 116), (128, 86, 72))
    for row in range(3):
        for k in range(8):
            x, top = 0.125 * k, 0.05 + 0.32 * row
            g.box(
                x + 0.008, top + 0.07 * u[(3 * row + k) % len(u)], x + 0.112, top + 0.26, tones[(k + row) % 5]
            )


def _bedroom(g: _Ground, u: np.ndarray) -> None:
    g.box(0, 0, 1, 0.72, (214, 198, 204))
    x = 0.1 + 0.5 * u[0]
    g.box(x - 0.02, 0.06, x + 0.3, 0.38, (246, 244, 240))
    g.box(x, 0.08, x + 0.28, 0.36, (170, 194, 212))
    h = 0.64 + 0.06 * u[1]
    g.box(0, h, 1, 0.86, (138, 128, 156))
    g.box(0, h - 0.04, 0.26, h + 0.05, (240, 238, 236))
    g.box(0, 0.86, 1, 1, (110, 84, 70))


_DRAW = {
    "beach": _beach,
    "forest": _forest,
    "street": _street,
    "kitchen": _kitchen,
    "snow": _snow,
    "desert": _desert,
    "night": _night,
    "meadow": _meadow,
    "mountains": _mountains,
    "reef": _reef,
    "library": _library,
    "bedroom": _bedroom,
}


def draw_place(place: str, seed: int, side: int) -> Image.Image:
    """Draw an empty place with the small variations of this seed.

    Parameters
    ----------
    place : str
    seed : int
    side : int
        Side of the picture in pixels.

    Returns
    -------
    Image
    """
    rng = np.random.default_rng([seed, 0x9ACE])
    ground = _Ground(side, light=float(rng.uniform(0.93, 1.05)))
    _DRAW[place](ground, rng.uniform(size=16))
    return ground.picture
