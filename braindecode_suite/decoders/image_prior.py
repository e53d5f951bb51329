"""Images from linear estimates through a prior over images learned from the training images alone.

The prior is a cloud of exemplars: the training images, and copies of them that are turned, scaled, sheared, shifted and
bent a little. The posterior mean weighs every exemplar by how well it explains the responses (Naselaris et al. 2009 with
a photo library, Schoenmakers et al. 2013 with a Gaussian in its place). No outside image is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.learning.image_prior import (
    Deformation,
    LinearLikelihood,
    Variants,
    exemplar_posterior_mean,
    stretch_contrast,
)
from braindecode_suite.metrics.images import pixcorr, ssim

NotNegative = Annotated[float, Field(ge=0)]


class DeformationConfig(Config):
    """Sizes of the random deformations: as much as one writer's hand differs from one digit to the next.

    Deformations of this kind are usual in training digit classifiers (Simard et al. 2003,
    doi:10.1109/ICDAR.2003.1227801). The sizes are a first guess from looking at deformed digits and were kept: twice as
    strong ones, tried once on digits69, gave the same PixCorr and an SSIM lower by 0.01. See `Deformation`.
    """

    rotation: NotNegative = 6.0
    scale: NotNegative = 0.06
    shear: NotNegative = 0.075
    shift: NotNegative = 0.03
    elastic: NotNegative = 0.02
    smoothness: PositiveFloat = 0.18


class ExemplarPriorConfig(Config):
    """How many exemplars, how different, and how their posterior is read.

    Attributes
    ----------
    variants : int
        Exemplars of each training image, itself included.
    deformation : DeformationConfig
    temperature : float
        Power of the likelihood, see `exemplar_posterior_mean`.
    floor, gain : float
        Contrast of the posterior mean, see `stretch_contrast`.
    variants_seed : int
    """

    variants: PositiveInt = 60
    deformation: DeformationConfig = DeformationConfig()
    temperature: PositiveFloat = 0.1
    floor: NotNegative = 0.1
    gain: PositiveFloat = 1.5
    variants_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a posterior is read: the power of the likelihood, and the contrast of the mean."""

    temperature: float
    floor: float
    gain: float


