"""Small random image models in the folder layouts of the real ones, shared by the tests of targets and generators."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: more threads would wait for each other
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import numpy as np
import pytest

WORDS = ("a", "red", "blue", "dog", "cup", "on", "the", "beach")


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random open_clip vision transformer (32 pixels, 16 patches, width 16) with a tokenizer of its own."""
    import open_clip
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clips") / "random-clip"
    folder.mkdir()
    vocabulary = {word: k for k, word in enumerate(["<pad>", "<unk>", "<start>", *WORDS, "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=12,
    ).save_pretrained(folder)
    text = {
        "context_length": 12,
        "vocab_size": len(vocabulary),
        "hf_tokenizer_name": ".",
        "width": 16,
        "heads": 2,
    }
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 24, "head_width": 12, "patch_size": 8},
            "text_cfg": {**text, "layers": 1},
        },
        "preprocess_cfg": {
            "size": 32,
            "mean": [0.5, 0.4, 0.3],
            "std": [0.5, 0.6, 0.7],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def _kandinsky(folder: Path, channels: int) -> Path:
    import torch
    from diffusers import (
        DDIMScheduler,
        KandinskyV22Pipeline,
        UNet2DConditionModel,
        VQModel,
    )

    with torch.random.fork_rng():
        torch.manual_seed(1)
        movq = VQModel(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 16),
            latent_channels=channels,
            sample_size=64,
            num_vq_embeddings=2,
            norm_num_groups=4,
            scaling_factor=1.0,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            out_channels=2 * channels,
            block_out_channels=(16, 32),
            down_block_types=("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
            layers_per_block=1,
            encoder_hid_dim=16,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=16,
            attention_head_dim=8,
            addition_embed_type="image",
            norm_num_groups=4,
            resnet_time_scale_shift="scale_shift",
        )
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipeline: Any = KandinskyV22Pipeline(unet=unet, movq=movq, scheduler=scheduler)
    pipeline.save_pretrained(folder)
    card = {"steps": 4, "guidance": 2.0, "strength": 0.75, "size": 64, "batch": 4}
    (folder / "generator.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def kandinsky_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Kandinsky 2.2 decoder for 64 x 64 images, four latent channels, conditioned on 16 features."""
    return _kandinsky(tmp_path_factory.mktemp("generators") / "random-kandinsky", 4)


@pytest.fixture(scope="session")
def kandinsky_folder_of_eight_channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with eight latent channels."""
    return _kandinsky(tmp_path_factory.mktemp("generators") / "random-kandinsky-8", 8)


@pytest.fixture
def small_stimuli() -> SimpleNamespace:
    """Six random images of 40 x 48 pixels with captions; `asked` counts how often each image was read."""
    rng = np.random.default_rng(5)
    ids = [f"im{k}" for k in range(6)]
    pictures = dict(zip(ids, rng.integers(0, 256, (6, 40, 48, 3), dtype=np.uint8), strict=True))
    asked: dict[str, int] = dict.fromkeys(ids, 0)

    def images(some: list[str]) -> np.ndarray:
        for i in some:
            asked[i] += 1
        return np.stack([pictures[i] for i in some])

    def captions(i: str) -> list[str]:
        return ["a red dog", "a dog on the beach"][: 1 + int(i[2:]) % 2]

    return SimpleNamespace(
        ids=ids,
        images=images,
        captions=captions,
        attributes=None,
        fingerprint="six random images",
        asked=asked,
    )


@pytest.fixture(scope="session")
def simulated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated study of three subjects, size ``seconds``, betas in both formats. Never changed: copy it to break it."""
    from braindecode_suite.datasets.simulated_nsd import SIMULATED_NSD

    folder = tmp_path_factory.mktemp("simulated-nsd")
    SIMULATED_NSD.write(folder, size="seconds", formats=["hdf5", "nii.gz"])
    return folder


@pytest.fixture(scope="session")
def stream_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small MEG study and a model of growing windows saved with what live decoding needs; never changed."""
    from tests.stream_world import make_world

    return make_world(tmp_path_factory.mktemp("stream"))


FAST_RUN = (
    "simulation={size: seconds, formats: [hdf5, nii.gz]}",
    "n_seeds=2",
    "gallery_sizes=[20]",
    "n_bootstrap=200",
    "n_relabellings=200",
    "n_images=10",
    "n_examples=4",
    "published=false",
    "encoder_settings.backbone={hidden: 16, n_blocks: 1}",
    "encoder_settings.projector_hidden=16",
    "encoder_settings.training={epochs: 3, patience: 0, checkpoint_seconds: 0}",
    "encoder_settings.sampling_steps=2",
)
"""Settings of a run in seconds; what it scores says nothing."""


@pytest.fixture(scope="session")
def fast_run(open_clip_folder: Path, kandinsky_folder: Path) -> list[str]:
    """Options of ``bds run simulated-nsd`` for seconds on random image models."""
    weights = {
        "retrieval": open_clip_folder,
        "image": open_clip_folder,
        "generator_clip": open_clip_folder,
        "generator": kandinsky_folder,
    }
    settings = [*FAST_RUN, *(f"weights.{role}={path}" for role, path in weights.items())]
    return ["--device", "cpu", *(word for setting in settings for word in ("--set", setting))]


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, simulated_folder: Path, fast_run: list[str]
) -> Path:
    """The results folder of a finished run of subject 01; tests leave it as it is."""
    from braindecode_suite.cli import main

    out = tmp_path_factory.mktemp("runs") / "out"
    words = ["run", "simulated-nsd", str(out), "participant", "--participant-label", "01"]
    assert main([*words, "--data-dir", str(simulated_folder), *fast_run]) == 0
    return out
