"""Bayesian reconstruction: a linear model of how images drive responses, and a prior over images, meet in a posterior.

The likelihood is an encoding model turned around: responses x of an image with coordinates z are ``x = B z + noise``
with correlated noise, so that ``log p(x | z) = s(x).z - z J z / 2 + const`` with ``s = B' Sigma^-1 x`` and
``J = B' Sigma^-1 B``. The prior is Gaussian (closed form) or a cloud of exemplars: the training images and slightly
deformed copies of them. Schoenmakers et al. 2013 (doi:10.1016/j.neuroimage.2013.07.043) have the linear-Gaussian form,
Naselaris et al. 2009 (doi:10.1016/j.neuron.2009.09.006) the posterior over a set of exemplars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError

Floats = NDArray[np.float64]

RELATIVE_PENALTIES = tuple(float(penalty) for penalty in np.logspace(-2, 2, 9))
"""Penalties in units of the mean squared norm of a centred training image."""
VARIANCE_FLOOR = 1e-3
"""Smallest prior variance of a coordinate, relative to the largest, so that the linear estimate can be undone."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearLikelihood:
    """What responses say about an image, up to a constant: ``s.z - z J z / 2`` for ``z = basis @ (image - mean)``.

    Attributes
    ----------
    mean : array of shape (pixels,)
    basis : array of shape (rank, pixels)
        Orthonormal rows; nothing is known of an image beyond them.
    precision : array of shape (rank, rank)
        J, the same for all rows.
    prior_variance : array of shape (rank,)
        Of the coordinates, in the Gaussian prior under which `estimate` is the posterior mean.
    """

    mean: Floats
    basis: Floats
    precision: Floats
    prior_variance: Floats

    def coordinates(self, images: NDArray[np.floating]) -> Floats:
        """Return the coordinates, of shape (images, rank), of images of shape (images, pixels)."""
        basis = self.basis.astype(
            np.result_type(images, np.float32)
        )  # products in the precision of the images
        return np.asarray(images @ basis.T - self.mean @ self.basis.T, dtype=np.float64)

    def estimate(self, evidence: Floats) -> Floats:
        """Return the posterior mean under the Gaussian prior, ``mean + basis' (J + P)^-1 s``.

        Parameters
        ----------
        evidence : array of shape (rows, rank)
            s, one row a response.

        Returns
        -------
        array of shape (rows, pixels)
        """
        total = self.precision + np.diag(1 / self.prior_variance)
        return np.asarray(self.mean + np.linalg.solve(total, evidence.T).T @ self.basis)

    def evidence_of_estimate(self, estimates: NDArray[np.floating]) -> Floats:
        """Undo `estimate`: return s, of shape (rows, rank), for estimates of shape (rows, pixels)."""
        total = self.precision + np.diag(1 / self.prior_variance)
        return np.asarray(self.coordinates(estimates) @ total)

    def evidence_of_image(self, images: NDArray[np.floating]) -> Floats:
        """Return the s, of shape (images, rank), that responses without noise to these images would give: J z."""
        return np.asarray(self.coordinates(images) @ self.precision)

    def log_likelihood(self, evidence: Floats, coordinates: Floats) -> Floats:
        """Return log p(x | image), up to a constant of each row.

        Parameters
        ----------
        evidence : array of shape (rows, rank)
        coordinates : array of shape (images, rank)

        Returns
        -------
        array of shape (rows, images)
        """
        z = coordinates
        return np.asarray(evidence @ z.T - 0.5 * np.einsum("nd,nd->n", z @ self.precision, z))


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodingFit:
    """A linear encoding model: standardised responses of some units from image coordinates.

    Attributes
    ----------
    units : int array of shape (kept,)
        Units whose left-out responses are predicted well enough.
    unit_mean, unit_scale : array of shape (kept,)
    image_mean : array of shape (pixels,)
    basis : array of shape (rank, pixels)
        Principal axes of the training images.
    image_variance : array of shape (rank,)
    weights : array of shape (rank, kept)
        B': coordinates to standardised responses.
    residuals : array of shape (images, kept)
        Leave-one-image-out prediction errors.
    r2 : array of shape (units,)
        Leave-one-image-out coefficient of determination of every unit; 0 for constant units.
    """

    units: NDArray[np.intp]
    unit_mean: Floats
    unit_scale: Floats
    image_mean: Floats
    basis: Floats
    image_variance: Floats
    weights: Floats
    residuals: Floats
    r2: Floats

    def likelihood(self, shrinkage: float) -> tuple[LinearLikelihood, Floats]:
        """Return the likelihood with noise covariance ``(1 - c) R'R / n + c diag``, and the readout of s.

        Parameters
        ----------
        shrinkage : float
            c, in (0, 1]: how far the covariance of the left-out residuals R is drawn to its diagonal.

        Returns
        -------
        LinearLikelihood
        array of shape (kept, rank)
            ``Sigma^-1 B``: standardised responses times this are the evidence s.
        """
        readout = solve_shrunk_covariance(self.residuals, shrinkage, self.weights.T)
        precision = self.weights @ readout
        variance = np.maximum(self.image_variance, VARIANCE_FLOOR * self.image_variance.max())
        likelihood = LinearLikelihood(
            mean=self.image_mean,
            basis=self.basis,
            precision=(precision + precision.T) / 2,
            prior_variance=variance,
        )
        return likelihood, readout