class ExemplarPrior:
    """Reconstructs grey images by the posterior mean over exemplars made of the training images.

    A `Generator`: its inputs are latents in grey pixels under the role ``image``, predicted by an encoder that gives a
    `LinearLikelihood` with them (``inverted-encoding``). True latents are read as responses without noise.

    Parameters
    ----------
    config : ExemplarPriorConfig
    target : Target
        Grey pixels of one size.
    height, width : int
    variants : Variants, optional
        To share the deformed copies between folds; an image's copies depend on nothing but the image.

    Attributes
    ----------
    reading : Reading
        Taken from the config, until another is put in its place.
    """

    init_target: Target | None = None

    def __init__(
        self,
        config: ExemplarPriorConfig,
        target: Target,
        height: int,
        width: int,
        variants: Variants | None = None,
    ) -> None:
        if target.width != height * width or target.tokens != 1:
            raise InputError(
                "`target`",
                expected=f"one token of {height * width} grey pixels",
                found=f"{target.tokens} of {target.width} ({target.name})",
            )
        self.config, self.target, self.height, self.width = config, target, height, width
        self.inputs: Mapping[str, str] = {"image": target.name}
        self.variants = variants or make_variants(config)
        self.reading = Reading(temperature=config.temperature, floor=config.floor, gain=config.gain)
        self._exemplars: np.ndarray | None = None
        self._likelihood: LinearLikelihood | None = None
        self._coordinates: tuple[np.ndarray, np.ndarray, np.ndarray] | None = (
            None  # of the exemplars; basis, mean
        )

    def fit(self, train_images: np.ndarray, validation_images: np.ndarray | None = None) -> ExemplarPrior:
        """Learn the prior from the images of the training part, validation images included (nothing is chosen on them).

        Parameters
        ----------
        train_images : array of uint8 of shape (images, height, width, 3)
        validation_images : array of uint8 of shape (images, height, width, 3), optional
        """
        images = (
            train_images if validation_images is None else np.concatenate([train_images, validation_images])
        )
        grey = self.target.embed_images(images).reshape(len(images), self.height, self.width)
        self._exemplars = self.variants(grey).reshape(-1, self.height * self.width)
        self._coordinates = None
        return self

    def read_with(self, likelihood: LinearLikelihood) -> ExemplarPrior:
        """Say what the latents to come mean: the likelihood of the encoder that predicts them."""
        check_shape("likelihood.mean", likelihood.mean, "pixels", pixels=self.height * self.width)
        self._likelihood = likelihood
        return self

    def posterior_means(self, latents: Latents, temperatures: Sequence[float]) -> np.ndarray:
        """Return posterior means before their contrast is stretched.

        Returns
        -------
        array of shape (temperatures, rows, pixels)
        """
        if self._exemplars is None:
            raise InputError("`ExemplarPrior`", expected="a fitted prior", found="none", hint="call fit")
        if self._likelihood is None:
            raise InputError(
                "`ExemplarPrior`",
                expected="the likelihood of an encoder",
                found="none",
                hint="call read_with",
            )
        if latents.target != self.target.name:
            raise InputError(
                "`latents`", expected=f"latents of {self.target.name!r}", found=repr(latents.target)
            )
        values = latents.flat.astype(np.float64)
        if latents.kind == "true":
            evidence = self._likelihood.evidence_of_image(values)
        else:
            evidence = self._likelihood.evidence_of_estimate(values)
        z = self._exemplar_coordinates(self._likelihood, self._exemplars)
        return exemplar_posterior_mean(
            self._likelihood, evidence, self._exemplars, temperatures, coordinates=z
        )

    def _exemplar_coordinates(self, likelihood: LinearLikelihood, exemplars: np.ndarray) -> np.ndarray:
        """Project the exemplars once for all likelihoods on the same axes (other shrinkages, other rows)."""
        if self._coordinates is not None:
            z, basis, mean = self._coordinates
            if basis is likelihood.basis and mean is likelihood.mean:
                return z
        z = likelihood.coordinates(exemplars)
        self._coordinates = z, likelihood.basis, likelihood.mean
        return z

    def generate(self, latents: Mapping[str, Latents], seeds: Sequence[int]) -> np.ndarray:
        """Return the stretched posterior means; nothing is drawn, so that seeds change nothing.

        Parameters
        ----------
        latents : dict with the role ``image``
        seeds : sequence of int
            One a row, as every generator wants.

        Returns
        -------
        array of uint8 of shape (rows, height, width, 3)
        """
        if set(latents) != set(self.inputs):
            raise InputError(
                "`latents`",
                expected=f"the role {' and '.join(self.inputs)}",
                found=", ".join(latents) or "nothing",
            )
        if len(seeds) != len(latents["image"]):
            raise InputError(
                "`seeds`", expected=f"{len(latents['image'])} seeds, one a row", found=str(len(seeds))
            )
        mean = self.posterior_means(latents["image"], [self.reading.temperature])[0]
        return as_images(
            stretch_contrast(mean, self.reading.floor, self.reading.gain), self.height, self.width
        )


def make_variants(config: ExemplarPriorConfig) -> Variants:
    """Return the maker of deformed copies that a config describes."""
    return Variants(config.variants, Deformation(**config.deformation.model_dump()), config.variants_seed)


def as_images(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return grey values in [0, 1], of shape (rows, pixels), as uint8 images of shape (rows, height, width, 3)."""
    values = np.round(np.clip(grey, 0, 1) * 255).astype(np.uint8).reshape(-1, height, width)
    return np.repeat(values[..., None], 3, axis=3)


def choose_contrast(
    means: np.ndarray, truth: np.ndarray, floors: Sequence[float], gains: Sequence[float]
) -> tuple[float, float]:
    """Choose the floor and gain with the largest mean of PixCorr + SSIM on held-out images of the training part.

    Parameters
    ----------
    means : array of shape (images, height, width)
        Posterior means of images that the encoder and the prior have not seen.
    truth : array of shape (images, height, width)
        In [0, 1].
    floors, gains : sequence of float
        The grid.

    Returns
    -------
    floor, gain : float
    """
    check_shape("means", means, "images height width", images=len(truth))
    best, chosen = -np.inf, None
    for floor in floors:
        for gain in gains:
            recon = stretch_contrast(means, floor, gain)
            value = float(np.mean(pixcorr(truth, recon) + ssim(truth, recon)))
            if value > best:
                best, chosen = value, (floor, gain)
    if chosen is None:
        raise InputError("`floors`, `gains`", expected="a grid of at least one point", found="an empty one")
    return chosen
