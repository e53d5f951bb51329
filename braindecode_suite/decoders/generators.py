"""Images from latents by Kandinsky 2.2, and the only place where diffusers is imported.

The tiny decoder of the embedded default and the released one are the same classes, ``KandinskyV22Pipeline`` and
``KandinskyV22Img2ImgPipeline`` over shared components. What must be known of them:

- the condition is one pooled image embedding; guidance needs that of "no image" beside it;
- text-to-image returns tensors in [-1, 1], image-to-image in [0, 1]: both are asked for arrays, which are in [0, 1];
- image-to-image encodes its start with the movq; a tensor below zero would be taken for one in [-1, 1].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from pydantic import Field, PositiveInt
from safetensors import SafetensorError
from torch import Tensor

from braindecode_suite.core.cache import ArrayCache
from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.config import Config, build
from braindecode_suite.core.embed import embed_cached
from braindecode_suite.core.errors import InputError, MissingWeights
from braindecode_suite.core.files import data_hash, file_sha256
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.networks import ASSETS, OpenClip, OpenClipSource, find_open_clip
from braindecode_suite.core.study import Stimuli
from braindecode_suite.decoders import GENERATORS
from braindecode_suite.decoders.seeds import candidate_seed

try:
    import diffusers
    from diffusers import KandinskyV22Img2ImgPipeline, KandinskyV22Pipeline, UNet2DConditionModel, VQModel
    from diffusers.utils.torch_utils import randn_tensor
except ModuleNotFoundError as error:
    raise InputError(
        "diffusers",
        expected="the generation extras",
        found=f"no package {error.name!r}",
        hint="pip install 'braindecode_suite[generation]'",
    ) from error

KANDINSKY_22 = "kandinsky-community/kandinsky-2-2-decoder"
KANDINSKY_22_CLIP = "ViT-bigG-14/laion2b_s39b_b160k"
TINY = {"steps": 20, "guidance": 2.0, "strength": 0.8, "size": 64, "batch": 32, "negative": "zeros"}
"""How the decoder of the embedded default draws, where its folder does not say otherwise."""


class KandinskyConfig(Config):
    """How images are drawn.

    Attributes
    ----------
    steps : int
        Steps of the scheduler.
    guidance : float
        Scale of classifier-free guidance; 1 is none.
    strength : float
        Share of the steps that are run from the low-level image; at 1 nothing is left of it but its mean.
    size : int
        Side of the image in pixels.
    batch : int
        Images at once; does not change them beyond rounding.
    """

    steps: PositiveInt = 50
    guidance: Annotated[float, Field(ge=1)] = 4.0
    strength: Annotated[float, Field(gt=0, le=1)] = 0.85
    size: PositiveInt = 512
    batch: PositiveInt = 16


class MovqTarget:
    """The latent space of a generator's autoencoder: one token a position, row by row, as wide as its channels.

    Parameters
    ----------
    movq : VQModel
    size : int
        Side of the images in pixels; others are resized.
    identity : str
        Model and weights, for the name.
    cache : ArrayCache
    batch : int
    """

    def __init__(self, movq: Any, size: int, identity: str, cache: ArrayCache, batch: int = 16) -> None:
        factor = 2 ** (len(movq.config.block_out_channels) - 1)
        if size % factor:
            raise InputError("`size`", expected=f"a multiple of {factor} pixels", found=str(size))
        self.movq, self.size, self.side, self.cache, self.batch = movq, size, size // factor, cache, batch
        self.tokens, self.width = self.side**2, int(movq.config.vq_embed_dim or movq.config.latent_channels)
        self.name = f"movq:{identity}:{size}px:diffusers-{version('diffusers')}"

    def embed(self, stimuli: Stimuli, ids: Sequence[str]) -> Latents:
        """Return the true latents of the unique `ids`, in order of first appearance, from the cache if they are there."""
        return embed_cached(
            self, self.cache, stimuli, ids, lambda some: self.embed_images(stimuli.images(some))
        )

    @torch.no_grad()
    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Encode images without a cache.

        Parameters
        ----------
        images : array of uint8 of shape (rows, height, width, 3)

        Returns
        -------
        array of float32 of shape (rows, tokens, width)
        """
        check_shape("images", images, "rows height width colours", colours=3)
        if images.dtype != np.uint8:
            raise InputError("`images`", expected="type uint8", found=str(images.dtype))
        out = np.empty((len(images), self.tokens, self.width), np.float32)
        for start in range(0, len(images), self.batch):
            x = (
                torch.from_numpy(np.ascontiguousarray(images[start : start + self.batch])).permute(0, 3, 1, 2)
                / 255
            )
            if tuple(x.shape[2:]) != (self.size, self.size):
                x = _resized(x, self.size)
            latents = self.movq.encode(x.to(self.movq.device) * 2 - 1).latents  # (rows, width, side, side)
            out[start : start + self.batch] = latents.flatten(2).transpose(1, 2).float().cpu().numpy()
        return out

    @torch.no_grad()
    def decode(self, values: np.ndarray) -> Tensor:
        """Decode latents, unquantised as the pipelines do.

        Parameters
        ----------
        values : array of shape (rows, tokens, width)

        Returns
        -------
        Tensor of shape (rows, 3, size, size)
            In [0, 1].
        """
        check_shape("values", values, "rows tokens width", tokens=self.tokens, width=self.width)
        parts = []
        for start in range(0, len(values), self.batch):
            x = torch.from_numpy(np.array(values[start : start + self.batch], np.float32)).transpose(1, 2)
            x = x.unflatten(2, (self.side, self.side)).to(self.movq.device)  # (rows, width, side, side)
            parts.append(
                (self.movq.decode(x, force_not_quantize=True).sample.float() / 2 + 0.5).clamp(0, 1).cpu()
            )
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class BestOf:
    """What `generate_best` chose.

    Attributes
    ----------
    images : array of uint8 of shape (rows, height, width, 3)
    chosen : array of int of shape (rows,)
    similarities : array of shape (rows, candidates)
        Cosine of each candidate's embedding with the predicted one; with a predicted caption, the weighted mean of both cosines.
    """

    images: np.ndarray
    chosen: np.ndarray
    similarities: np.ndarray


