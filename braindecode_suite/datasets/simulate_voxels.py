"""Simulated voxels: what each responds to, and its noiseless response to any scene.

Retinotopic voxels pool Gabor energy and opponent colour of the *rendered picture* inside a population receptive field.
Category voxels carry the presence and the attributes (size, colour, pose) of the object of *their* category wherever it
lies, and are blind to those of every other object: what reaches them depends on the content (routing), not on the place.
Place voxels tell kinds of place apart. Mixtures add a retinotopic and a category part.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from braindecode_suite.datasets.simulate_parameters import VoxelParameters
from braindecode_suite.datasets.simulate_scenes import CATEGORIES, COLOURS, PLACES, Scene

Floats = NDArray[np.float32]
FIELD = 64
"""Side in pixels at which pictures are analysed, whatever their size."""
_BLOCK = 64

ATTRIBUTES = ("size", "colour", "pose")
HUES: dict[str, float] = {
    name: 2 * np.pi * colorsys.rgb_to_hsv(*(c / 255 for c in rgb))[0] for name, rgb in COLOURS.items()
}
"""Hue of each named colour, radians."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Population:
    """What every voxel responds to.

    Attributes
    ----------
    kind : array of str of shape (voxels,)
    prf : array of shape (voxels, 3)
        Centre x, y and standard deviation, as shares of the picture's width, y downwards.
    channels : array of shape (voxels, channels)
        Weights of the maps of `picture_maps`.
    category : array of int of shape (voxels,)
        Index into `CATEGORIES`.
    preferred : array of shape (voxels, 3)
        Preferred log2 size, hue (radians) and pose (degrees) of the object of that category.
    attribute_weights : array of shape (voxels, 3)
        Weights of size, colour and pose.
    place_weights : array of shape (voxels, places)
    """

    kind: NDArray[np.str_]
    prf: Floats
    channels: Floats
    category: NDArray[np.int64]
    preferred: Floats
    attribute_weights: Floats
    place_weights: Floats

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, voxels: NDArray[np.bool_]) -> Population:
        """Return some of the voxels."""
        return Population(**{f.name: getattr(self, f.name)[voxels] for f in fields(self)})


def n_channels(parameters: VoxelParameters) -> int:
    """Return the number of maps of a picture: Gabor energies, then luminance and four opponent colours."""
    return parameters.orientations * len(parameters.frequencies) + 5


def draw_population(
    kind: NDArray[np.str_],
    area: NDArray[np.str_],
    own_category: NDArray[np.int64],
    parameters: VoxelParameters,
    rng: np.random.Generator,
) -> Population:
    """Draw the tuning of every voxel.

    Parameters
    ----------
    kind : array of str of shape (voxels,)
    area : array of str of shape (voxels,)
        ``V1``, ``V2``, ``V3``, ``hV4`` or ``other``; decides receptive field size and the weight of colour.
    own_category : array of int of shape (voxels,)
        Category that the voxel's region prefers, -1 for none.
    """
    n = len(kind)
    sigma = np.array([parameters.prf_sigma[a] for a in area]) * np.exp(
        rng.normal(0, parameters.prf_sigma_log_sd, n)
    )
    prf = np.column_stack([rng.uniform(0, 1, (n, 2)), sigma])

    n_gabor = parameters.orientations * len(parameters.frequencies)
    colour = np.array([parameters.colour_share[a] for a in area])
    gabor = rng.gamma(0.5, size=(n, n_gabor))  # few large weights: tuned to orientation and frequency
    opponent = rng.gamma(0.5, size=(n, 5))
    channels = np.column_stack(
        [
            (1 - colour)[:, None] * gabor / gabor.sum(1, keepdims=True),
            colour[:, None] * opponent / opponent.sum(1, keepdims=True),
        ]
    )

    drawn = rng.integers(len(CATEGORIES), size=n)
    own = (own_category >= 0) & (rng.uniform(size=n) < parameters.selective_own)
    preferred = np.column_stack(
        [
            rng.uniform(np.log2(0.17), np.log2(0.62), n),
            rng.uniform(0, 2 * np.pi, n),
            rng.uniform(-20, 20, n),
        ]
    )
    return Population(
        kind=kind,
        prf=prf.astype(np.float32),
        channels=channels.astype(np.float32),
        category=np.where(own, own_category, drawn),
        preferred=preferred.astype(np.float32),
        attribute_weights=rng.dirichlet(np.ones(3), n).astype(np.float32),
        place_weights=rng.normal(size=(n, len(PLACES))).astype(np.float32),
    )


