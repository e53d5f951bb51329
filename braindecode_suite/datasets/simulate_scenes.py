"""Procedural scenes: one to three coloured objects on a kind of place, drawn from an integer seed.

A scene is a small frozen description (`Scene`, `SceneObject`); everything else is a pure function of it: the picture at any
size, the visible mask of each object, captions. The seeds are split into namespaces, so that the pictures the image models
were trained on never occur in a study.

Only numpy and Pillow are used.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from braindecode_suite.datasets.simulate_scenes_shapes import SHAPES, draw_place

GENERATOR_SEEDS = range(0, 1_000_000)
"""Scenes the tiny image models may be trained on."""
VALIDATION_SEEDS = range(1_000_000, 2_000_000)
"""Scenes held out from the tiny image models' training, for their cards."""
STUDY_SEEDS_START = 2_000_000
"""First seed a study may use; every seed from here on belongs to studies."""

CATEGORIES: tuple[str, ...] = tuple(SHAPES)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 28, 36),
    "orange": (255, 138, 0),
    "yellow": (255, 236, 40),
    "green": (20, 160, 48),
    "cyan": (0, 212, 224),
    "blue": (28, 58, 224),
    "purple": (132, 20, 172),
    "pink": (255, 120, 205),
}
PLACES: tuple[str, ...] = (
    "beach",
    "forest",
    "street",
    "kitchen",
    "snow",
    "desert",
    "night",
    "meadow",
    "mountains",
    "reef",
    "library",
    "bedroom",
)
MAIN_SIZE = (0.40, 0.62)
OTHER_SIZE = (0.17, 0.25)
MAX_ANGLE = 20.0
N_OBJECTS_PROBABILITY = (0.45, 0.35, 0.20)
PAINTS = ("body", "shade", "tint", "outline", "white", "black")
_MAX_OVERLAP = 0.15
_TRIES = 60


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes
    ----------
    category : str
        One of `CATEGORIES`.
    colour : str
        One of `COLOURS`.
    x, y : float
        Centre as a fraction of the image's width and height, from the upper left.
    size : float
        Side of the object's box as a fraction of the image's width.
    pose : float
        Rotation in degrees, clockwise, within +-`MAX_ANGLE`.
    mirror : bool
        Whether the object faces left.
    """

    category: str
    colour: str
    x: float
    y: float
    size: float
    pose: float
    mirror: bool = False


@dataclass(frozen=True)
class Scene:
    """A place and the objects on it, drawn in this order.

    Attributes
    ----------
    place : str
        One of `PLACES`.
    objects : tuple of SceneObject
    seed : int
        Draws the place's own small variations (horizon, light, where its furniture stands).
    """

    place: str
    objects: tuple[SceneObject, ...]
    seed: int


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 4)


def _overlap(a: SceneObject, b: SceneObject) -> float:
    """Share of the smaller box that the other box covers."""
    half = (a.size + b.size) / 2
    side = min(a.size, b.size)
    wide = min(max(half - abs(a.x - b.x), 0.0), side)
    high = min(max(half - abs(a.y - b.y), 0.0), side)
    return wide * high / side**2


def _draw_object(
    rng: np.random.Generator, size: tuple[float, float], category: str | None, colour: str | None
) -> SceneObject:
    drawn_category = CATEGORIES[int(rng.integers(len(CATEGORIES)))]
    drawn_colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    side = _uniform(rng, *size)
    return SceneObject(
        category=category if category is not None else drawn_category,
        colour=colour if colour is not None else drawn_colour,
        x=_uniform(rng, side / 2, 1 - side / 2),
        y=_uniform(rng, side / 2, 1 - side / 2),
        size=side,
        pose=_uniform(rng, -MAX_ANGLE, MAX_ANGLE),
        mirror=bool(rng.integers(2)),
    )


def _check_name(argument: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"`{argument}` must be one of {', '.join(known)}; got {value!r}")


def draw_scene(
    seed: int,
    *,
    category: str | None = None,
    colour: str | None = None,
    place: str | None = None,
    n_objects: int | None = None,
) -> Scene:
    """Draw a scene: a deterministic function of its arguments.

    The first object is large and nearly always covers the most pixels (`main_object` tells); the others are small and
    barely overlap.

    Parameters
    ----------
    seed : int
        Non-negative. See `GENERATOR_SEEDS`, `VALIDATION_SEEDS` and `STUDY_SEEDS_START`.
    category, colour : str, optional
        Of the first object; drawn where not given.
    place : str, optional
    n_objects : int, optional
        1, 2 or 3.

    Returns
    -------
    Scene

    Examples
    --------
    >>> scene = draw_scene(7, category="car")
    >>> scene == draw_scene(7, category="car"), scene.objects[0].category
    (True, 'car')
    """
    _check_name("category", category, CATEGORIES)
    _check_name("colour", colour, tuple(COLOURS))
    _check_name("place", place, PLACES)
    if n_objects is not None and n_objects not in (1, 2, 3):
        raise ValueError(f"`n_objects` must be 1, 2 or 3; got {n_objects}")
    rng = np.random.default_rng([seed, 0x5CE7E])
    drawn_place = PLACES[int(rng.integers(len(PLACES)))]
    drawn_number = 1 + int(rng.choice(3, p=N_OBJECTS_PROBABILITY))
    objects = [_draw_object(rng, MAIN_SIZE, category, colour)]
    for _ in range((n_objects or drawn_number) - 1):
        candidates = [_draw_object(rng, OTHER_SIZE, None, None)]
        while (
            max(_overlap(candidates[-1], other) for other in objects) > _MAX_OVERLAP
            and len(candidates) < _TRIES
        ):
            candidates.append(_draw_object(rng, OTHER_SIZE, None, None))
        objects.append(min(candidates, key=lambda c: max(_overlap(c, other) for other in objects)))
    return Scene(place=place if place is not None else drawn_place, objects=tuple(objects), seed=seed)


def draw_matched(scene: Scene, seed: int) -> Scene:
    """Draw a scene that shares the main category and the place with `scene`, everything else drawn afresh.

    Parameters
    ----------
    scene : Scene
    seed : int
        Another one than the scene's own.

    Returns
    -------
    Scene
    """
    if seed == scene.seed:
        raise ValueError(f"`seed` must differ from the scene's own, or the same scene comes out; got {seed}")
    category = scene.objects[main_object(scene)].category
    return draw_scene(seed, category=category, place=scene.place)


def scene_from_params(place: str, objects: Sequence[dict[str, Any] | SceneObject], seed: int) -> Scene:
    """Make a scene from plain values, e.g. read from a file; the inverse of `scene_params`.

    Parameters
    ----------
    place : str
    objects : sequence of dict or SceneObject
        The fields of `SceneObject`.
    seed : int

    Returns
    -------
    Scene

    Examples
    --------
    >>> scene = draw_scene(3)
    >>> scene_from_params(**scene_params(scene)) == scene
    True
    """
    _check_name("place", place, PLACES)
    made = tuple(o if isinstance(o, SceneObject) else SceneObject(**o) for o in objects)
    for o in made:
        _check_name("category", o.category, CATEGORIES)
        _check_name("colour", o.colour, tuple(COLOURS))
    return Scene(place=place, objects=made, seed=seed)


def scene_params(scene: Scene) -> dict[str, Any]:
    """Return the scene as plain values that JSON can hold."""
    return {"place": scene.place, "objects": [asdict(o) for o in scene.objects], "seed": scene.seed}


def _place_points(points: np.ndarray, o: SceneObject, side: int) -> list[tuple[float, float]]:
    """Turn a shape's points in its own box, shape (points, 2), into pixels."""
    flipped = points * np.array([-1.0 if o.mirror else 1.0, 1.0])
    angle = np.deg2rad(o.pose)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    placed = (flipped @ turn) * o.size + np.array([o.x, o.y])
    return [(float(x), float(y)) for x, y in placed * side]