def fit_encoding(
    responses: NDArray[np.floating],
    images: NDArray[np.floating],
    *,
    penalties: Sequence[float] = RELATIVE_PENALTIES,
    min_r2: float = 0.02,
    min_units: int = 20,
) -> EncodingFit:
    """Fit ridge from images to each unit, its penalty chosen by leave-one-out error in closed form.

    Parameters
    ----------
    responses : array of shape (images, units)
        One row an image.
    images : array of shape (images, pixels)
    penalties : sequence of float
        Relative to the mean squared norm of a centred image.
    min_r2 : float
        Units whose left-out variance explained is below are dropped...
    min_units : int
        ...but at least this many of the best are kept.

    Returns
    -------
    EncodingFit

    Notes
    -----
    Everything is done in the eigenbasis of the (images x images) Gram matrix. With an unpenalised intercept the left-out
    residual is the residual over ``1 - 1/n - h``, h being the diagonal of the centred hat matrix.
    """
    X, Y = np.asarray(responses, np.float64), np.asarray(images, np.float64)
    check_shape("responses", X, "images units")
    check_shape("images", Y, "images pixels", images=len(X))
    check_finite("`responses`", X)
    if len(X) < 3:
        raise InputError("`images`", expected="at least 3 images", found=str(len(X)))
    mean, scale = X.mean(axis=0), X.std(axis=0)
    varies = np.flatnonzero(scale > 1e-12 * np.abs(X).max(initial=1e-300))
    if len(varies) == 0:
        raise InputError("`responses`", expected="units that vary", found=f"{X.shape[1]} constant units")
    A = (X[:, varies] - mean[varies]) / scale[varies]

    n, image_mean = len(Y), Y.mean(axis=0)
    U, lengths, basis = np.linalg.svd(Y - image_mean, full_matrices=False)
    rank = int((lengths > 1e-8 * lengths[0]).sum()) if lengths[0] > 0 else 0
    if rank == 0:
        raise InputError("`images`", expected="images that differ", found="one image only")
    U, lengths, basis = U[:, :rank], lengths[:rank], basis[:rank]
    grid = np.asarray(penalties, np.float64) * np.square(lengths).sum() / n
    projected = U.T @ A  # (rank, units)
    error = np.stack([np.square(_left_out(A, U, lengths, projected, g)).sum(axis=0) for g in grid])
    best = error.argmin(axis=0)

    r2 = np.zeros(X.shape[1])
    r2[varies] = 1 - error.min(axis=0) / n
    order = np.argsort(-r2[varies], kind="stable")
    keep = np.sort(order[: max(int((r2[varies] > min_r2).sum()), min(min_units, len(varies)))])
    A, projected, best = A[:, keep], projected[:, keep], best[keep]
    weights, residuals = np.empty((rank, len(keep))), np.empty((n, len(keep)))
    for i in np.unique(best):
        mine = best == i
        weights[:, mine] = (lengths / (lengths**2 + grid[i]))[:, None] * projected[:, mine]
        residuals[:, mine] = _left_out(A[:, mine], U, lengths, projected[:, mine], grid[i])
    units = varies[keep]
    return EncodingFit(
        units=units,
        unit_mean=mean[units],
        unit_scale=scale[units],
        image_mean=image_mean,
        basis=basis,
        image_variance=np.square(lengths) / n,
        weights=weights,
        residuals=residuals,
        r2=r2,
    )


