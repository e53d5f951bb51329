"""The workflow `encode` on the smallest simulated study, with the attention-routing encoder and two rivals of the tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.cli import main
from braindecode_suite.core.score import IDENTITY, read_scores
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.metrics.encoding import encoding_r, encoding_r2_nc

STEM = "sub-01/decoding/sub-01_desc-encode_"
LAYERS = '["tiny-clip:block-1", "tiny-clip:block-4"]'
FAST = (
    "simulation={size: seconds, formats: [hdf5, nii.gz]}",
    "rivals=[pooled-rival, weak-rival]",
    "n_seeds=2",
    "n_bootstrap=200",
    "n_permutations=1000",
    "choosing_share=0.25",
    "n_examples=3",
    "settings.attention-routing={network: {width: 16, heads: 2, feed_forward: 16}, training: {epochs: 2, patience: 0}}",
)


@pytest.fixture(scope="module")
def rivals() -> Iterator[None]:
    entries = IMAGE_ENCODERS._entries
    entries["pooled-rival"] = "tests.encoding_rivals:PooledRival"
    entries["weak-rival"] = "tests.encoding_rivals:WeakRival"
    yield
    del entries["pooled-rival"], entries["weak-rival"]


def words(out: Path, data: Path, *more: str) -> list[str]:
    settings = [word for setting in (*FAST, *more) for word in ("--set", setting)]
    first = ["run", "simulated-nsd", str(out), "participant", "--participant-label", "01", "--data-dir", str(data)]
    return [*first, "--workflow", "encode", "--device", "cpu", *settings]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, simulated_folder: Path, rivals: None) -> Path:
    out = tmp_path_factory.mktemp("encode") / "out"
    assert main(words(out, simulated_folder)) == 0
    return out


def test_it(finished: Path) -> None:
    print(finished)
