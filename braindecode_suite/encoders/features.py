"""Image features: any layer of open_clip, timm and torchvision models as tokens on a grid, kept in half precision.

A layer is asked for by name, after the model: ``tiny-clip:block-1``, ``open-clip:ViT-L-14/openai:block-12``,
``timm:vit_base_patch14_dinov2.lvd142m:block-12:queries:425px``, ``torchvision:resnet50/IMAGENET1K_V2:layer4:975px``. The layer
is ``block-K`` (of a vision transformer, from 1) or the dotted path of any module; after it, in any order, may stand
``queries``, ``keys`` or ``values`` (what the block's self-attention makes of its input), ``normed`` (through the last layer
norm), ``cls`` or ``with-cls`` (the class token alone, or before the patches), a size such as ``425px`` and a grid such as
``16x16`` that the tokens are averaged to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from braindecode_suite.core.cache import ArrayCache
from braindecode_suite.core.embed import embed_cached
from braindecode_suite.core.features import FeatureStore, Rows
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.networks_backbones import find_backbone, load_layer
from braindecode_suite.core.networks_layers import Layer, LayerReader
from braindecode_suite.core.study import Stimuli


class ImageFeatures:
    """A layer of an image network (a `FeatureSource`).

    Parameters
    ----------
    reader : LayerReader
    cache : ArrayCache
        Whose folder keeps the features, in half precision.
    batch : int
        Images at once.

    Attributes
    ----------
    name : str
        Model, weights, layer, library version.
    tokens, width : int
    grid : Grid
    """

    def __init__(self, reader: LayerReader, cache: ArrayCache, batch: int = 16) -> None:
        self.name, self.tokens, self.width, self.grid = reader.name, reader.tokens, reader.width, reader.grid
        self.reader, self.cache, self.batch = reader, cache, batch

    def rows(self, stimuli: Stimuli, ids: Sequence[str]) -> Rows:
        """Return float16 features of shape (ids, tokens, width), read lazily from disk; each image is computed once.

        Parameters
        ----------
        stimuli : Stimuli
        ids : sequence of str
            May repeat.
        """
        key = {"features": self.name, "stimuli": stimuli.fingerprint}
        store = FeatureStore(self.cache.folder / "features", key, tokens=self.tokens, width=self.width)
        return store.rows(ids, lambda some: self._in_batches(stimuli, some))

    def _in_batches(self, stimuli: Stimuli, ids: Sequence[str]) -> np.ndarray:
        out = np.empty((len(ids), self.tokens, self.width), np.float32)
        for start in range(0, len(ids), self.batch):
            out[start : start + self.batch] = self.embed_images(
                stimuli.images(ids[start : start + self.batch])
            )
        return out

    def embed(self, stimuli: Stimuli, ids: Sequence[str]) -> Latents:
        """Return the latents of the unique `ids` as float32, for whoever decodes to this layer."""
        return embed_cached(self, self.cache, stimuli, ids, lambda some: self.rows(stimuli, some)[:])

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Read the layer for uint8 images of shape (rows, height, width, 3): float32 of shape (rows, tokens, width)."""
        return self.reader.embed(images, batch=self.batch)


def timm(
    model: str, layer: str, cache: ArrayCache, weights: Path | None = None, device: str = "cpu"
) -> ImageFeatures:
    """Build features of a timm model, ``timm:MODEL.TAG:LAYER``, e.g. DINOv2 with its query projections.

    `LAYER` is ``block-K`` or a module's dotted path, then any of ``queries|keys|values``, ``normed``, ``cls|with-cls``, a size
    such as ``425px``, a grid such as ``16x16``: ``timm:vit_base_patch14_dinov2.lvd142m:block-12:queries:425px``.
    """
    return _features("timm", model, layer, cache, weights, device)


def torchvision(
    model: str, layer: str, cache: ArrayCache, weights: Path | None = None, device: str = "cpu"
) -> ImageFeatures:
    """Build features of a torchvision model, ``torchvision:MODEL/TAG:LAYER``, e.g. a ResNet or AlexNet.

    `LAYER` as for timm: ``torchvision:resnet50/IMAGENET1K_V2:layer4:975px``, ``torchvision:alexnet/IMAGENET1K_V1:features.11``.
    """
    return _features("torchvision", model, layer, cache, weights, device)


def open_clip_layer(
    entry: str, model: str, layer: str, cache: ArrayCache, weights: Path | None, device: str
) -> ImageFeatures:
    """Build features of an open_clip model's layer; `entry` is ``tiny-clip`` or ``open-clip``."""
    return _features(entry, model, layer, cache, weights, device)


def _features(
    family: str, model: str, layer: str, cache: ArrayCache, weights: Path | None, device: str
) -> ImageFeatures:
    return ImageFeatures(load_layer(find_backbone(family, model, weights), Layer.parse(layer), device), cache)