class KandinskyGenerator:
    """Draw images from predicted image embeddings, starting from a low-level image where there is one.

    Parameters
    ----------
    pipeline : KandinskyV22Pipeline
    input_target : str
        Name of the target whose latents condition the images; others are refused.
    negative : array of shape (width,)
        The embedding that stands for "no image" in guidance.
    identity : str
        Model and weights.
    cache : ArrayCache
        For the autoencoder's latents of stimuli.
    config : KandinskyConfig
    device : str

    Attributes
    ----------
    name : str
    inputs : dict of str to str
    init_target : MovqTarget
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        input_target: str,
        negative: np.ndarray,
        identity: str,
        cache: ArrayCache,
        config: KandinskyConfig,
        device: str = "cpu",
    ) -> None:
        width = int(pipeline.unet.config.encoder_hid_dim)
        check_shape("negative", negative, "width", width=width)
        if int(config.steps * config.strength) < 1:
            raise InputError(
                "`strength`", expected="at least one step", found=f"{config.strength} of {config.steps}"
            )
        parts = pipeline.components
        four = pipeline.movq.config.latent_channels == 4
        from_image: Any = KandinskyV22Img2ImgPipeline if four else AnyChannelsImg2Img
        self.from_noise, self.from_image = pipeline.to(device), from_image(**parts).to(device)
        for pipe in (self.from_noise, self.from_image):
            pipe.set_progress_bar_config(disable=True)
            pipe.unet.eval().requires_grad_(False)
            pipe.movq.eval().requires_grad_(False)
        self.name, self.width, self.config, self.device = identity, width, config, device
        self.inputs: Mapping[str, str] = {"image": input_target}
        self.init_target = MovqTarget(pipeline.movq, config.size, identity, cache, config.batch)
        self._negative = torch.from_numpy(np.asarray(negative, np.float32))

    def generate(self, latents: Mapping[str, Latents], seeds: Sequence[int]) -> np.ndarray:
        """Draw one image a row.

        Parameters
        ----------
        latents : dict of role to Latents
            ``image`` conditions; with ``init`` the image starts from the decoded low-level one. Other roles are not read.
        seeds : sequence of int
            One a row; a row's image depends on nothing but its latents and its seed.

        Returns
        -------
        array of uint8 of shape (rows, size, size, 3)
        """
        condition = self._checked(latents)
        if len(seeds) != len(condition):
            raise InputError("`seeds`", expected=f"{len(condition)}, one a row", found=str(len(seeds)))
        start_images = self.init_target.decode(latents["init"].values) if "init" in latents else None
        size, batch = self.config.size, self.config.batch
        out = np.empty((len(seeds), size, size, 3), np.uint8)
        for start in range(0, len(seeds), batch):
            rows = slice(start, start + batch)
            embeds = torch.from_numpy(np.array(condition.values[rows, 0], np.float32))  # (rows, width)
            shared: dict[str, Any] = {
                "image_embeds": embeds.to(self.device),
                "negative_image_embeds": self._negative.expand(len(embeds), -1).to(self.device),
                "height": size,
                "width": size,
                "num_inference_steps": self.config.steps,
                "guidance_scale": self.config.guidance,
                "generator": [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds[rows]],
                "output_type": "np",
            }
            if start_images is None:
                images = self.from_noise(**shared).images
            else:
                images = self.from_image(
                    image=start_images[rows], strength=self.config.strength, **shared
                ).images
            out[rows] = _to_uint8(images)
        return out

    def decode_init(self, latents: Latents) -> np.ndarray:
        """Return the low-level branch's own, blurry images: uint8 of shape (rows, size, size, 3)."""
        self._check_target("init", latents, self.init_target.name)
        return _to_uint8(self.init_target.decode(latents.values).permute(0, 2, 3, 1).numpy())

    def generate_best(
        self,
        latents: Mapping[str, Latents],
        seeds: Sequence[int],
        *,
        n_candidates: int,
        chooser: Target,
        predicted: Latents,
        ceiling: bool = False,
        text: Latents | None = None,
        text_weight: float = 0.0,
    ) -> BestOf:
        """Draw several candidates a row and keep the one nearest to the *predicted* embedding, not to the true image.

        Parameters
        ----------
        latents, seeds
            As for `generate`; candidate 0 is the image that `generate` draws.
        n_candidates : int
        chooser : Target
            Embeds the candidates.
        predicted : Latents
            What the brain says in the space of `chooser` (role ``retrieval``), one row an image.
        ceiling : bool
            Choose by true latents instead: only for the control ``true-latent``, the ceiling of the generator.
        text : Latents, optional
            What the brain says of the captions, in the space that the chooser's network shares between images and texts; candidates
            are chosen by ``(1 - text_weight) * cos(candidate, predicted) + text_weight * cos(candidate, text)``.
        text_weight : float
        """
        if predicted.kind != ("true" if ceiling else "predicted"):
            raise InputError(
                "`predicted`",
                expected="true latents, for the ceiling" if ceiling else "latents predicted from the brain",
                found=f"{predicted.kind} latents",
                hint="" if ceiling else "choosing by the true image would leak it into the reconstruction",
            )
        if predicted.target != chooser.name:
            raise InputError(
                "`predicted`", expected=f"latents of {chooser.name!r}", found=repr(predicted.target)
            )
        if n_candidates < 1 or len(predicted) != len(seeds):
            raise InputError(
                "`n_candidates`, `predicted`",
                expected=f"at least 1, and {len(seeds)} rows",
                found=f"{n_candidates}, and {len(predicted)} rows",
            )
        wanted = _unit(predicted.flat)
        if text is not None:
            if text.kind != predicted.kind or text.values.shape != predicted.values.shape:
                raise InputError(
                    "`text`",
                    expected=f"{predicted.kind} latents of shape {predicted.values.shape}",
                    found=f"{text.kind} latents of shape {text.values.shape}",
                )
            if not 0 <= text_weight <= 1:
                raise InputError("`text_weight`", expected="between 0 and 1", found=f"{text_weight:g}")
            # a dot product is linear, so that the sum of two cosines is one product
            wanted = (1 - text_weight) * wanted + text_weight * _unit(text.flat)
        best: np.ndarray | None = None
        similarities = np.empty((len(seeds), n_candidates))
        for k in range(n_candidates):
            images = self.generate(latents, [candidate_seed(seed, k) for seed in seeds])
            found = _unit(chooser.embed_images(images).reshape(len(images), -1))
            similarities[:, k] = (found * wanted).sum(axis=1)
            if best is None:
                best = images
            else:
                better = similarities[:, k] > similarities[:, :k].max(axis=1)
                best[better] = images[better]
        assert best is not None
        return BestOf(best, similarities.argmax(axis=1), similarities)

    def _checked(self, latents: Mapping[str, Latents]) -> Latents:
        if "image" not in latents:
            raise InputError("`latents`", expected="the role 'image'", found=", ".join(latents) or "none")
        condition = latents["image"]
        self._check_target("image", condition, self.inputs["image"])
        check_shape("image latents", condition.values, "rows tokens width", tokens=1, width=self.width)
        if "init" in latents:
            self._check_target("init", latents["init"], self.init_target.name)
            if list(latents["init"].ids) != list(condition.ids):
                raise InputError(
                    "`latents`", expected="the same rows for 'image' and 'init'", found="other ids"
                )
        return condition

    def _check_target(self, role: str, latents: Latents, expected: str) -> None:
        if latents.target != expected:
            raise InputError(
                f"generator {self.name!r}, role {role!r}",
                expected=f"latents of {expected!r}",
                found=repr(latents.target),
            )


