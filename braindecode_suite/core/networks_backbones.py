"""Networks whose layers are features: open_clip, timm and torchvision models from weights on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torchvision import models

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError, MissingWeights
from braindecode_suite.core.features import Grid
from braindecode_suite.core.files import file_sha256
from braindecode_suite.core.networks import OpenClip, OpenClipSource, find_open_clip
from braindecode_suite.core.networks_layers import Backbone, Layer, LayerReader, padded_grid, square
from braindecode_suite.core.weights import in_hub_cache, in_torch_hub, read_state, torch_hub_file

LIBRARIES = {"open-clip": "open_clip_torch", "timm": "timm", "torchvision": "torchvision"}
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class BackboneSource:
    """Where a network comes from, found without loading it.

    Attributes
    ----------
    family : {'open-clip', 'timm', 'torchvision'}
    identity : str
        Model and tag, or model and the first digits of the weights' SHA-256.
    architecture : str
    weights : Path
    facts : mapping
        What goes with the weights: size, colours' mean and standard deviation, interpolation.
    open_clip : OpenClipSource or None
    """

    family: str
    identity: str
    architecture: str
    weights: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    open_clip: OpenClipSource | None = None

    @property
    def name(self) -> str:
        return f"{self.family}:{self.identity}"

    @property
    def library(self) -> str:
        distribution = LIBRARIES[self.family]
        return f"{distribution.removesuffix('_torch')}-{version(distribution)}"

    def layer_name(self, layer: Layer) -> str:
        """Return the name of a layer's features: model, weights, layer and library version."""
        return f"{self.name}:{layer}:{self.library}"


def find_backbone(family: str, model: str, weights: Path | str | None = None) -> BackboneSource:
    """Find a network on this machine.

    Parameters
    ----------
    family : {'tiny-clip', 'open-clip', 'timm', 'torchvision'}
    model : str
        ``MODEL/TAG`` of open_clip or torchvision, ``MODEL.TAG`` of timm; without the tag together with `weights`.
    weights : Path, optional
        A file of weights (open_clip: or a folder).

    Raises
    ------
    MissingWeights
        If the weights are not on this machine.
    """
    if family == "timm":
        return _find_timm(model, weights)
    if family == "torchvision":
        return _find_torchvision(model, weights)
    source = find_open_clip("tiny-clip" if family == "tiny-clip" else model, weights)
    return BackboneSource(
        family="open-clip",
        identity=source.identity,
        architecture=source.architecture,
        weights=source.weights,
        open_clip=source,
    )


def load_layer(source: BackboneSource, layer: Layer, device: str = "cpu") -> LayerReader:
    """Load a network and make a layer of it ready to be read."""
    build = {"open-clip": _open_clip_backbone, "timm": _timm_backbone, "torchvision": _torchvision_backbone}
    return LayerReader(build[source.family](source, layer.side, device), layer, device)


# ---------------------------------------------------------------------------------------------- open_clip


def _open_clip_backbone(source: BackboneSource, side: int, device: str) -> Backbone:
    assert source.open_clip is not None
    if side:
        raise InputError(
            source.name,
            expected="no size: open_clip models see images at their own",
            found=f"{side}px",
            hint="the same network in timm takes one",
        )
    clip = OpenClip(source.open_clip, device)
    visual = clip.model.visual
    trunk = getattr(visual, "trunk", visual)  # open_clip's own tower, or one of timm inside it
    blocks = getattr(getattr(visual, "transformer", trunk), "resblocks", getattr(trunk, "blocks", ()))
    norm = getattr(visual, "ln_post", getattr(trunk, "norm", nn.Identity()))
    grid = getattr(visual, "grid_size", None) or getattr(
        getattr(trunk, "patch_embed", None), "grid_size", None
    )
    own = hasattr(visual, "class_embedding")
    return Backbone(
        name=source.name,
        library=source.library,
        network=clip.model,
        run=clip.model.encode_image,
        prepare=clip.prepare,
        blocks=list(blocks),
        norm=norm,
        prefix=1 if own else int(getattr(trunk, "num_prefix_tokens", 0)),
        has_cls=own or bool(getattr(trunk, "has_class_token", False)),
        patches=None if grid is None else Grid(int(grid[0]), int(grid[1])),
        sequence_first=own and not getattr(visual.transformer, "batch_first", False),
    )


# --------------------------------------------------------------------------------------------------- timm


