"""The networks that score reconstructions, with the layers and the resizing of the published NSD protocols.

Weights must lie on this machine: in a file that is named, or in the cache of torch hub (CLIP: of the Hugging Face hub).
Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import functional

from braindecode_suite.core.checks import check_file, check_option, check_shape
from braindecode_suite.core.errors import InputError, MissingWeights
from braindecode_suite.core.networks import cached_open_clip, load_open_clip
from braindecode_suite.core.weights import in_torch_hub, read_state, torch_hub_file

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SWAV_URL = "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar"


@dataclass(frozen=True, kw_only=True)
class _Published:
    """A published scoring network: where its weights are, how images reach it, which layer is read."""

    url: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    build: Callable[[Path, str], Callable[[Tensor], Tensor]]
    prefixes: tuple[str, ...] = ()


class FeatureNetwork:
    """Images to features: ``network(images)`` maps floats in [0, 1] of shape (rows, 3, height, width) to (rows, features).

    Attributes
    ----------
    name : str
    version : str
        Weights file and library version.
    """

    def __init__(self, name: str, spec: _Published, weights: Path, device: str) -> None:
        library = "open_clip_torch" if name == "clip" else "torchvision"
        self.name, self.version = name, f"{weights.name}, {library} {version(library)}"
        self._spec, self._device = spec, device
        self._features = spec.build(weights, device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Resize (bilinear, no antialiasing, no crop), normalise, and read the layer."""
        check_shape("images", images, "rows colours height width", colours=3)
        if not images.is_floating_point() or (len(images) and (images.min() < 0 or images.max() > 1)):
            raise InputError("`images`", expected="floats in [0, 1]", found=f"{images.dtype} outside them")
        x = images.to(self._device, torch.float32)
        x = functional.resize(x, [self._spec.size], antialias=False)
        x = functional.normalize(x, list(self._spec.mean), list(self._spec.std))
        return self._features(x).flatten(1)


def _alexnet(last: int) -> Callable[[Path, str], Callable[[Tensor], Tensor]]:
    def build(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
        network = models.alexnet(weights=None)
        network.load_state_dict(read_state(weights))
        return _frozen(network.features[: last + 1], device)

    return build


def _inception(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    # transform_input turns ImageNet's normalisation into the one these weights were trained with
    network = models.inception_v3(weights=None, transform_input=True, init_weights=False)
    network.load_state_dict(read_state(weights))
    return _average_pool(network, "fc", device)


def _effnet(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    network = models.efficientnet_b1(weights=None)
    network.load_state_dict(read_state(weights))
    return _average_pool(network, "classifier", device)


def _swav(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    network = models.resnet50(weights=None)
    state = {key.removeprefix("module."): value for key, value in read_state(weights).items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    wrong = [key for key in missing if not key.startswith("fc.")]
    wrong += [key for key in unexpected if not key.startswith(("projection_head.", "prototypes."))]
    if wrong:
        raise InputError(weights, expected="SwAV weights of a ResNet-50", found=f"mismatch at {wrong[0]}")
    return _average_pool(network, "fc", device)


def _clip(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    model = load_open_clip("ViT-L-14/openai", weights, device).model
    return lambda x: model.encode_image(x)


def _average_pool(network: nn.Module, head: str, device: str) -> Callable[[Tensor], Tensor]:
    """Return the network up to its average pool: all that follows is the classifier (and dropout, idle in evaluation)."""
    setattr(network, head, nn.Identity())
    return _frozen(network, device)


def _frozen(network: nn.Module, device: str) -> nn.Module:
    return network.eval().requires_grad_(False).to(device)


_PUBLISHED = {
    "alexnet2": _Published(
        url=models.AlexNet_Weights.IMAGENET1K_V1.url,
        size=256,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        build=_alexnet(4),
    ),
    "alexnet5": _Published(
        url=models.AlexNet_Weights.IMAGENET1K_V1.url,
        size=256,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        build=_alexnet(11),
    ),
    "inception": _Published(
        url=models.Inception_V3_Weights.IMAGENET1K_V1.url,
        size=342,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        build=_inception,
    ),
    "clip": _Published(url="", size=224, mean=CLIP[0], std=CLIP[1], build=_clip),
    "effnet": _Published(
        url=models.EfficientNet_B1_Weights.IMAGENET1K_V2.url,
        size=255,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        build=_effnet,
    ),
    "swav": _Published(url=SWAV_URL, size=224, mean=IMAGENET[0], std=IMAGENET[1], build=_swav),
}

FEATURE_NETWORKS = tuple(_PUBLISHED)


def _weights_file(name: str, weights: Path | str | None) -> Path | None:
    """Return the weights file of a scoring network if it is on this machine."""
    check_option("network", name, FEATURE_NETWORKS)
    if weights is not None:
        folder = name == "clip" and Path(weights).is_dir()
        return Path(weights) if folder else check_file(Path(weights), f"a file of weights for {name!r}")
    if name == "clip":
        return cached_open_clip("ViT-L-14", "openai")
    return in_torch_hub(_PUBLISHED[name].url)


def weights_present(name: str) -> bool:
    """Tell whether the weights of a scoring network are on this machine."""
    return _weights_file(name, None) is not None


def feature_network(name: str, weights: Path | str | None = None, device: str = "cpu") -> FeatureNetwork:
    """Load one of the six networks of the published NSD protocols.

    AlexNet after the second and the fifth convolution (``alexnet2``, ``alexnet5``), the average pool of Inception v3,
    EfficientNet-B1 and SwAV's ResNet-50, and the image embedding of CLIP ViT-L/14. Images are resized, without
    antialiasing as in the published code, to 256, 342, 255, 224 and 224 pixels.

    Parameters
    ----------
    name : {'alexnet2', 'alexnet5', 'inception', 'clip', 'effnet', 'swav'}
    weights : Path, optional
        The weights file (``clip``: or a folder, see `find_open_clip`); by default the one in the local cache of torch
        hub (``clip``: of the Hugging Face hub).
    device : str

    Raises
    ------
    MissingWeights
        If the file is not on this machine; nothing is downloaded.
    """
    file = _weights_file(name, weights)
    if file is None:
        if name == "clip":
            expected, hint = (
                "the weights of open_clip ViT-L-14/openai in the local hub cache",
                "download them once",
            )
        else:
            url = _PUBLISHED[name].url
            place = torch_hub_file(url)
            expected, hint = f"{place.name} in torch hub's cache", f"put {url} into {place.parent}"
        raise MissingWeights(f"network {name!r}", expected=expected, found="none", hint=hint)
    return FeatureNetwork(name, _PUBLISHED[name], file, device)