class AnyChannelsImg2Img(KandinskyV22Img2ImgPipeline):
    """The image-to-image pipeline for autoencoders of any number of channels; diffusers' own takes latents by their four."""

    scheduler: Any

    def prepare_latents(
        self,
        image: Tensor,
        timestep: Tensor,
        batch_size: int,
        num_images_per_prompt: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: Any = None,
    ) -> Tensor:
        """Add the first step's noise to latents of shape (rows, channels, height, width)."""
        image = image.to(device=device, dtype=dtype)
        noise = randn_tensor(image.shape, generator=generator, device=device, dtype=dtype)
        noisy: Tensor = self.scheduler.add_noise(image, noise, timestep)
        return noisy


def load_kandinsky(
    source: Path | str,
    *,
    clip: OpenClipSource,
    cache_dir: Path,
    device: str = "cpu",
    defaults: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> KandinskyGenerator:
    """Load a Kandinsky 2.2 decoder from a folder or from the local hub cache; nothing is downloaded.

    Parameters
    ----------
    source : Path or str
        A folder as diffusers saves pipelines, or a hub name. A file ``generator.json`` in the folder may hold
        settings (`KandinskyConfig`); ``target``, the model whose embeddings it was trained on (its name, or name and
        weights' hash); and ``negative``: ``zeros``, or ``zero-image`` (the embedding of an all-zero input, Kandinsky's
        own way and the default).
    clip : OpenClipSource
        The open_clip model whose pooled embedding conditions the decoder.
    cache_dir : Path
    device : str
    defaults : dict, optional
        What holds where ``generator.json`` says nothing.
    settings : dict, optional
        Changes to the settings of the folder.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _hub_folder(str(source))
    card = {**(defaults or {}), **_read_card(folder)}
    trained_on = str(card.pop("target", clip.identity))
    if clip.identity not in trained_on and clip.identity.rpartition("/")[0] != trained_on:
        raise InputError(
            folder / "generator.json",
            expected=f"a decoder trained on embeddings of {clip.identity}",
            found=trained_on,
            hint="train the decoder again, or use the image model it was trained on",
        )
    negative = card.pop("negative", "zero-image")
    known = {key: card[key] for key in KandinskyConfig.model_fields if key in card}
    config = build(KandinskyConfig, {**known, **(settings or {})}, "generator settings")
    pipeline = _load_pipeline(folder)
    if negative == "zeros":
        empty = np.zeros(int(pipeline.unet.config.encoder_hid_dim), np.float32)
    elif negative == "zero-image":
        empty = OpenClip(clip, device).embed_zero()
    else:
        raise InputError(
            folder / "generator.json", expected="negative: zeros or zero-image", found=repr(negative)
        )
    return KandinskyGenerator(
        pipeline,
        input_target=clip.target_name("pooled"),
        negative=empty,
        identity=f"{Path(source).name}/{_weights_hash(folder)}",
        cache=ArrayCache(cache_dir),
        config=config,
        device=device,
    )


def tiny_kandinsky(
    cache_dir: Path,
    weights: Path | None = None,
    clip_weights: Path | None = None,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> KandinskyGenerator:
    """Load the decoder of the embedded default; it draws from tiny-clip's pooled embedding."""
    folder = weights if weights is not None else ASSETS / "tiny-kandinsky"
    clip = find_open_clip("tiny-clip", clip_weights)
    return load_kandinsky(
        folder, clip=clip, cache_dir=cache_dir, device=device, defaults=TINY, settings=settings
    )


def kandinsky_2_2(
    cache_dir: Path,
    weights: Path | None = None,
    clip_weights: Path | None = None,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> KandinskyGenerator:
    """Load the released decoder (from the local hub cache or a folder); it draws from ViT-bigG-14's pooled embedding."""
    clip = find_open_clip(KANDINSKY_22_CLIP, clip_weights)
    source = weights if weights is not None else KANDINSKY_22
    return load_kandinsky(source, clip=clip, cache_dir=cache_dir, device=device, settings=settings)


def make_generator(
    name: str,
    cache_dir: Path,
    weights: Path | None = None,
    clip_weights: Path | None = None,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> KandinskyGenerator:
    """Make a generator of the catalogue by name.

    Parameters
    ----------
    name : str
        ``tiny-kandinsky`` or ``kandinsky-2-2``.
    cache_dir : Path
        Where embedded stimuli are kept.
    weights, clip_weights : Path, optional
        Local folders or files of the decoder and of the open_clip model it draws from.
    device : str
    settings : dict, optional
        Changes to the decoder's own settings, see `KandinskyConfig`.
    """
    generator: KandinskyGenerator = GENERATORS[name](cache_dir, weights, clip_weights, device, settings)
    return generator


def _load_pipeline(folder: Path) -> Any:
    """Load the pipeline part by part, which is what `from_pretrained` does, without its progress bar; in float32."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        scheduler = getattr(diffusers, index["scheduler"][1])
        if not (isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)):
            raise ValueError(f"{index['scheduler'][1]} is no scheduler")
        networks = [
            cls.from_pretrained(folder, subfolder=part, local_files_only=True, use_safetensors=True)
            for part, cls in (("unet", UNet2DConditionModel), ("movq", VQModel))
        ]
        unet, movq = (network if network.dtype == torch.float32 else network.float() for network in networks)
        return KandinskyV22Pipeline(
            unet=unet,
            movq=movq,
            scheduler=scheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True),
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        IndexError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise InputError(
            folder,
            expected="a Kandinsky 2.2 decoder saved by diffusers",
            found=" ".join(str(error).split())[:200],
        ) from error


def _hub_folder(name: str) -> Path:
    """Return the snapshot of a hub model in the local cache."""
    index = None
    if name.count("/") == 1 and not name.startswith(("/", ".")):
        index = try_to_load_from_cache(name, "model_index.json")
    if not isinstance(index, str):
        raise MissingWeights(
            f"generator {name}",
            expected="a folder, or a model in the local hub cache",
            found="neither",
            hint="download it once where there is a network, or give a local folder as `weights`",
        )
    return Path(index).parent


def _read_card(folder: Path) -> dict[str, Any]:
    file = folder / "generator.json"
    if not file.is_file():
        return {}
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(file, expected="JSON", found=str(error)) from error
    if not isinstance(card, dict):
        raise InputError(file, expected="a JSON object", found=type(card).__name__)
    return card


def _weights_hash(folder: Path) -> str:
    files = sorted([*folder.glob("unet/*.safetensors"), *folder.glob("movq/*.safetensors")])
    return data_hash([file_sha256(file) for file in files])[:12]


def _resized(x: Tensor, size: int) -> Tensor:
    bigger = torch.nn.functional.interpolate(x, (size, size), mode="bicubic", antialias=True)
    return bigger.clamp(0, 1)


def _to_uint8(images: np.ndarray) -> np.ndarray:
    """Turn floats in [0, 1] into uint8."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))
