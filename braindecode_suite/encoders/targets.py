"""Image targets: where decoding aims. Stimuli in, one latent per unique stimulus out, from open_clip models.

A target is asked for by name, ``tiny-clip`` or ``open-clip:MODEL/TAG``, with the layer after a colon where it is not the
pooled embedding: ``open-clip:ViT-L-14/openai:tokens-norm``. Layers inside a network, of open_clip, timm and torchvision
models, are targets too, see `encoders.features`. What the name of the target itself then says is exact: model, weights,
layer and library version, because each of them changes the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from braindecode_suite.core.cache import ArrayCache
from braindecode_suite.core.embed import embed_cached, unique_ids
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import FeatureSource
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.networks import KINDS, OpenClip, find_open_clip, load_open_clip
from braindecode_suite.core.networks_backbones import find_backbone
from braindecode_suite.core.networks_layers import BLOCK, Layer
from braindecode_suite.core.study import Stimuli
from braindecode_suite.encoders import TARGETS
from braindecode_suite.encoders.features import open_clip_layer


class OpenClipTarget:
    """A layer of an open_clip model as a latent space of images, or of their captions.

    Parameters
    ----------
    model : OpenClip
    kind : {'pooled', 'patches', 'tokens', 'tokens-norm', 'text'}
        See `OpenClip`. ``text`` embeds all captions of a stimulus, each at unit length, and takes their mean.
    cache : ArrayCache
    batch : int
        Images at once.

    Attributes
    ----------
    name : str
        Model, weights, layer, library version.
    network : str
        What the scorers of reconstructions must not be, see `braindecode_suite.core.networks.same_network`.
    tokens, width : int
    """

    def __init__(self, model: OpenClip, kind: str, cache: ArrayCache, batch: int = 64) -> None:
        self.tokens, self.width = model.shape(kind)
        self.name, self.network = model.target_name(kind), model.source.network
        self.model, self.kind, self.cache, self.batch = model, kind, cache, batch

    def embed(self, stimuli: Stimuli, ids: Sequence[str]) -> Latents:
        """Return the true latents of the unique `ids`, in order of first appearance, from the cache if they are there."""
        if self.kind == "text":
            captions = {i: stimuli.captions(i) for i in unique_ids(ids)}
            silent = [i for i, texts in captions.items() if not texts]
            if silent:
                raise InputError(
                    "stimuli",
                    expected="a caption for each, for a text target",
                    found=f"none for {silent[0]!r}",
                )
            key = data_hash(captions)
            return embed_cached(
                self,
                self.cache,
                stimuli,
                ids,
                lambda some: self.embed_captions([captions[i] for i in some]),
                key,
            )
        return embed_cached(
            self, self.cache, stimuli, ids, lambda some: self.embed_images(stimuli.images(some))
        )

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Embed images without a cache.

        Parameters
        ----------
        images : array of uint8 of shape (rows, height, width, 3)

        Returns
        -------
        array of float32 of shape (rows, tokens, width)
        """
        return self.model.embed(images, self.kind, batch=self.batch)

    def embed_captions(self, captions: Sequence[Sequence[str]]) -> np.ndarray:
        """Embed the captions of each stimulus into the mean of their unit vectors: float32 of shape (rows, 1, width)."""
        counts = [len(texts) for texts in captions]
        rows = self.model.embed_text([text for texts in captions for text in texts])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sums = np.add.reduceat(rows, np.cumsum([0, *counts[:-1]]), axis=0)
        return (sums / np.array(counts)[:, None]).astype(np.float32)[:, None]


