"""Image networks, the only place where open_clip and torchvision are imported; nothing is ever downloaded here.

Two things are offered. `load_open_clip` gives a frozen `OpenClip` whose embeddings are decoding targets; it is named by
model and tag (``ViT-L-14/openai``), by a local folder, or ``tiny-clip``. `feature_network` gives the networks that score
reconstructions, with the layers and the resizing of the published NSD protocols.

Weights must lie on this machine: in a folder that is named, in the cache of the Hugging Face hub, or in that of torch
hub. If they do not, `MissingWeights` says where to put them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import functional

from braindecode_suite.core.checks import check_file, check_option, check_shape
from braindecode_suite.core.errors import InputError, MissingWeights
from braindecode_suite.core.files import file_sha256

ASSETS = Path(__file__).resolve().parents[1] / "assets"
"""The tiny image models of the embedded default."""

KINDS = ("pooled", "patches", "tokens", "tokens-norm", "text")
"""Layers of an open_clip model that can be decoding targets, see `OpenClip`."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SWAV_URL = "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar"


# ---------------------------------------------------------------------------------------------- open_clip


@dataclass(frozen=True, kw_only=True)
class OpenClipSource:
    """Where an open_clip model comes from, found without loading it.

    Attributes
    ----------
    identity : str
        ``ViT-L-14/openai``, or ``<folder>/<first digits of the weights' SHA-256>`` for local weights.
    architecture : str
        What open_clip is asked for: a built-in name, or ``local-dir:<folder>``.
    weights : Path
        The weights file.
    quick_gelu : bool
        Whether the weights were trained with QuickGELU, which a model's name alone does not say.
    preprocess : dict
        Resizing and normalisation that go with the weights.
    width : int
        Width of the joint image-text space.
    network : str
        ``FAMILY/TAG``: the architecture without its resolution and activation, and the weights' tag (or digits of their
        hash). It says whether two sources are the same network, see `same_network`.
    """

    identity: str
    architecture: str
    weights: Path
    quick_gelu: bool
    preprocess: dict[str, Any]
    width: int
    network: str

    def target_name(self, kind: str) -> str:
        """Return the name of a target: model, weights, layer and library version."""
        check_option("kind", kind, KINDS)
        return f"open-clip:{self.identity}:{kind}:open_clip-{version('open_clip_torch')}"