def _left_out(A: Floats, U: Floats, lengths: Floats, projected: Floats, penalty: float) -> Floats:
    """Return leave-one-out residuals, of shape (images, units), of ridge on centred images."""
    shrink = lengths**2 / (lengths**2 + penalty)
    leverage = np.square(U) @ shrink + 1 / len(A)
    return np.asarray((A - U @ (shrink[:, None] * projected)) / (1 - leverage)[:, None])


def solve_shrunk_covariance(residuals: Floats, shrinkage: float, right: Floats) -> Floats:
    """Return ``Sigma^-1 right`` for ``Sigma = (1 - c) R'R / n + c diag(R'R / n)``, never forming Sigma.

    Parameters
    ----------
    residuals : array of shape (rows, units)
        R.
    shrinkage : float
        c, in (0, 1].
    right : array of shape (units, columns)

    Returns
    -------
    array of shape (units, columns)
    """
    if not 0 < shrinkage <= 1:
        raise InputError("`shrinkage`", expected="above 0, at most 1", found=str(shrinkage))
    n = len(residuals)
    diagonal = shrinkage * np.square(residuals).mean(axis=0)
    R = residuals * np.sqrt((1 - shrinkage) / n)
    scaled = R / diagonal  # R D^-1
    solved = right / diagonal[:, None]
    inner = np.eye(n) + scaled @ R.T
    return np.asarray(solved - scaled.T @ np.linalg.solve(inner, R @ solved))


def exemplar_posterior_mean(
    likelihood: LinearLikelihood,
    evidence: Floats,
    exemplars: NDArray[np.floating],
    temperatures: Sequence[float],
    *,
    coordinates: Floats | None = None,
) -> Floats:
    """Average exemplars by how well they explain the responses: weights ``p(x | exemplar)^T``.

    Parameters
    ----------
    likelihood : LinearLikelihood
    evidence : array of shape (rows, rank)
    exemplars : array of shape (exemplars, pixels)
    temperatures : sequence of float
        T of each result: 1 takes the likelihood at its word; less, since its weights are themselves estimates and
        many units share their errors.
    coordinates : array of shape (exemplars, rank), optional
        Those of the exemplars, where they are known already.

    Returns
    -------
    array of shape (temperatures, rows, pixels)
    """
    check_shape("evidence", evidence, "rows rank", rank=len(likelihood.basis))
    check_shape("exemplars", exemplars, "exemplars pixels", pixels=len(likelihood.mean))
    z = likelihood.coordinates(exemplars) if coordinates is None else coordinates
    logs = likelihood.log_likelihood(evidence, z)  # (rows, exemplars)
    posterior = np.asarray(temperatures, np.float64)[:, None, None] * logs  # (temperatures, rows, exemplars)
    posterior = np.exp(posterior - posterior.max(axis=2, keepdims=True))
    posterior /= posterior.sum(axis=2, keepdims=True)
    flat = posterior.reshape(-1, len(exemplars)).astype(exemplars.dtype)
    return np.asarray(flat @ exemplars, dtype=np.float64).reshape(*posterior.shape[:2], -1)