def _find_timm(model: str, weights: Path | str | None) -> BackboneSource:
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise InputError("timm model", expected="MODEL.TAG of timm's list", found=repr(model))
    try:
        trained = timm.get_pretrained_cfg(model)
    except RuntimeError as error:
        tags = (
            ", ".join(name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")) or "none"
        )
        raise InputError(f"timm tag of {architecture}", expected=f"one of {tags}", found=repr(tag)) from error
    facts = {} if trained is None else trained.to_dict()
    if weights is not None:
        file = check_file(Path(weights), "a file of timm weights")
        return BackboneSource(
            family="timm",
            identity=f"{architecture}/{file_sha256(file)[:12]}",
            architecture=model,
            weights=file,
            facts=facts,
        )
    if not tag:
        raise InputError(
            f"timm model {model!r}",
            expected="MODEL.TAG, or weights",
            found="no tag",
            hint=f"timm's default is {model}.{facts['tag']}" if facts.get("tag") else "",
        )
    url, repository = str(facts.get("url") or ""), str(facts.get("hf_hub_id") or "")
    named = facts.get("hf_hub_filename")
    cached = in_hub_cache(repository, [named] if named else HUB_FILES) or (in_torch_hub(url) if url else None)
    if cached is None:
        raise MissingWeights(
            f"timm {model}",
            expected=f"its weights in the local cache ({repository or url or 'none are published'})",
            found="none",
            hint="download them once where there is a network, or give a local file as `weights`",
        )
    return BackboneSource(family="timm", identity=model, architecture=model, weights=cached, facts=facts)


def _timm_backbone(source: BackboneSource, side: int, device: str) -> Backbone:
    facts = source.facts
    side = side or int(facts.get("input_size", (3, 224, 224))[-1])
    with torch.device("meta"):
        sketch = timm.create_model(source.architecture)
    patch = getattr(getattr(sketch, "patch_embed", None), "patch_size", 1)
    multiple = int(patch if isinstance(patch, int) else patch[0])
    resized: dict[str, Any] = {"img_size": side + -side % multiple} if facts.get("fixed_input_size") else {}
    file = {"file": str(source.weights), "custom_load": False}
    try:
        network: Any = timm.create_model(
            source.architecture, pretrained=True, pretrained_cfg_overlay=file, **resized
        )
    except Exception as error:  # readers of weights files let their own errors through
        raise _bad_weights(source, error) from error
    vit = hasattr(network, "blocks") and hasattr(network, "num_prefix_tokens")
    return Backbone(
        name=source.name,
        library=source.library,
        network=_frozen(network, device),
        run=network,
        prepare=partial(
            square,
            side=side,
            mean=facts.get("mean", (0.485, 0.456, 0.406)),
            std=facts.get("std", (0.229, 0.224, 0.225)),
            interpolation=str(facts.get("interpolation") or "bicubic"),
            multiple=multiple if resized else 1,
        ),
        blocks=list(network.blocks) if vit else (),
        norm=network.norm if vit else nn.Identity(),
        prefix=int(network.num_prefix_tokens) if vit else 0,
        has_cls=vit and bool(network.has_class_token),
        patches=padded_grid(side, multiple) if vit else None,
        channels_last=str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC"),
    )


# -------------------------------------------------------------------------------------------- torchvision


def _find_torchvision(model: str, weights: Path | str | None) -> BackboneSource:
    architecture, _, tag = model.partition("/")
    if architecture not in models.list_models(module=models):
        raise InputError("torchvision model", expected="MODEL/TAG of torchvision's list", found=repr(model))
    tags = models.get_model_weights(architecture).__members__
    if weights is not None:
        file = check_file(Path(weights), "a file of torchvision weights")
        identity, trained = f"{architecture}/{file_sha256(file)[:12]}", tags.get(tag or "DEFAULT")
    else:
        if tag not in tags:
            raise InputError(
                f"torchvision tag of {architecture}", expected=f"one of {', '.join(tags)}", found=repr(tag)
            )
        trained = tags[tag]
        place = torch_hub_file(trained.url)
        if not place.is_file():
            raise MissingWeights(
                f"torchvision {model}",
                expected=f"{place.name} in torch hub's cache",
                found="none",
                hint=f"put {trained.url} into {place.parent}",
            )
        file, identity = place, f"{architecture}/{trained.name}"  # DEFAULT is an alias
    facts: dict[str, Any] = {}
    if trained is not None:
        preset = trained.transforms()
        facts = {"side": preset.crop_size[0], "mean": preset.mean, "std": preset.std}
        facts["interpolation"] = preset.interpolation.value
    return BackboneSource(
        family="torchvision", identity=identity, architecture=architecture, weights=file, facts=facts
    )


def _torchvision_backbone(source: BackboneSource, side: int, device: str) -> Backbone:
    facts, kwargs = source.facts, {}
    own = int(facts.get("side", 224))
    if source.architecture.startswith("vit_"):
        if side not in (0, own):
            raise InputError(
                source.name,
                expected=f"its own size, {own}px",
                found=f"{side}px",
                hint="timm's models take others",
            )
        kwargs = {"image_size": own}
    elif source.architecture.startswith("inception"):
        kwargs = {"init_weights": False}
    network = models.get_model(source.architecture, weights=None, **kwargs)
    try:
        network.load_state_dict(read_state(source.weights))
    except RuntimeError as error:
        raise _bad_weights(source, error) from error
    side = side or own
    vit = isinstance(network, models.VisionTransformer)
    return Backbone(
        name=source.name,
        library=source.library,
        network=_frozen(network, device),
        run=network,
        prepare=partial(
            square,
            side=side,
            mean=facts.get("mean", (0.485, 0.456, 0.406)),
            std=facts.get("std", (0.229, 0.224, 0.225)),
            interpolation=str(facts.get("interpolation", "bilinear")),
        ),
        blocks=list(network.encoder.layers) if vit else (),
        norm=network.encoder.ln if vit else nn.Identity(),
        prefix=int(vit),
        has_cls=vit,
        patches=padded_grid(side, network.patch_size) if vit else None,
        channels_last=isinstance(network, models.SwinTransformer),
    )


def _bad_weights(source: BackboneSource, error: Exception) -> InputError:
    return InputError(
        source.weights,
        expected=f"weights of {source.architecture}",
        found=" ".join(str(error).split())[:200] or type(error).__name__,
    )


def _frozen(network: nn.Module, device: str) -> nn.Module:
    return network.eval().requires_grad_(False).to(device)