def find_open_clip(name: str, weights: Path | str | None = None) -> OpenClipSource:
    """Find an open_clip model on this machine.

    Parameters
    ----------
    name : str
        ``tiny-clip``; ``MODEL/TAG`` of open_clip's list; ``MODEL`` together with `weights`; or a folder.
    weights : Path, optional
        A folder with ``open_clip_config.json`` and weights, or a weights file of the architecture `name`.

    Raises
    ------
    MissingWeights
        If the weights are not on this machine.
    """
    folder = Path(weights) if weights is not None else ASSETS / name if name == "tiny-clip" else Path(name)
    if folder.is_dir() or (name == "tiny-clip" and not folder.is_file()):
        return _find_in_folder(folder)
    model, _, tag = name.partition("/")
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        known = open_clip.list_pretrained()
        raise InputError(
            "open_clip model",
            expected="MODEL/TAG, or a folder with open_clip_config.json",
            found=repr(name),
            hint=f"open_clip knows {len(known)} pairs, e.g. {known[0][0]}/{known[0][1]}",
        )
    trained = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    if weights is not None:
        file = check_file(folder, "a file of open_clip weights")
        identity = f"{model}/{file_sha256(file)[:12]}"
    else:
        if not trained:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
            raise InputError(f"open_clip tag of {model}", expected=f"one of {tags}", found=repr(tag))
        cached = _in_hub_cache(trained)
        if cached is None:
            raise MissingWeights(
                f"open_clip {name}",
                expected=f"its weights in the local hub cache ({trained['hf_hub'] or trained['url']})",
                found="none",
                hint="download them once where there is a network, or give a local folder or file as `weights`",
            )
        file, identity = cached, f"{model}/{tag}"
    preprocess = {
        key: trained[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in trained
    }
    return OpenClipSource(
        identity=identity,
        architecture=model,
        weights=file,
        quick_gelu=bool(trained.get("quick_gelu", config.get("quick_gelu", False))),
        preprocess=preprocess,
        width=int(config["embed_dim"]),
        network=f"{network_family(model)}/{identity.rpartition('/')[2]}",
    )


def network_family(architecture: str) -> str:
    """Return the name of an architecture without its resolution and activation, whose variants are one network.

    Examples
    --------
    >>> network_family("ViT-L-14-336-quickgelu"), network_family("ViT-B-16")
    ('ViT-L-14', 'ViT-B-16')
    """
    return re.sub(r"-\d{3}$", "", architecture.removesuffix("-quickgelu"))


def same_network(first: str, second: str) -> bool:
    """Tell whether two networks, each ``FAMILY/TAG``, are the same or may be: local weights may be any of their family.

    Examples
    --------
    >>> same_network("ViT-L-14/openai", "ViT-L-14/openai"), same_network("ViT-L-14/openai", "ViT-L-14/dfn2b")
    (True, False)
    >>> same_network("ViT-L-14/openai", "ViT-L-14/0123456789ab")  # weights from a file
    True
    """
    (family, _, tag), (other, _, other_tag) = first.rpartition("/"), second.rpartition("/")
    known = {tag for model, tag in open_clip.list_pretrained() if network_family(model) == family}
    return family == other and (tag == other_tag or not {tag, other_tag} <= known)


def _family_of(model: dict[str, Any]) -> str:
    """Return the family whose image tower a configuration describes, or an empty string."""

    def tower(config: dict[str, Any]) -> dict[str, Any]:
        vision = {key: value for key, value in config["vision_cfg"].items() if key != "image_size"}
        return {**vision, "embed_dim": config["embed_dim"]}

    if "vision_cfg" not in model:
        return ""
    known = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    same = [
        network_family(name) for name, config in known.items() if config and tower(config) == tower(model)
    ]
    return min(same, key=len, default="")  # those with another text tower have longer names


def _find_in_folder(folder: Path) -> OpenClipSource:
    config_file = folder / "open_clip_config.json"
    if not config_file.is_file():
        raise MissingWeights(
            folder,
            expected="a folder with open_clip_config.json and weights",
            found="no open_clip_config.json",
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        model, preprocess = config["model_cfg"], config.get("preprocess_cfg", {})
        width = int(model["embed_dim"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            config_file, expected="open_clip's configuration (JSON)", found=str(error)
        ) from error
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise MissingWeights(folder, expected="one .safetensors file of weights", found=found)
    digits = file_sha256(files[0])[:12]
    return OpenClipSource(
        identity=f"{folder.resolve().name}/{digits}",
        architecture=f"local-dir:{folder}",
        weights=files[0],
        quick_gelu=bool(model.get("quick_gelu", False)),
        preprocess=preprocess,
        width=width,
        network=f"{_family_of(model) or folder.resolve().name}/{digits}",
    )


def _in_hub_cache(trained: dict[str, Any]) -> Path | None:
    """Return the cached weights file of a pretrained tag, or None."""
    repository, _, filename = str(trained.get("hf_hub") or "").rpartition("/")
    names = (
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.safetensors",
        "open_clip_pytorch_model.bin",
    )
    for candidate in [filename] if filename else names:
        found = try_to_load_from_cache(repository, candidate) if repository else None
        if isinstance(found, str):
            return Path(found)
    return None


class OpenClip:
    """A frozen open_clip model: uint8 images or captions in, float32 embeddings out.

    Kinds of embedding, each of shape (rows, tokens, width):

    - ``pooled``: the image embedding of the joint space, not normalised, as ``encode_image`` gives it.
    - ``patches``: patch tokens after the last layer norm, without the class token (the target of MindEye2).
    - ``tokens``: class token and patches, each through the last layer norm and the projection (257 x 768 for ViT-L/14);
      token 0 is the pooled embedding of models that pool by class token.
    - ``tokens-norm``: the same, all tokens divided by the norm of token 0 (the target of MindEye).
    - ``text``: the caption's embedding in the joint space.

    Parameters
    ----------
    source : OpenClipSource
    device : str
    """

    def __init__(self, source: OpenClipSource, device: str = "cpu") -> None:
        self.source, self.device = source, device
        local = source.architecture.startswith("local-dir:")
        try:
            self.model = open_clip.create_model(
                source.architecture,
                pretrained=None if local else str(source.weights),
                force_quick_gelu=source.quick_gelu,
                force_preprocess_cfg=source.preprocess,
                require_pretrained=True,
                device=device,
            )
        except (RuntimeError, OSError, SafetensorError) as error:
            raise InputError(
                source.weights,
                expected=f"weights of {source.architecture}",
                found=" ".join(str(error).split())[:200],
            ) from error
        self.model.eval().requires_grad_(False)
        self.preprocess = PreprocessCfg(**open_clip.get_model_preprocess_cfg(self.model))
        self._transform = image_transform_v2(self.preprocess, is_train=False)
        self._tokenizer: Any = None

    def target_name(self, kind: str) -> str:
        """Return the name of a target of this model."""
        return self.source.target_name(kind)

    def shape(self, kind: str) -> tuple[int, int]:
        """Return (tokens, width) of a kind of embedding."""
        check_option("kind", kind, KINDS)
        if kind in ("pooled", "text"):
            return 1, self.source.width
        positions = getattr(self.model.visual, "positional_embedding", None)
        if positions is None or not hasattr(self.model.visual, "ln_post"):
            raise InputError(
                f"open_clip {self.source.identity}",
                expected=f"a vision transformer with a class token, for {kind!r}",
                found=type(self.model.visual).__name__,
                hint="use the kind 'pooled'",
            )
        tokens, inner = positions.shape
        return (int(tokens) - 1, int(inner)) if kind == "patches" else (int(tokens), self.source.width)

    def prepare(self, images: np.ndarray) -> Tensor:
        """Resize, crop and normalise as the model was trained.

        Parameters
        ----------
        images : array of uint8 of shape (rows, height, width, 3)

        Returns
        -------
        Tensor of shape (rows, 3, height, width)
        """
        if images.dtype != np.uint8:
            raise InputError("`images`", expected="type uint8", found=str(images.dtype))
        check_shape("images", images, "rows height width colours", colours=3)
        size = self.preprocess.size
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        if images.shape[1:3] == (height, width):
            x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div(255)
            return functional.normalize(x, list(self.preprocess.mean), list(self.preprocess.std))
        return torch.stack([self._transform(Image.fromarray(image)) for image in images])

    @torch.no_grad()
    def embed(self, images: np.ndarray, kind: str = "pooled", *, batch: int = 64) -> np.ndarray:
        """Embed images.

        Parameters
        ----------
        images : array of uint8 of shape (rows, height, width, 3)
        kind : {'pooled', 'patches', 'tokens', 'tokens-norm'}
        batch : int
            Images at once; does not change the result beyond rounding.

        Returns
        -------
        array of float32 of shape (rows, tokens, width)
        """
        if kind == "text":
            raise InputError(
                "`kind`", expected="a layer of the image tower", found="'text'", hint="embed captions instead"
            )
        out = np.empty((len(images), *self.shape(kind)), np.float32)
        for start in range(0, len(images), batch):
            x = self.prepare(images[start : start + batch]).to(self.device)
            out[start : start + batch] = self._embed_prepared(x, kind).float().cpu().numpy()
        return out

    def _embed_prepared(self, x: Tensor, kind: str) -> Tensor:
        """Embed prepared images (rows, 3, height, width) into (rows, tokens, width)."""
        if kind == "pooled":
            pooled: Tensor = self.model.encode_image(x)
            return pooled[:, None]
        with _captured(self.model.visual.ln_post) as outputs:
            self.model.encode_image(x)
        sequence = outputs[0]  # (rows, 1 + patches, inner width)
        tokens, width = self.shape("patches")
        if sequence.ndim != 3 or tuple(sequence.shape[1:]) != (tokens + 1, width):
            raise InputError(
                f"open_clip {self.source.identity}",
                expected="all tokens at the last layer norm",
                found=f"shape {tuple(sequence.shape)}",
                hint="this model pools before its last layer norm; use the kind 'pooled'",
            )
        if kind == "patches":
            return sequence[:, 1:]
        projected: Tensor = sequence @ self.model.visual.proj  # (rows, 1 + patches, width)
        return projected / projected[:, :1].norm(dim=2, keepdim=True) if kind == "tokens-norm" else projected

    @torch.no_grad()
    def embed_zero(self) -> np.ndarray:
        """Return the pooled embedding of an input that is zero after normalisation, of shape (width,).

        This is what Kandinsky 2.2 takes as "no condition".
        """
        size = self.preprocess.size
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        zero = torch.zeros(1, 3, height, width, device=self.device)
        return self._embed_prepared(zero, "pooled")[0, 0].float().cpu().numpy()

    @torch.no_grad()
    def embed_text(self, captions: Sequence[str], *, batch: int = 256) -> np.ndarray:
        """Embed captions into the joint space, not normalised: float32 of shape (captions, width)."""
        if self._tokenizer is None:
            self._tokenizer = open_clip.get_tokenizer(self.source.architecture)
        out = np.empty((len(captions), self.source.width), np.float32)
        for start in range(0, len(captions), batch):
            tokens = self._tokenizer(list(captions[start : start + batch])).to(self.device)
            out[start : start + batch] = self.model.encode_text(tokens).float().cpu().numpy()
        return out


def load_open_clip(name: str, weights: Path | str | None = None, device: str = "cpu") -> OpenClip:
    """Load an open_clip model from this machine; see `find_open_clip` for the names.

    Examples
    --------
    >>> load_open_clip("ViT-L-14/no-such-tag")
    Traceback (most recent call last):
    braindecode_suite.core.errors.InputError: open_clip tag of ViT-L-14: expected one of openai, ...
    """
    return OpenClip(find_open_clip(name, weights), device)


@contextmanager
def _captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what `module` returns while the block runs."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


# ---------------------------------------------------------------------------------- networks that score


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
        network.load_state_dict(_state(weights))
        return _frozen(network.features[: last + 1], device)

    return build


def _inception(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    # transform_input turns ImageNet's normalisation into the one these weights were trained with
    network = models.inception_v3(weights=None, transform_input=True, init_weights=False)
    network.load_state_dict(_state(weights))
    return _average_pool(network, "fc", device)


def _effnet(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    network = models.efficientnet_b1(weights=None)
    network.load_state_dict(_state(weights))
    return _average_pool(network, "classifier", device)


def _swav(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    network = models.resnet50(weights=None)
    state = {key.removeprefix("module."): value for key, value in _state(weights).items()}
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


def _state(weights: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load lets the unpickler's own errors through
        raise InputError(
            weights, expected="a PyTorch state dict", found=" ".join(str(error).split())[:200]
        ) from error
    return state


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
        return _in_hub_cache(open_clip.get_pretrained_cfg("ViT-L-14", "openai"))
    file = Path(torch.hub.get_dir()) / "checkpoints" / _PUBLISHED[name].url.rsplit("/", 1)[1]
    return file if file.is_file() else None


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
            place = Path(torch.hub.get_dir()) / "checkpoints"
            expected, hint = f"{url.rsplit('/', 1)[1]} in torch hub's cache", f"put {url} into {place}"
        raise MissingWeights(f"network {name!r}", expected=expected, found="none", hint=hint)
    return FeatureNetwork(name, _PUBLISHED[name], file, device)
