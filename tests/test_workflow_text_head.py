"""Captions beside images: ties, the weight that validation images choose, and what the sum of both heads scores."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents
from braindecode_suite.metrics.retrieval import TrainingReference, ranks, similarity
from braindecode_suite.workflows.fitting import Fitted
from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.reconstruction import Drawing, _reranking
from braindecode_suite.workflows.scoring import Settings
from braindecode_suite.workflows.text_head import (
    WEIGHTS,
    check_captions,
    check_text_target,
    choose_weight,
    score_text,
    text_facts,
    tie_captions,
)

TOP1 = "retrieval_brain_to_image_top1"
SIZES = {"train": 40, "validation": 20, "test": 16}
SETTINGS = Settings(subject="01", split="made", gallery_sizes=(4,), n_bootstrap=100, n_permutations=1000)


def latents(values: np.ndarray, ids: list[str], target: str, kind: str = "true") -> Latents:
    return Latents(np.asarray(values, np.float32)[:, None], np.array(ids, dtype=object), target, kind)  # type: ignore[arg-type]


def make_true(target: str, width: int, seed: int) -> dict[str, Latents]:
    rng = np.random.default_rng(seed)
    return {
        part: latents(rng.standard_normal((n, width)), [f"{part}{k}" for k in range(n)], target)
        for part, n in SIZES.items()
    }


def predict(true: Latents, noise: float, rng: np.random.Generator, repeats: int = 1) -> Latents:
    values = np.repeat(true.flat, repeats, axis=0)
    noisy = values + noise * rng.standard_normal(values.shape) + 0.5
    return latents(noisy, list(np.repeat(true.ids, repeats)), true.target, "predicted")


def make_model(
    images: dict[str, Latents],
    captions: dict[str, Latents],
    noise: tuple[float, float],
    seed: int = 0,
    name: str = "meg-module",
    control: str = "brain",
) -> Fitted:
    rng = np.random.default_rng(seed)
    return Fitted(
        name=name,
        seed=str(seed),
        control=control,
        test={
            "retrieval": predict(images["test"], noise[0], rng, 3),
            "text": predict(captions["test"], noise[1], rng, 3),
        },
        train=predict(images["train"], noise[0], rng),
        validation=predict(images["validation"], noise[0], rng),
        train_text=predict(captions["train"], noise[1], rng),
        validation_text=predict(captions["validation"], noise[1], rng),
        folder=Path("unused"),
    )


class Said:
    """Stimuli of which some have captions."""

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self.texts = texts

    def captions(self, stimulus_id: str) -> list[str]:
        return self.texts.get(stimulus_id, [])


def test_the_weight_is_the_least_that_ranks_validation_images_best() -> None:
    # own similarity w, that of others (1 - w) / 2: first place for w > 1/3
    n = 6
    weight, found = choose_weight([0.5 * (1 - np.eye(n))], [np.eye(n)])
    assert weight == pytest.approx(0.4)
    assert found == pytest.approx([1.0 if w < 1 / 3 else 0.0 for w in WEIGHTS])
    assert choose_weight([np.eye(n)], [np.zeros((n, n))])[0] == 0
    both = [np.eye(n), 0.5 * (1 - np.eye(n))], [np.zeros((n, n)), np.eye(n)]
    assert choose_weight(*both)[0] == pytest.approx(0.4)


def test_images_with_the_same_captions_tie_whatever_rounding_made_of_them() -> None:
    values = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1e-3]])
    made, tied = tie_captions(latents(values, ["a", "b", "c"], "said"), [["x", "y"], ["z"], ["y", "x"]])
    assert tied == 2
    np.testing.assert_array_equal(made.flat, values[[0, 1, 0]].astype(np.float32))
    nothing = TrainingReference(predicted=np.zeros((1, 2)), true=np.zeros((1, 2)))
    perfect = similarity(made.flat, made.flat, "cosine-centred", nothing)
    assert ranks(perfect, np.arange(3)).tolist() == [1, 0, 1]  # of two equal items neither comes first


def test_the_sum_of_both_heads_is_scored_beside_each_and_against_the_image_alone() -> None:
    images, captions = make_true("clip", 12, 1), make_true("clip:text", 8, 2)
    model = make_model(images, captions, (3.5, 1.5))
    other = make_model(images, captions, (4.0, 4.0), name="ridge")
    mixed = make_model(images, captions, (9.0, 9.0), seed=3, control="shuffled-train")
    found = score_text([model, other, mixed], images, captions, SETTINGS)
    weight = found.weights["meg-module"]
    assert 0.5 < weight < 1  # captions say more

    def centred(role: str, true: dict[str, Latents], seen: Latents | None) -> np.ndarray:
        assert seen is not None
        means = TrainingReference(predicted=seen.flat, true=true["train"].flat)
        mean = model.means(role, true["test"].ids)
        return similarity(mean.flat, true["test"].flat, "cosine-centred", means)

    image = centred("retrieval", images, model.train)
    text = centred("text", captions, model.train_text)
    expected = {
        "meg-module, text": text,
        "meg-module, image and text": (1 - weight) * image + weight * text,
    }
    truth = np.arange(SIZES["test"])
    scores = [
        s for s in found.retrieval.scores if (s.metric, s.gallery, s.level) == (TOP1, 16, "mean-prediction")
    ]
    for name, matrix in expected.items():
        (row,) = [s for s in scores if (s.model, s.control, s.versus) == (name, "brain", "")]
        assert row.value == pytest.approx((ranks(matrix, truth) == 0).mean())
        assert row.ceiling is None
    both = expected["meg-module, image and text"]
    kept = found.retrieval.similarity["meg-module, image and text_seed-0_cosine-centred"]
    np.testing.assert_allclose(kept, both, atol=1e-6)
    (row,) = [s for s in scores if s.model == "meg-module, image and text" and s.versus == "meg-module"]
    assert row.value == pytest.approx((ranks(both, truth) == 0).mean() - (ranks(image, truth) == 0).mean())
    assert {s.target for s in scores if s.model.endswith("image and text")} == {"clip + clip:text"}
    assert {s.target for s in scores if s.model.endswith(", text")} == {"clip:text"}
    assert {"ridge, text", "ridge, image and text", "shuffled-train"} <= {s.versus for s in scores}
    assert any(s.level == "single" and s.model.endswith("image and text") for s in found.retrieval.scores)


def test_the_weight_is_of_true_pairs_and_never_of_test_images() -> None:
    images, captions = make_true("clip", 12, 1), make_true("clip:text", 8, 2)
    model = make_model(images, captions, (2.5, 1.5))
    mixed = make_model(images, captions, (9.0, 0.1), seed=3, control="shuffled-train")
    alone = score_text([model], images, captions, SETTINGS).weights
    assert score_text([mixed, model], images, captions, SETTINGS).weights == alone
    model.test["text"] = predict(captions["test"], 50, np.random.default_rng(9), 3)
    found = score_text([model], images, captions, SETTINGS)
    assert found.weights == alone
    told = text_facts(found, "clip:text", 2, images)
    assert told["weights"] == alone
    assert f"{alone['meg-module']:.1f} times that of captions" in " ".join(told["notes"])
    assert "2 of 16 test images" in told["notes"][0]


def test_a_model_that_learned_no_captions_retrieves_by_none() -> None:
    images = make_true("clip", 12, 1)
    model = make_model(images, make_true("clip:text", 8, 2), (1, 1))
    without = Fitted(
        name="ridge",
        seed="",
        control="brain",
        test={"retrieval": model.test["retrieval"]},
        train=model.train,
        validation=model.validation,
        folder=model.folder,
    )
    assert without.predicted_text is None


def test_captions_choose_among_candidates_of_one_network_alone() -> None:
    images = make_true("clip", 12, 1)
    said = {part: latents(images[part].flat, list(images[part].ids), "clip:text") for part in images}
    model = make_model(images, said, (50.0, 0.1))
    pooled = SimpleNamespace(name="clip", network="net", kind="pooled", tokens=1, width=12)
    text = SimpleNamespace(name="clip:text", network="net", kind="text", tokens=1, width=12)

    class Known(Drawing):
        def true(self, role: str, ids: np.ndarray) -> Latents:
            return images["validation"].select(ids)

    def weigh(chooser: SimpleNamespace, n_candidates: int = 2, **targets: SimpleNamespace) -> object:
        config = MindEyeWorkflowConfig(n_candidates=n_candidates)
        nothing: dict = {"generator": None, "stimuli": None, "train_ids": None, "ids": None, "seed": 0}
        return _reranking(Known(chooser=chooser, targets=targets, config=config, **nothing), [model])

    assert weigh(pooled) is None
    found = weigh(pooled, text=text)
    assert isinstance(found, dict)
    assert found["meg-module"] > 0.3  # the image says next to nothing
    assert weigh(pooled, n_candidates=1, text=text) == "there is one candidate an image"
    for change in ({"network": "other"}, {"kind": "tokens"}, {"width": 8}):
        other = SimpleNamespace(**{**vars(pooled), **change})
        assert "no image and text embedding of one network" in str(weigh(other, text=text))


def test_images_without_captions_and_targets_of_images_are_refused() -> None:
    parts = {"train": np.array(["a", "b"]), "validation": np.array(["c", "d"]), "test": np.array(["e"])}
    texts = {stimulus_id: ["a cat"] for stimulus_id in "abcde"}
    check_captions(Said(texts), parts)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected images with captions; found none for 1 of 5, e\.g\. 'd'"):
        check_captions(Said({**texts, "d": []}), parts)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 2 validation images; found 1"):
        check_captions(Said(texts), {**parts, "validation": np.array(["c"])})  # type: ignore[arg-type]
    check_text_target("tiny-clip:text", ["ridge", "meg-module"])
    with pytest.raises(InputError, match="expected a target of captions; found 'tiny-clip'"):
        check_text_target("tiny-clip", ["ridge"])
    with pytest.raises(InputError, match="encoders with a head for captions; found 'mindeye'"):
        check_text_target("tiny-clip:text", ["ridge", "mindeye"])