def stretch_contrast(images: NDArray[np.floating], floor: float, gain: float) -> NDArray[np.floating]:
    """Return ``clip(gain * (image - floor), 0, 1)``: a posterior mean is greyer than any image it averages."""
    return np.clip(gain * (images - floor), 0, 1)


@dataclass(frozen=True, kw_only=True)
class Deformation:
    """Sizes (standard deviations) of small random deformations of an image; lengths are fractions of its width.

    Attributes
    ----------
    rotation : float
        Degrees.
    scale : float
        Of the logarithm of width and of height.
    shear : float
    shift : float
    elastic : float
        Smooth random displacement of each point...
    smoothness : float
        ...and the standard deviation of the Gaussian that smooths it.
    """

    rotation: float
    scale: float
    shear: float
    shift: float
    elastic: float
    smoothness: float


class Variants:
    """An image and deformed copies of it, which depend on nothing but the image, the deformation and the seed.

    An image has the same copies in every fold, and they are made once: copies of a test image exist only if it is
    asked for, which nobody does who fits on training images.

    Parameters
    ----------
    n : int
        Copies of each image, the image itself included.
    deformation : Deformation
    seed : int

    Examples
    --------
    >>> still = Deformation(rotation=0, scale=0, shear=0, shift=0, elastic=0, smoothness=0.2)
    >>> Variants(3, still)(np.eye(4)[None]).shape
    (3, 4, 4)
    """

    def __init__(self, n: int, deformation: Deformation, seed: int = 0) -> None:
        self.n, self.deformation, self.seed = n, deformation, seed
        self._made: dict[bytes, NDArray[np.float32]] = {}

    def __call__(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the copies of images of shape (images, height, width), of shape (images * n, height, width)."""
        return np.concatenate([self._of(np.ascontiguousarray(image, np.float32)) for image in images])

    def _of(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        key = blake2b(image.tobytes(), digest_size=16).digest()
        if key not in self._made:
            rng = np.random.default_rng([self.seed, int.from_bytes(key, "little")])
            deformed = deform(image, self.n - 1, self.deformation, rng)
            self._made[key] = np.concatenate([image[None], deformed])
        return self._made[key]


def deform(
    image: NDArray[np.floating], n: int, deformation: Deformation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw `n` deformed copies of a grey image, linearly interpolated, black outside.

    Parameters
    ----------
    image : array of shape (height, width)
    n : int
    deformation : Deformation
    rng : numpy Generator

    Returns
    -------
    array of float32 of shape (n, height, width)
    """
    check_shape("image", image, "height width")
    height, width = image.shape
    d = deformation
    angle = np.deg2rad(d.rotation) * rng.standard_normal(n)
    stretch = np.exp(d.scale * rng.standard_normal((n, 2)))
    shear = d.shear * rng.standard_normal(n)
    shift = d.shift * width * rng.standard_normal((n, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    rotate = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)  # (n, 2, 2)
    slant = np.stack([np.stack([stretch[:, 0], 0 * shear], -1), np.stack([shear, stretch[:, 1]], -1)], 1)
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    grid = np.moveaxis(np.mgrid[:height, :width], 0, -1) - centre  # (height, width, 2)
    points = np.einsum("nij,hwj->nihw", rotate @ slant, grid) + (shift + centre)[:, :, None, None]
    if d.elastic > 0:
        sigma = d.smoothness * width
        field = gaussian_filter(rng.standard_normal((n, 2, height, width)), (0, 0, sigma, sigma))
        field /= field.std(axis=(1, 2, 3), keepdims=True)
        points += d.elastic * width * field
    values = map_coordinates(image, points.transpose(1, 0, 2, 3), order=1, mode="constant", cval=0.0)
    return np.clip(values, 0, 1).astype(np.float32)
