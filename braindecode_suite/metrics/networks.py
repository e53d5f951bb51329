"""The published network scores of reconstructed images, and who can score on this machine.

Layers and sizes are those of MindEye and MindEye2. AlexNet, Inception and CLIP score by two-way identification (higher is
better, chance 0.5), EffNet-B and SwAV by the correlation distance of each pair (lower is better). The network that scores
must not be the target, nor the generator's condition, nor the chooser among candidates: such a score is ``circular``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError, MissingWeights
from braindecode_suite.core.networks import same_network
from braindecode_suite.core.networks_scoring import feature_network, weights_present
from braindecode_suite.core.tiny_eval import load_tiny_eval
from braindecode_suite.metrics.correlation import Floats
from braindecode_suite.metrics.identification import CHANCE, correlation_distance, two_way_identification
from braindecode_suite.metrics.images import PROTOCOLS, Protocol, as_unit_images, resize

FeatureNetwork = Callable[[torch.Tensor], torch.Tensor]

BATCH = 32


@dataclass(frozen=True)
class PublishedScore:
    """How one of the published network scores is made; `core.networks_scoring` knows its weights, layer and resizing.

    Attributes
    ----------
    network, layer : str
        For the report.
    weights : str
        ``FAMILY/TAG``, to tell whether a target is the same network.
    kind : {"identification", "distance"}
    """

    network: str
    layer: str
    weights: str
    kind: Literal["identification", "distance"]

    @property
    def chance(self) -> float | None:
        """Analytic chance level; None where only a permutation gives one."""
        return CHANCE if self.kind == "identification" else None


PUBLISHED: Mapping[str, PublishedScore] = MappingProxyType(
    {
        "alexnet2": PublishedScore(
            "AlexNet", "ReLU after convolution 2", "alexnet/imagenet1k_v1", "identification"
        ),
        "alexnet5": PublishedScore(
            "AlexNet", "ReLU after convolution 5", "alexnet/imagenet1k_v1", "identification"
        ),
        "inception": PublishedScore(
            "Inception v3", "average pool", "inception_v3/imagenet1k_v1", "identification"
        ),
        "clip": PublishedScore(
            "CLIP ViT-L/14 (OpenAI)", "image embedding", "ViT-L-14/openai", "identification"
        ),
        "effnet": PublishedScore(
            "EfficientNet-B1", "average pool", "efficientnet_b1/imagenet1k_v2", "distance"
        ),
        "swav": PublishedScore("SwAV ResNet-50", "average pool", "resnet50/swav_800ep", "distance"),
    }
)


def circular_scorers(networks: Iterable[str]) -> frozenset[str]:
    """Return the published scores whose own network is among `networks`, at whatever resolution.

    Parameters
    ----------
    networks : iterable of str
        ``FAMILY/TAG`` of every network that an image was decoded to, drawn from or chosen by.

    Examples
    --------
    >>> sorted(circular_scorers(["ViT-L-14/openai"])), sorted(circular_scorers(["ViT-bigG-14/laion2b_s39b_b160k"]))
    (['clip'], [])
    """
    used = list(networks)
    return frozenset(
        name
        for name, score in PUBLISHED.items()
        if any(same_network(score.weights, network) for network in used)
    )


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a scorer can run on this machine, and if not, why and what would help."""

    name: str
    available: bool
    note: str


def network_features(
    name: str,
    images: ArrayLike,
    *,
    protocol: Protocol = "native",
    weights: Path | str | None = None,
    network: FeatureNetwork | None = None,
) -> NDArray[np.float32]:
    """Return what a published scoring network sees in each image.

    Parameters
    ----------
    name : str
        One of `PUBLISHED`.
    images : array of shape (images, height, width, 3)
        uint8, or floats in [0, 1].
    protocol : {"native", "nsd"}
        `nsd` resizes to 256 pixels before the network resizes to its own size.
    weights : Path, optional
        The weights file; by default where their library keeps it.
    network : callable, optional
        A network already opened by `feature_network`.

    Returns
    -------
    array of float32 of shape (images, features)
    """
    check_option("name", name, PUBLISHED)
    check_option("protocol", protocol, PROTOCOLS)
    pixels = np.asarray(images)
    opened = feature_network(name, weights) if network is None else network
    if not len(pixels):
        raise InputError("`images`", expected="at least one image", found="none")
    rows = []
    for start in range(0, len(pixels), BATCH):
        block = as_unit_images("images", pixels[start : start + BATCH])
        if block.ndim == 3:
            block = np.repeat(block[..., None], 3, axis=3)
        if protocol == "nsd":
            block = resize(block, 256)
        block = np.clip(block, 0, 1, dtype=np.float32)  # interpolation may leave [0, 1] by a rounding error
        features = opened(torch.from_numpy(np.ascontiguousarray(block.transpose(0, 3, 1, 2))))
        rows.append(features.float().cpu().numpy().reshape(len(block), -1))
    return np.concatenate(rows)


