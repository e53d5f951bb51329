"""Any layer of an image network as tokens on a grid, read by a forward hook that stops the network there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, functional

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid

PROJECTIONS = ("queries", "keys", "values")
PARTS = ("cls", "with-cls")
BLOCK = re.compile(r"block-([1-9]\d*)")
PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True)
class Layer:
    """Which numbers of a network are features.

    Attributes
    ----------
    module : str
        ``block-K``, the K-th block of a vision transformer from 1, or the dotted path of any module.
    projection : {'', 'queries', 'keys', 'values'}
        Of a block: what its self-attention projects its input to, heads side by side, instead of the block's output.
    normed : bool
        Whether a block's output goes through the network's last layer norm.
    part : {'', 'cls', 'with-cls'}
        Of a vision transformer's tokens: the patches, the class token, or both. Registers are always left out.
    side : int
        Pixels of the square that images are resized to; 0: the network's own.
    pool : pair of int or None
        Rows and columns that the grid is averaged to.
    """

    module: str
    projection: str = ""
    normed: bool = False
    part: str = ""
    side: int = 0
    pool: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Layer:
        """Read ``MODULE[:queries|keys|values][:normed][:cls|with-cls][:NNNpx][:HxW]``.

        Examples
        --------
        >>> str(Layer.parse("block-12:16x16:queries:425px"))
        'block-12:queries:425px:16x16'
        """
        module, *words = text.split(":")
        if not PATH.fullmatch(module) and not BLOCK.fullmatch(module):
            raise InputError(
                "layer", expected="block-K or a module's dotted path", found=repr(module or text)
            )
        found: dict[str, Any] = {}
        for word in words:
            name, value = _read_word(word)
            if name in found:
                raise InputError(f"layer {text!r}", expected=f"one {name}", found=repr(word))
            found[name] = value
        layer = cls(module, **found)
        if (layer.projection or layer.normed) and not layer.block:
            raise InputError(
                f"layer {text!r}", expected="block-K, for queries, keys, values and normed", found=module
            )
        return layer

    @property
    def block(self) -> int:
        """The block's number from 1, or 0 for any other module."""
        found = BLOCK.fullmatch(self.module)
        return int(found[1]) if found else 0

    def __str__(self) -> str:
        words = [self.module, self.projection, "normed" if self.normed else "", self.part]
        words += [f"{self.side}px" if self.side else "", "x".join(map(str, self.pool or ()))]
        return ":".join(word for word in words if word)