def _paint(draw: ImageDraw.ImageDraw, o: SceneObject, side: int, colour: Callable[[str], Any]) -> None:
    """Draw the outline of the object's body, then its parts; `colour` maps a part's paint to a fill."""
    parts = [(paint, _place_points(points, o, side)) for paint, points in SHAPES[o.category]]
    width = max(round(0.05 * o.size * side), 1)
    for paint, points in parts:
        if paint in ("body", "shade", "tint"):
            draw.line([*points, points[0], points[1]], fill=colour("outline"), width=width, joint="curve")
    for paint, points in parts:
        draw.polygon(points, fill=colour(paint))


def _mix(base: tuple[int, int, int], other: int, share: float) -> tuple[int, int, int]:
    r, g, b = (round((1 - share) * c + share * other) for c in base)
    return r, g, b


def paint_colour(colour: str, paint: str) -> tuple[int, int, int]:
    """Return the RGB of one paint (body, shade, tint, outline, white, black) of an object of this colour."""
    base = COLOURS[colour]
    return {
        "body": base,
        "shade": _mix(base, 0, 0.35),
        "tint": _mix(base, 255, 0.45),
        "outline": _mix(base, 0, 0.75),
        "white": (250, 250, 250),
        "black": (25, 22, 28),
    }[paint]


def _supersampling(size: int) -> int:
    return 4 if size <= 128 else 2