def picture_maps(pictures: NDArray[np.uint8], parameters: VoxelParameters) -> Floats:
    """Return Gabor energy and colour maps of pictures.

    Parameters
    ----------
    pictures : array of uint8 of shape (pictures, height, width, 3)

    Returns
    -------
    array of shape (pictures, channels, grid * grid)
        Amplitude of quadrature pairs per frequency and orientation; then luminance, and the positive and negative parts
        of red-green and blue-yellow.
    """
    rgb = np.stack([_analysed(picture) for picture in pictures])  # (pictures, FIELD, FIELD, 3)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    spectrum = fft.fft2(luminance - luminance.mean((1, 2), keepdims=True))
    energy = [np.abs(fft.ifft2(spectrum * pass_)) for pass_ in _filters(parameters)]
    red_green, blue_yellow = red - green, blue - (red + green) / 2
    colour = [luminance] + [np.maximum(sign * m, 0) for m in (red_green, blue_yellow) for sign in (1, -1)]
    maps = np.stack([*energy, *colour], axis=1)  # (pictures, channels, FIELD, FIELD)
    cell = FIELD // parameters.grid
    cells = maps.reshape(*maps.shape[:2], parameters.grid, cell, parameters.grid, cell).mean((3, 5))
    return cells.reshape(len(maps), maps.shape[1], -1).astype(np.float32)


def _analysed(picture: NDArray[np.uint8]) -> Floats:
    if picture.shape[:2] != (FIELD, FIELD):
        picture = np.asarray(Image.fromarray(picture).resize((FIELD, FIELD), Image.Resampling.BOX))
    return picture.astype(np.float32) / np.float32(255)


def _filters(parameters: VoxelParameters) -> list[Floats]:
    """Log-Gabor filters on one half of the frequency plane, so that the result's modulus is the pair's amplitude."""
    fy, fx = np.meshgrid(fft.fftfreq(FIELD) * FIELD, fft.fftfreq(FIELD) * FIELD, indexing="ij")
    radius, angle = np.hypot(fx, fy), np.arctan2(fy, fx)
    radius[0, 0] = 1.0
    spread = parameters.bandwidth_octaves * np.log(2) / (2 * np.sqrt(2 * np.log(2)))
    filters = []
    for frequency in parameters.frequencies:
        radial = np.exp(-0.5 * (np.log(radius / frequency) / spread) ** 2)
        radial[0, 0] = 0.0
        for k in range(parameters.orientations):
            step = np.pi / parameters.orientations
            turn = np.angle(np.exp(1j * (angle - k * step)))
            filters.append((2 * radial * np.exp(-0.5 * (turn / (step / 1.5)) ** 2)).astype(np.float32))
    return filters