def _read_word(word: str) -> tuple[str, Any]:
    """Return the field of `Layer` that a word sets, and its value."""
    if word in PROJECTIONS:
        return "projection", word
    if word in PARTS:
        return "part", word
    if word == "normed":
        return "normed", True
    if side := re.fullmatch(r"([1-9]\d*)px", word):
        return "side", int(side[1])
    if pool := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", word):
        return "pool", (int(pool[1]), int(pool[2]))
    known = ", ".join((*PROJECTIONS, "normed", *PARTS))
    raise InputError(
        "layer", expected=f"{known}, a size such as 425px or a grid such as 16x16", found=repr(word)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Backbone:
    """A frozen network, and what must be known of it to find its layers.

    Attributes
    ----------
    name : str
        Family and model with their weights' tag or hash.
    library : str
        Name and version.
    network : Module
        Dotted paths start here.
    run : callable
        Prepared images, a tensor of shape (rows, 3, height, width), through the network.
    prepare : callable
        uint8 images of shape (rows, height, width, 3) to prepared ones.
    blocks : sequence of Module
        Of a vision transformer, else empty.
    norm : Module
        Its last layer norm.
    prefix : int
        Tokens before the patches: the class token where there is one, then registers.
    has_cls : bool
    patches : Grid or None
        Its patches.
    sequence_first, channels_last : bool
        Whether tokens come as (tokens, rows, width), maps as (rows, height, width, channels).
    """

    name: str
    library: str
    network: nn.Module
    run: Callable[[Tensor], Any]
    prepare: Callable[[np.ndarray], Tensor]
    blocks: Sequence[nn.Module] = ()
    norm: nn.Module = field(default_factory=nn.Identity)
    prefix: int = 0
    has_cls: bool = False
    patches: Grid | None = None
    sequence_first: bool = False
    channels_last: bool = False


class LayerReader:
    """A layer of a backbone: uint8 images in, tokens out.

    Parameters
    ----------
    backbone : Backbone
    layer : Layer
    device : str

    Attributes
    ----------
    name : str
        Model, weights, layer, library version.
    tokens, width : int
    grid : Grid
    """

    def __init__(self, backbone: Backbone, layer: Layer, device: str = "cpu") -> None:
        self.backbone, self.layer, self.device = backbone, layer, device
        self.name = f"{backbone.name}:{layer}:{backbone.library}"
        self._module = self._find()
        with torch.no_grad():
            example, self.grid = self._read(backbone.prepare(np.zeros((1, 8, 8, 3), np.uint8)).to(device))
        self.tokens, self.width = example.shape[1:]

    @torch.no_grad()
    def embed(self, images: np.ndarray, *, batch: int = 16) -> np.ndarray:
        """Read the layer for images.

        Parameters
        ----------
        images : array of uint8 of shape (rows, height, width, 3)
            Resized to a square where they are not one of the network's size: all of the image is seen, nothing is cropped
            (open_clip: as the model's own transform does).
        batch : int
            Images at once.

        Returns
        -------
        array of float32 of shape (rows, tokens, width)
        """
        out = np.empty((len(images), self.tokens, self.width), np.float32)
        for start in range(0, len(images), batch):
            x = self.backbone.prepare(images[start : start + batch]).to(self.device)
            out[start : start + batch] = self._read(x)[0].float().cpu().numpy()
        return out

    def _find(self) -> nn.Module:
        layer, backbone = self.layer, self.backbone
        if layer.block:
            if layer.block > len(backbone.blocks):
                found = (
                    f"{len(backbone.blocks)} blocks"
                    if backbone.blocks
                    else "no blocks of a vision transformer"
                )
                raise InputError(
                    f"{backbone.name}",
                    expected=f"a vision transformer of at least {layer.block} blocks",
                    found=found,
                )
            return backbone.blocks[layer.block - 1]
        try:
            return backbone.network.get_submodule(layer.module)
        except AttributeError as error:
            children = ", ".join(name for name, _ in backbone.network.named_children())
            raise InputError(
                backbone.name,
                expected=f"a module's path, starting with one of {children}",
                found=repr(layer.module),
            ) from error

    def _read(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return tokens (rows, tokens, width) of prepared images, and their grid."""
        if self.layer.projection:
            output = self._project(x)
        else:
            output = _output_of(self._module, lambda: self.backbone.run(x), self.backbone.name)
            output = output.transpose(0, 1) if self.backbone.sequence_first and output.ndim == 3 else output
            if self.layer.normed:
                output = self.backbone.norm(output)
        tokens, grid = self._place(output)
        return _pool(tokens, grid, self.layer.pool) if self.layer.pool else (tokens, grid)

    def _project(self, x: Tensor) -> Tensor:
        """Return what a block's self-attention projects its input to, (rows, tokens, width)."""
        attention: Any = getattr(self._module, "attn", getattr(self._module, "self_attention", None))
        k = PROJECTIONS.index(self.layer.projection)
        name, run = self.backbone.name, lambda: self.backbone.run(x)
        if getattr(attention, "in_proj_weight", None) is not None:
            given = _output_of(attention, run, name, before=True)
            given = given.transpose(0, 1) if self.backbone.sequence_first else given
            weight, bias = attention.in_proj_weight.chunk(3)[k], attention.in_proj_bias
            return nn.functional.linear(given, weight, None if bias is None else bias.chunk(3)[k])
        if isinstance(getattr(attention, "qkv", None), nn.Linear):
            projected: Tensor = _output_of(attention.qkv, run, name).chunk(3, dim=-1)[k]
            return projected
        single = getattr(attention, ("q_proj", "k_proj", "v_proj")[k], None)
        if single is not None:
            return _output_of(single, run, name)
        raise InputError(
            name,
            expected=f"self-attention with projections, for {self.layer.projection!r}",
            found=type(attention).__name__,
        )

    def _place(self, output: Tensor) -> tuple[Tensor, Grid]:
        """Bring a module's output to (rows, tokens, width) with its grid."""
        layer, backbone = self.layer, self.backbone
        if layer.part and not (output.ndim == 3 and backbone.has_cls):
            raise InputError(
                f"{backbone.name}:{layer}",
                expected="a layer with a class token",
                found=f"shape {tuple(output.shape)}",
            )
        if output.ndim == 2:
            return output[:, None], Grid(0, 0, has_cls=True)
        if output.ndim == 4:
            maps = output if backbone.channels_last else output.permute(0, 2, 3, 1)
            return maps.flatten(1, 2), Grid(maps.shape[1], maps.shape[2])  # (rows, height * width, channels)
        patches = backbone.patches
        if output.ndim != 3 or patches is None or output.shape[1] != backbone.prefix + patches.tokens:
            raise InputError(
                f"{backbone.name}:{layer}",
                expected="a map, a vector, or one token a patch",
                found=f"shape {tuple(output.shape)}",
            )
        if layer.part == "cls":
            return output[:, :1], Grid(0, 0, has_cls=True)
        if layer.part == "with-cls":
            return torch.cat([output[:, :1], output[:, backbone.prefix :]], dim=1), replace(
                patches, has_cls=True
            )
        return output[:, backbone.prefix :], patches


def _pool(tokens: Tensor, grid: Grid, pool: tuple[int, int]) -> tuple[Tensor, Grid]:
    """Average the grid to `pool` rows and columns; padding has no part in the averages."""
    height, width = pool
    if height > grid.height or width > grid.width:
        raise InputError(
            "layer", expected=f"a grid of at most {grid.height}x{grid.width}", found=f"{height}x{width}"
        )
    n_cls, seen = int(grid.has_cls), torch.from_numpy(grid.mask[int(grid.has_cls) :]).to(tokens)
    maps = (tokens[:, n_cls:] * seen[:, None]).transpose(1, 2).unflatten(2, (grid.height, grid.width))
    share = nn.functional.adaptive_avg_pool2d(
        seen.view(1, grid.height, grid.width), pool
    )  # (1, height, width)
    mean = nn.functional.adaptive_avg_pool2d(maps, pool) / share.clamp_min(1e-6)
    kept = None if grid.seen is None else share[0].cpu().numpy() > 0
    return torch.cat([tokens[:, :n_cls], mean.flatten(2).transpose(1, 2)], dim=1), Grid(
        height, width, grid.has_cls, kept
    )


class _Reached(Exception):
    """Carries what a hooked module was given or returned out of the network."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _output_of(module: nn.Module, run: Callable[[], Any], name: str, *, before: bool = False) -> Tensor:
    """Run a network as far as `module` and return its output, or its first input."""

    def stop(_module: nn.Module, given: tuple[Any, ...], output: Any = None) -> None:
        raise _Reached(given[0] if before else output)

    handle = module.register_forward_pre_hook(stop) if before else module.register_forward_hook(stop)
    try:
        run()
    except _Reached as reached:
        if isinstance(reached.value, Tensor):
            return reached.value
        raise InputError(
            name, expected="a layer that returns one tensor", found=type(reached.value).__name__
        ) from None
    finally:
        handle.remove()
    raise InputError(name, expected="a layer that images go through", found=type(module).__name__)


def square(
    images: np.ndarray,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    interpolation: str = "bicubic",
    multiple: int = 1,
) -> Tensor:
    """Resize images to squares, normalise them, and fill up with zeros at the right and the bottom.

    Parameters
    ----------
    images : array of uint8 of shape (rows, height, width, 3)
        Those of the right size are not resampled.
    side : int
        Pixels.
    mean, std : sequence of float
        Of the three colours, in [0, 1].
    interpolation : str
    multiple : int
        Of which the padded side is one (the patch size).

    Returns
    -------
    Tensor of shape (rows, 3, padded side, padded side)
    """
    if images.dtype != np.uint8:
        raise InputError("`images`", expected="type uint8", found=str(images.dtype))
    check_shape("images", images, "rows height width colours", colours=3)
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    if images.shape[1:3] != (side, side):
        x = functional.resize(x, [side, side], InterpolationMode(interpolation), antialias=True)
    x = functional.normalize(x.float().div(255), list(mean), list(std))
    beyond = -side % multiple
    return nn.functional.pad(x, (0, beyond, 0, beyond))


def padded_grid(side: int, patch: int) -> Grid:
    """Return the grid of patches of a square filled up to a multiple of the patch; those mostly padding are not seen.

    Examples
    --------
    >>> grid = padded_grid(425, 14)  # 425 = 30 * 14 + 5
    >>> grid.tokens, int(grid.mask.sum())
    (961, 900)
    """
    n = -(-side // patch)
    inside = np.clip(side - patch * np.arange(n), 0, patch) / patch
    seen = np.outer(inside, inside) >= 0.5
    return Grid(n, n, seen=None if seen.all() else seen)
