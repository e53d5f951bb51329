"""A CTF-275 system: mne's flat layout lifted onto mne's helmet, and the field of dipoles in a spherical head under it.

mne is only asked for what it ships (layout, helmet) and for physics (the field of a dipole in a sphere, seen by axial
gradiometers); it is imported when needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.simulate_meg_parameters import HelmetParameters, RecordingParameters

if TYPE_CHECKING:
    import mne

Floats = NDArray[np.float64]
LAYOUT = "CTF-275"
_DIPOLE = 1e-9  # ampere metres: the field of a dipole of one nanoampere metre is returned


def read_layout() -> tuple[list[str], Floats]:
    """Return the names of mne's layout, as a CTF system has them (``MLC11-2622``), and the middles of its boxes.

    Returns
    -------
    names : list of str
    array of shape (sensors, 2)
        As shares of the layout's width and height.
    """
    import mne

    layout = mne.channels.read_layout(f"{LAYOUT}.lout")
    return list(layout.names), layout.pos[:, :2] + layout.pos[:, 2:] / 2


def lift(
    flat: Floats, parameters: HelmetParameters, vertices: Floats, triangles: NDArray[np.int64]
) -> Floats:
    """Lift points of the layout onto the helmet along rays, and out by the gap.

    The layout is read as an azimuthal equidistant projection: a point at distance ``r`` from the centre stands for the ray
    that leaves the vertical by ``r / layout_radian``.

    Parameters
    ----------
    flat : array of shape (sensors, 2)
    parameters : HelmetParameters
    vertices : array of shape (vertices, 3)
        Of the helmet, metres in the device frame.
    triangles : array of int of shape (triangles, 3)

    Returns
    -------
    array of shape (sensors, 12)
        MNE's ``loc``: position, then three orthonormal axes, the last one outwards.
    """
    away = (flat - np.array(parameters.layout_centre)) / parameters.layout_radian
    angle = np.hypot(*away.T)
    side = away / np.maximum(angle, 1e-12)[:, None]
    rays = np.column_stack([side * np.sin(angle)[:, None], np.cos(angle)])
    centre = np.array(parameters.projection_centre)
    distance, outwards = _meet(centre, rays, vertices, triangles)
    positions = centre + (distance + parameters.gap)[:, None] * rays
    return np.concatenate([positions, _axes(outwards).reshape(-1, 9)], axis=1)


def _vertex_normals(vertices: Floats, triangles: NDArray[np.int64]) -> Floats:
    """Return the mean normal of the triangles around each vertex, weighted by area, outwards."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal *= np.sign(np.einsum("ti,ti->t", normal, (a + b + c) / 3 - vertices.mean(0)))[:, None]
    total = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(total, triangles[:, k], normal)
    return np.asarray(total / np.linalg.norm(total, axis=1, keepdims=True))


