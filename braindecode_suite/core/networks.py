"""open_clip models whose embeddings are decoding targets; nothing is ever downloaded here.

`load_open_clip` gives a frozen `OpenClip`; it is named by model and tag (``ViT-L-14/openai``), by a local folder, or
``tiny-clip``. Weights must lie on this machine, in a folder that is named or in the cache of the Hugging Face hub. If they
do not, `MissingWeights` says where to put them.

open_clip, timm and torchvision are imported here and in the files beside it: `networks_scoring` (networks that score
reconstructions) and `networks_layers`, `networks_backbones` (any layer of any model, for encoding).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.transforms import functional

from braindecode_suite.core.checks import check_file, check_option, check_shape
from braindecode_suite.core.errors import InputError, MissingWeights
from braindecode_suite.core.files import file_sha256
from braindecode_suite.core.weights import in_hub_cache

ASSETS = Path(__file__).resolve().parents[1] / "assets"
"""The tiny image models of the embedded default."""

KINDS = ("pooled", "patches", "tokens", "tokens-norm", "text")
"""Layers of an open_clip model that can be decoding targets, see `OpenClip`."""


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


def cached_open_clip(model: str, tag: str) -> Path | None:
    """Return the weights file of ``MODEL/TAG`` in the cache of the Hugging Face hub, or None."""
    return _in_hub_cache(open_clip.get_pretrained_cfg(model, tag))


def _in_hub_cache(trained: dict[str, Any]) -> Path | None:
    """Return the cached weights file of a pretrained tag, or None."""
    repository, _, filename = str(trained.get("hf_hub") or "").rpartition("/")
    names = (
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.safetensors",
        "open_clip_pytorch_model.bin",
    )
    return in_hub_cache(repository, [filename] if filename else names)


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
