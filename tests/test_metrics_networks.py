"""The published network scores, run end to end on random weights against torchvision called by hand; and the catalogue."""

import inspect
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.distance import correlation
from torchvision import models

from braindecode_suite.core.errors import InputError, MissingWeights, UnknownName
from braindecode_suite.metrics import METRICS
from braindecode_suite.metrics.identification import same_class, two_way_identification
from braindecode_suite.metrics.networks import (
    PUBLISHED,
    alexnet2,
    alexnet5,
    available_scorers,
    circular_scorers,
    network_features,
    network_score,
    swav,
)

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
NETWORKS = ["alexnet2", "alexnet5", "inception", "clip", "effnet", "swav"]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    return truth, (0.6 * truth + 0.4 * rng.integers(0, 256, truth.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def networks():
    """Random weights in files of the published architectures, and the networks they came from."""
    torch.manual_seed(0)
    built = {"alexnet": models.alexnet(), "swav": models.resnet50()}
    with TemporaryDirectory() as folder:
        for name, network in built.items():
            state = {
                key: value for key, value in network.eval().state_dict().items() if not key.startswith("fc.")
            }
            torch.save(state, f"{folder}/{name}.pth")
        yield Path(folder), built


def prepared(images, *sizes):
    """Images of shape (n, height, width, 3) as the network gets them, resized to each of `sizes` in turn."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    for size in sizes:
        x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    return (x - MEAN[:, None, None]) / STD[:, None, None]


@pytest.mark.parametrize(("score", "last"), [(alexnet2, 4), (alexnet5, 11)])
def test_alexnet_layers_score_by_identification(images, networks, score, last):
    folder, built = networks
    with torch.no_grad():
        true, recon = (
            built["alexnet"].features[: last + 1](prepared(i, 256)).flatten(1).numpy() for i in images
        )
    file = folder / "alexnet.pth"
    assert_allclose(score(*images, weights=file), two_way_identification(true, recon))
    mask = same_class(["a", "a", "b", "b"])
    expected = two_way_identification(true, recon, distractors=mask)
    assert_allclose(score(*images, weights=file, distractors=mask), expected)


def test_swav_scores_by_correlation_distance_under_the_nsd_protocol(images, networks):
    folder, built = networks

    def pooled(pictures):
        with torch.no_grad():
            whole = torch.nn.Sequential(*list(built["swav"].children())[:-1])  # all but the classifier
            return whole(prepared(pictures, 256, 224)).flatten(1).numpy()

    expected = [correlation(a, b) for a, b in zip(pooled(images[0]), pooled(images[1]), strict=True)]
    found = swav(*images, protocol="nsd", weights=folder / "swav.pth")
    assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(InputError, match="None for a distance between pairs; found a mask"):
        swav(*images, weights=folder / "swav.pth", distractors=np.ones((4, 4), bool))


def test_features_do_not_depend_on_the_batch(images, networks, monkeypatch):
    file = networks[0] / "swav.pth"
    together = network_features("swav", images[0], weights=file)
    monkeypatch.setattr("braindecode_suite.metrics.networks.BATCH", 2)
    assert_allclose(network_features("swav", images[0], weights=file), together, rtol=1e-3, atol=1e-5)


def test_grey_images_are_scored_as_the_same_grey_in_colour(networks):
    grey = np.random.default_rng(0).random((2, 28, 28))
    file = networks[0] / "alexnet.pth"
    colour = np.repeat(grey[..., None], 3, axis=3)
    assert_allclose(
        network_features("alexnet2", grey, weights=file), network_features("alexnet2", colour, weights=file)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_absent_weights_are_an_error_that_says_what_is_missing(name, images, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("braindecode_suite.core.networks._in_hub_cache", lambda trained: None)
    with pytest.raises(MissingWeights, match=f"network '{name}': expected .* cache; found none"):
        network_score(name, *images)
    listed = {scorer.name: scorer for scorer in available_scorers()}
    assert not listed[name].available
    assert "expected" in listed[name].note


def test_all_eight_published_scores_are_listed_and_pixels_need_no_network():
    listed = {scorer.name: scorer for scorer in available_scorers()}
    assert {"pixcorr", "ssim", "tiny-eval", *PUBLISHED} == set(listed)
    assert listed["pixcorr"].available
    assert listed["ssim"].available


def test_unknown_network_and_empty_set_are_refused(images, networks):
    with pytest.raises(UnknownName, match="did you mean 'alexnet2'"):
        network_score("alexnet-2", *images)
    with pytest.raises(InputError, match="at least one image; found none"):
        network_features("swav", images[0][:0], weights=networks[0] / "swav.pth")


@pytest.mark.parametrize(
    ("networks", "circular"),
    [
        (["ViT-L-14/openai"], {"clip"}),
        (["ViT-bigG-14/laion2b_s39b_b160k", "ViT-L-14/openai"], {"clip"}),
        (["ViT-L-14/0123456789ab"], {"clip"}),  # local weights of the architecture may be the published ones
        (["ViT-L-14/laion2b_s32b_b82k"], set()),
        (["ViT-B-32/openai"], set()),
        (["tiny-clip/077967f47797"], set()),
        (["alexnet/imagenet1k_v1"], {"alexnet2", "alexnet5"}),
        ([], set()),
    ],
)
def test_a_score_is_circular_where_its_network_is_among_those_in_use(networks, circular):
    assert circular_scorers(networks) == circular


def test_identification_has_an_analytic_chance_and_distances_have_none():
    assert {name for name, score in PUBLISHED.items() if score.chance == 0.5} == set(NETWORKS[:4])
    assert PUBLISHED["swav"].chance is None


def test_every_metric_of_the_catalogue_is_a_documented_function():
    for name in METRICS:
        assert inspect.isfunction(METRICS[name])
        assert inspect.getdoc(METRICS[name])
    assert METRICS["retrieval_brain_to_image_top1"] is METRICS["retrieval-brain-to-image-top1"]
    with pytest.raises(UnknownName, match="did you mean 'pixcorr'"):
        METRICS["pixcor"]


def test_listing_the_catalogue_imports_nothing_heavy():
    code = "import sys; from braindecode_suite.metrics import METRICS; list(METRICS); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