def split_name(name: str) -> tuple[str, str, str]:
    """Split the name of a target into catalogue entry, model and layer (a kind of `OpenClip`, or a layer inside).

    Examples
    --------
    >>> split_name("open-clip:ViT-L-14/openai:tokens")
    ('open-clip', 'ViT-L-14/openai', 'tokens')
    >>> split_name("tiny-clip")
    ('tiny-clip', '', 'pooled')
    >>> split_name("tiny-clip:block-1:queries")
    ('tiny-clip', '', 'block-1:queries')
    >>> split_name("torchvision:resnet50/IMAGENET1K_V2:layer4:975px")
    ('torchvision', 'resnet50/IMAGENET1K_V2', 'layer4:975px')
    """
    entry, *rest = name.split(":")
    entry = TARGETS.resolve(entry)
    if entry in ("timm", "torchvision"):
        if len(rest) < 2:
            example = "torchvision:alexnet/IMAGENET1K_V1:features.11"
            raise InputError(
                "target", expected=f"{entry}:MODEL:LAYER", found=repr(name), hint=f"e.g. {example}"
            )
        return entry, rest[0], ":".join(rest[1:])
    inside = [k for k, word in enumerate(rest) if BLOCK.fullmatch(word) or word.startswith("visual.")]
    if inside:
        model, kind = ":".join(rest[: inside[0]]), ":".join(rest[inside[0] :])
    else:
        kind = rest.pop() if rest and rest[-1] in KINDS else "pooled"
        model = ":".join(rest)
    if entry == "open-clip" and not model:
        raise InputError(
            "target", expected="open-clip:MODEL/TAG", found=repr(name), hint="e.g. open-clip:ViT-L-14/openai"
        )
    if entry != "open-clip" and model:
        raise InputError(
            f"target {entry!r}",
            expected=f"a layer, one of {', '.join(KINDS)}, or block-K",
            found=repr(model),
        )
    return entry, model, kind


def tiny_clip(
    model: str, kind: str, cache: ArrayCache, weights: Path | None = None, device: str = "cpu"
) -> Target:
    """Build a target of the embedded default's own open_clip model, or of one in the folder `weights`."""
    if kind in KINDS:
        return OpenClipTarget(load_open_clip("tiny-clip", weights, device), kind, cache)
    return open_clip_layer("tiny-clip", model, kind, cache, weights, device)


def open_clip(
    model: str, kind: str, cache: ArrayCache, weights: Path | None = None, device: str = "cpu"
) -> Target:
    """Build a target of an open_clip model named ``MODEL/TAG``, or by its folder."""
    if kind in KINDS:
        return OpenClipTarget(load_open_clip(model, weights, device), kind, cache)
    return open_clip_layer("open-clip", model, kind, cache, weights, device)


def make_target(name: str, cache_dir: Path, weights: Path | None = None, device: str = "cpu") -> Target:
    """Make a target by name.

    Parameters
    ----------
    name : str
        ``tiny-clip`` or ``open-clip:MODEL/TAG``, a folder in place of ``MODEL/TAG``, and ``:KIND`` for another layer than
        the pooled embedding; ``timm:MODEL.TAG:LAYER``, ``torchvision:MODEL/TAG:LAYER``.
    cache_dir : Path
        Where embedded stimuli are kept.
    weights : Path, optional
        Local weights, see `core.networks.find_open_clip` and `core.networks_backbones.find_backbone`.
    device : str

    Raises
    ------
    MissingWeights
        If the model's weights are not on this machine.
    """
    entry, model, kind = split_name(name)
    target: Target = TARGETS[entry](model, kind, ArrayCache(cache_dir), weights, device)
    return target


def make_features(
    name: str, cache_dir: Path, weights: Path | None = None, device: str = "cpu"
) -> FeatureSource:
    """Make a feature source by name: a target that is a layer inside a network, such as ``tiny-clip:block-1``."""
    entry, _, kind = split_name(name)
    if kind in KINDS:
        raise InputError(
            "features",
            expected="a layer with its grid of tokens",
            found=repr(name),
            hint=f"e.g. {entry}:block-1",
        )
    source = make_target(name, cache_dir, weights, device)
    assert isinstance(source, FeatureSource)
    return source


def target_name(name: str, weights: Path | None = None) -> str:
    """Return the exact name that `make_target` would give its target, without loading the model."""
    entry, model, kind = split_name(name)
    if kind in KINDS:
        return find_open_clip("tiny-clip" if entry == "tiny-clip" else model, weights).target_name(kind)
    return find_backbone(entry, model, weights).layer_name(Layer.parse(kind))