def _meet(
    origin: Floats, rays: Floats, vertices: Floats, triangles: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return how far along each ray the helmet is, and its normals there (Moeller and Trumbore 1997)."""
    a = vertices[triangles[:, 0]]
    first, second = vertices[triangles[:, 1]] - a, vertices[triangles[:, 2]] - a
    p = np.cross(rays[:, None], second)  # (rays, triangles, 3)
    determinant = np.einsum("ti,rti->rt", first, p)
    determinant = np.where(np.abs(determinant) < 1e-15, np.nan, determinant)
    to_origin = origin - a
    u = np.einsum("ti,rti->rt", to_origin, p) / determinant
    q = np.cross(to_origin, first)
    v = rays @ q.T / determinant
    distance = np.einsum("ti,ti->t", second, q) / determinant
    hit = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & (distance > 0)
    if not hit.any(1).all():
        raise InputError("`layout_centre`", expected="every sensor on the helmet", found="one beside it")
    k, row = hit.argmax(1), np.arange(len(rays))
    weights = np.column_stack([1 - u[row, k] - v[row, k], u[row, k], v[row, k]])
    normals = np.einsum("rc,rci->ri", weights, _vertex_normals(vertices, triangles)[triangles[k]])
    return distance[row, k], normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _axes(outwards: Floats) -> Floats:
    """Return two tangents and the normal, orthonormal and right-handed, of shape (sensors, 3, 3)."""
    helper = np.eye(3)[np.abs(outwards).argmin(1)]
    first = np.cross(helper, outwards)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(outwards, first), outwards], axis=1)


def make_info(
    helmet: HelmetParameters, recording: RecordingParameters, dev_head_t: Floats | None = None
) -> mne.Info:
    """Describe a CTF-275 system: sensors on the helmet, then the trigger channel.

    Parameters
    ----------
    helmet : HelmetParameters
    recording : RecordingParameters
    dev_head_t : array of shape (4, 4), optional
        From the device's to the head's frame; the parameters' own by default.

    Returns
    -------
    mne.Info
        Coil type CTF_GRAD; calibrated so that 16-bit integers hold the recording.
    """
    import mne

    names, flat = read_layout()
    kinds = ["mag"] * len(names) + ["stim"]  # MNE calls CTF's axial gradiometers ``mag``
    info: Any = mne.create_info([*names, recording.trigger_channel], recording.sfreq, kinds, verbose="error")
    for channel in info["chs"][: len(names)]:
        channel["coil_type"] = mne.io.constants.FIFF.FIFFV_COIL_CTF_GRAD
        channel["coord_frame"] = mne.io.constants.FIFF.FIFFV_COORD_DEVICE
        channel["cal"] = recording.resolution
    identity = mne.transforms.Transform("meg", "head", np.eye(4))
    info["dev_head_t"] = identity
    surface = mne.surface.get_meg_helmet_surf(info, verbose="error")
    loc = lift(flat, helmet, np.asarray(surface["rr"], float), np.asarray(surface["tris"], np.int64))
    for channel, row in zip(info["chs"], loc, strict=False):
        channel["loc"] = row
    if dev_head_t is None:
        dev_head_t = np.eye(4)
        dev_head_t[:3, 3] = helmet.head
    info["dev_head_t"] = mne.transforms.Transform("meg", "head", dev_head_t)
    return info


def draw_head_positions(parameters: HelmetParameters, n: int, rng: np.random.Generator) -> Floats:
    """Draw where the head is in each session, as matrices from device to head of shape (sessions, 4, 4)."""
    matrices = np.tile(np.eye(4), (n, 1, 1))
    turns = rng.normal(0, parameters.session_turn, (n, 3))
    matrices[:, :3, :3] = Rotation.from_euler("xyz", turns, degrees=True).as_matrix()
    matrices[:, :3, 3] = np.array(parameters.head) + rng.normal(0, parameters.session_shift, (n, 3))
    return matrices


def dipole_fields(positions: Floats, moments: Floats, info: mne.Info, parameters: HelmetParameters) -> Floats:
    """Return the field of dipoles of one nanoampere metre at the sensors, by mne's spherical head.

    Parameters
    ----------
    positions : array of shape (dipoles, 3)
        Metres in the head's frame, inside the sphere.
    moments : array of shape (dipoles, 3)
        Unit vectors.
    info : mne.Info
        With the head's position.
    parameters : HelmetParameters

    Returns
    -------
    array of shape (sensors, dipoles)
        Tesla.
    """
    import mne

    sphere = mne.make_sphere_model(
        parameters.sphere_centre, parameters.sphere_radius, info=None, verbose="error"
    )
    n = len(positions)
    dipoles = mne.Dipole(np.arange(n) * 1e-3, positions, np.full(n, _DIPOLE), moments, np.full(n, 100.0))
    picks = mne.pick_types(info, meg=True, ref_meg=False, exclude=())
    forward, _ = mne.make_forward_dipole(
        dipoles, sphere, mne.pick_info(info, picks), trans=None, verbose="error"
    )
    return np.asarray(forward["sol"]["data"] * _DIPOLE, np.float64)