def render(scene: Scene, size: int = 64) -> np.ndarray:
    """Draw the scene, antialiased.

    Parameters
    ----------
    scene : Scene
    size : int
        Side of the picture in pixels.

    Returns
    -------
    array of uint8 of shape (size, size, 3)
    """
    factor = _supersampling(size)
    side = size * factor
    picture = draw_place(scene.place, scene.seed, side)
    draw = ImageDraw.Draw(picture)
    for o in scene.objects:
        _paint(draw, o, side, partial(paint_colour, o.colour))
    return np.asarray(picture.reduce(factor))


def object_masks(scene: Scene, size: int = 64) -> np.ndarray:
    """Tell which pixels show which object, what later objects hide left out.

    Returns
    -------
    array of bool of shape (objects, size, size)
        True where the object covers the middle of the pixel.
    """
    factor = _supersampling(size)
    side = size * factor
    picture = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(picture)
    for k, o in enumerate(scene.objects, start=1):
        _paint(draw, o, side, dict.fromkeys(PAINTS, k).__getitem__)
    middle = factor // 2
    index = np.asarray(picture)[middle::factor, middle::factor]
    return index[None] == np.arange(1, len(scene.objects) + 1)[:, None, None]


def main_object(scene: Scene, size: int = 64) -> int:
    """Return the index of the object that covers the most visible pixels (the first of equals)."""
    return int(object_masks(scene, size).sum((1, 2)).argmax())


_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "centre", "right")
_IN_PLACE = {
    "beach": ("on a beach", "at the beach"),
    "forest": ("in a forest", "in the woods"),
    "street": ("on a street", "in a city street"),
    "kitchen": ("in a kitchen", "in the kitchen"),
    "snow": ("in the snow", "on a field of snow"),
    "desert": ("in a desert", "among desert dunes"),
    "night": ("at night", "under the night sky"),
    "meadow": ("on a meadow", "in a green meadow"),
    "mountains": ("in the mountains", "before mountains"),
    "reef": ("under water at a reef", "in a reef"),
    "library": ("in a library", "before the shelves of a library"),
    "bedroom": ("in a bedroom", "in the bedroom"),
}


def position_words(x: float, y: float) -> str:
    """Name the cell of a 3 x 3 grid that holds a point.

    Examples
    --------
    >>> position_words(0.1, 0.9), position_words(0.5, 0.5)
    ('bottom left', 'centre')
    """
    column = 0 if x < 0.42 else 2 if x > 0.58 else 1
    row = 0 if y < 0.42 else 2 if y > 0.58 else 1
    if row == 1:
        return _COLUMNS[column]
    return _ROWS[row] if column == 1 else f"{_ROWS[row]} {_COLUMNS[column]}"


def size_word(size: float) -> str:
    """Name a size: tiny, small, large or huge."""
    return "tiny" if size < 0.21 else "small" if size < 0.3 else "large" if size < 0.51 else "huge"


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def captions(scene: Scene, n: int, seed: int) -> list[str]:
    """Describe the scene in `n` short English sentences, each worded anew.

    Parameters
    ----------
    scene : Scene
    n : int
    seed : int
        Chooses the wordings.

    Returns
    -------
    list of str
        Each names the main object with colour, size and position, the place, and the other objects with their colour and position.
    """
    rng = np.random.default_rng([scene.seed, seed, 0xCA97])
    main = scene.objects[main_object(scene)]
    others = [o for o in scene.objects if o is not main]
    texts = []
    for _ in range(n):
        form, place_form, other_form = (int(k) for k in rng.integers((4, 2, 3)))
        where = _IN_PLACE[scene.place][place_form]
        at = position_words(main.x, main.y)
        noun = f"{main.colour} {main.category}"
        text = (
            f"{_article(f'{size_word(main.size)} {noun}')} at the {at} {where}",
            f"{where}, {_article(f'{size_word(main.size)} {noun}')} at the {at}",
            f"a picture of {_article(f'{size_word(main.size)} {noun}')} {where}, at the {at}",
            f"{at}: {_article(f'{size_word(main.size)} {noun}')}, {where}",
        )[form]
        told = [
            (
                _article(f"{size_word(o.size)} {o.colour} {o.category}")
                + f" at the {position_words(o.x, o.y)}",
                _article(f"{o.colour} {o.category}") + f" at the {position_words(o.x, o.y)}",
                _article(f"{o.colour} {o.category}") + f", {position_words(o.x, o.y)}",
            )[other_form]
            for o in others
        ]
        texts.append(text + "".join(f", with {t}" if k == 0 else f" and {t}" for k, t in enumerate(told)))
    return texts


def without_objects(scene: Scene) -> Scene:
    """Return the empty place of the scene."""
    return replace(scene, objects=())