def prf_weights(prf: Floats, grid: int) -> Floats:
    """Return Gaussian receptive fields on a grid, each summing to one, of shape (voxels, grid * grid)."""
    middle = (np.arange(grid) + 0.5) / grid
    y, x = np.meshgrid(middle, middle, indexing="ij")
    square = (x.ravel() - prf[:, :1]) ** 2 + (y.ravel() - prf[:, 1:2]) ** 2
    weights = np.exp(-0.5 * square / prf[:, 2:] ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def retinotopic_response(
    maps: Floats, population: Population, parameters: VoxelParameters, scale: Floats
) -> Floats:
    """Pool maps inside each receptive field and compress: ``(sum_c w_c sum_p G(p) E_c(p) / scale_c) ** n``.

    Parameters
    ----------
    maps : array of shape (pictures, channels, cells)
    scale : array of shape (channels,)
        Mean of each map over reference scenes, so that weights mean the same in all.

    Returns
    -------
    array of shape (pictures, voxels)
    """
    fields = prf_weights(population.prf, parameters.grid).T  # (cells, voxels)
    weights = (population.channels / scale).T  # (channels, voxels)
    pooled = np.einsum("ncv,cv->nv", maps @ fields, weights, optimize=True)
    return np.asarray(pooled**parameters.compression, np.float32)


def object_table(scenes: Sequence[Scene]) -> Floats:
    """Return the largest object of each category in each scene.

    Returns
    -------
    array of shape (scenes, categories, 4)
        Whether there is one (0 or 1), its log2 size, hue and pose.
    """
    table = np.zeros((len(scenes), len(CATEGORIES), 4), np.float32)
    for n, scene in enumerate(scenes):
        for o in sorted(scene.objects, key=lambda o: o.size):  # the largest is written last
            table[n, CATEGORIES.index(o.category)] = 1, np.log2(o.size), HUES[o.colour], o.pose
    return table


def category_response(table: Floats, population: Population, parameters: VoxelParameters) -> Floats:
    """Respond to the object of the voxel's category: ``presence (a + b sum_k w_k tuning_k(attribute_k))``.

    Parameters
    ----------
    table : array of shape (scenes, categories, 4)
        Of `object_table`.

    Returns
    -------
    array of shape (scenes, voxels)
    """
    present, size, hue, pose = np.moveaxis(table[:, population.category], -1, 0)  # each (scenes, voxels)
    want_size, want_hue, want_pose = population.preferred.T
    tuned = (
        np.exp(-0.5 * ((size - want_size) / parameters.size_tuning_width) ** 2),
        np.exp(parameters.colour_concentration * (np.cos(hue - want_hue) - 1)),
        np.exp(-0.5 * ((pose - want_pose) / parameters.pose_tuning_width) ** 2),
    )
    attributes = sum(weight * t for weight, t in zip(population.attribute_weights.T, tuned, strict=True))
    return np.asarray(
        present * (parameters.presence_gain + parameters.attribute_gain * attributes), np.float32
    )


def place_response(scenes: Sequence[Scene], population: Population) -> Floats:
    """Respond to the kind of place, of shape (scenes, voxels)."""
    return population.place_weights[:, [PLACES.index(scene.place) for scene in scenes]].T


class SignalModel:
    """Noiseless responses of a population, scaled to mean 0 and deviation 1 over reference scenes of no study.

    Parameters
    ----------
    population : Population
    parameters : VoxelParameters
    reference : sequence of Scene
    reference_maps : array of shape (scenes, channels, cells)
        Their `picture_maps`.
    """

    def __init__(
        self,
        population: Population,
        parameters: VoxelParameters,
        reference: Sequence[Scene],
        reference_maps: Floats,
    ) -> None:
        self.population, self.parameters = population, parameters
        self.map_scale = reference_maps.mean((0, 2)) + np.float32(1e-6)
        parts = self._parts(reference, reference_maps)
        self._moments = {name: (part.mean(0), part.std(0) + np.float32(1e-6)) for name, part in parts.items()}
        combined = self._combine(parts)
        self._last = combined.mean(0), combined.std(0) + np.float32(1e-6)

    def responses(self, scenes: Sequence[Scene], maps: Floats) -> Floats:
        """Return the signal of each scene.

        Parameters
        ----------
        scenes : sequence of Scene
        maps : array of shape (scenes, channels, cells)
            Their `picture_maps`.

        Returns
        -------
        array of float32 of shape (scenes, voxels)
        """
        mean, deviation = self._last
        blocks = [
            (self._combine(self._parts(scenes[k : k + _BLOCK], maps[k : k + _BLOCK])) - mean) / deviation
            for k in range(0, len(scenes), _BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self.population)), np.float32)

    def _parts(self, scenes: Sequence[Scene], maps: Floats) -> dict[str, Floats]:
        """Return each component for all voxels, zero where a voxel's kind does not have it."""
        table, kind = object_table(scenes), self.population.kind
        parts = {}
        for name in ("retinotopic", "category", "place"):
            has = (kind == name) | ((kind == "mixture") & (name != "place"))
            some = self.population.take(has)
            parts[name] = np.zeros((len(scenes), len(kind)), np.float32)
            if not has.any():
                continue
            if name == "retinotopic":
                parts[name][:, has] = np.concatenate(
                    [
                        retinotopic_response(maps[k : k + _BLOCK], some, self.parameters, self.map_scale)
                        for k in range(0, len(maps), _BLOCK)
                    ]
                )
            elif name == "category":
                parts[name][:, has] = category_response(table, some, self.parameters)
            else:
                parts[name][:, has] = place_response(scenes, some)
        return parts

    def _combine(self, parts: dict[str, Floats]) -> Floats:
        scaled = {
            name: (part - self._moments[name][0]) / self._moments[name][1] for name, part in parts.items()
        }
        share = self.parameters.mixture_share
        mixed = np.sqrt(share) * scaled["retinotopic"] + np.sqrt(1 - share) * scaled["category"]
        kind = self.population.kind
        return np.select(
            [kind == "retinotopic", kind == "category", kind == "place"],
            [scaled["retinotopic"], scaled["category"], scaled["place"]],
            mixed,
        ).astype(np.float32)