def network_score(
    name: str,
    truth: ArrayLike,
    recon: ArrayLike,
    *,
    protocol: Protocol = "native",
    weights: Path | str | None = None,
    distractors: ArrayLike | None = None,
) -> Floats:
    """Score reconstructions by a published network.

    Parameters
    ----------
    name : str
        One of `PUBLISHED`.
    truth, recon : array of shape (images, height, width, 3)
    protocol : {"native", "nsd"}
    weights : Path, optional
    distractors : array of bool of shape (images, images), optional
        For identification only, as in `two_way_identification`.

    Returns
    -------
    array of shape (images,)

    Raises
    ------
    MissingWeights
        If the network's weights are not on this machine.
    """
    check_option("name", name, PUBLISHED)
    network = feature_network(name, weights)
    true = network_features(name, truth, protocol=protocol, network=network)
    decoded = network_features(name, recon, protocol=protocol, network=network)
    if PUBLISHED[name].kind == "identification":
        return two_way_identification(true, decoded, distractors=distractors)
    if distractors is not None:
        raise InputError("`distractors`", expected="None for a distance between pairs", found="a mask")
    return correlation_distance(true, decoded)


def available_scorers() -> list[Availability]:
    """Say which of the published eight scores, and `tiny-eval`, can run on this machine; loads none of the large ones."""
    rows = [Availability(name=name, available=True, note="needs no network") for name in ("pixcorr", "ssim")]
    for name, score in PUBLISHED.items():
        note, present = f"{score.network}, {score.layer}", weights_present(name)
        if not present:
            try:
                feature_network(name)
            except MissingWeights as missing:
                note = str(missing)
        rows.append(Availability(name=name, available=present, note=note))
    try:
        load_tiny_eval()
        rows.append(Availability(name="tiny-eval", available=True, note="scores simulated scenes"))
    except MissingWeights as missing:
        rows.append(Availability(name="tiny-eval", available=False, note=str(missing)))
    return rows


def alexnet2(truth: ArrayLike, recon: ArrayLike, **options: Any) -> Floats:
    """Two-way identification by AlexNet's second layer (``features.4``); options of `network_score`."""
    return network_score("alexnet2", truth, recon, **options)


def alexnet5(truth: ArrayLike, recon: ArrayLike, **options: Any) -> Floats:
    """Two-way identification by AlexNet's fifth layer (``features.11``); options of `network_score`."""
    return network_score("alexnet5", truth, recon, **options)


def inception(truth: ArrayLike, recon: ArrayLike, **options: Any) -> Floats:
    """Two-way identification by Inception v3's pooled features; options of `network_score`."""
    return network_score("inception", truth, recon, **options)


def clip(truth: ArrayLike, recon: ArrayLike, **options: Any) -> Floats:
    """Two-way identification by the image embedding of CLIP ViT-L/14; options of `network_score`."""
    return network_score("clip", truth, recon, **options)


def effnet(truth: ArrayLike, recon: ArrayLike, **options: Any) -> Floats:
    """Correlation distance of EfficientNet-B1's pooled features, lower is better; options of `network_score`."""
    return network_score("effnet", truth, recon, **options)


def swav(truth: ArrayLike, recon: ArrayLike, **options: Any) -> Floats:
    """Correlation distance of SwAV's pooled features, lower is better; options of `network_score`."""
    return network_score("swav", truth, recon, **options)
