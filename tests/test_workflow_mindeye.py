"""The main job from a folder of recordings to a results folder, on the smallest simulated study and random image models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.cli import main
from braindecode_suite.core.config import build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import FIRST_FIVE, read_scores
from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.reconstruction_part import related_scorers
from braindecode_suite.workflows.results import decoding_dir, model_dir, result_path


@pytest.fixture(scope="module")
def scores(finished_run: Path) -> pd.DataFrame:
    return read_scores(result_path(finished_run, "01", "mindeye", "scores.tsv"))


def facts_of(out: Path) -> dict:
    return json.loads(result_path(out, "01", "mindeye", "facts.json").read_text())


def test_the_report_and_all_files_are_there(finished_run: Path) -> None:
    assert (finished_run / "sub-01.html").stat().st_size > 10_000
    for suffix in (
        "latents.npz",
        "similarity.npz",
        "retrieval.tsv",
        "images.tsv",
        "history.tsv",
        "facts.json",
    ):
        assert result_path(finished_run, "01", "mindeye", suffix).is_file(), suffix
    folder = model_dir(finished_run, "01", "mindeye")
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "README.md",
        "ridge_seed-0.safetensors",
        "mindeye_seed-0.safetensors",
        "mindeye_seed-1.safetensors",
    }
    assert not list(finished_run.glob(".staging*"))


def test_the_headline_has_every_companion(scores: pd.DataFrame) -> None:
    top1 = scores[(scores["metric"] == "retrieval_brain_to_image_top1") & (scores["gallery"] == 20)]
    headline = top1[
        (top1["scorer"] == "cosine-centred") & (top1["level"] == "mean-prediction") & (top1["versus"] == "")
    ]
    here = headline[headline["split"] == "nsd-shared1000"]
    assert set(here["model"]) == {"mindeye", "ridge"}
    assert set(here["control"]) == {"brain", "shuffled-test", "shuffled-train"}
    brain = here[(here["control"] == "brain") & (here["seed"] == "0,1")].iloc[0]
    assert 0 <= brain["ci_low"] <= brain["value"] <= brain["ci_high"] <= brain["ceiling"] <= 1
    assert brain["chance"] == 0.05
    differences = top1[(top1["scorer"] == "cosine-centred") & (top1["versus"] != "")]
    assert {"ridge", "shuffled-train"} <= set(differences["versus"])
    assert set(headline["split"]) == {"nsd-shared1000", "nsd-cluster-disjoint"}


def test_identification_is_compared_with_every_control_on_matched_distractors(
    scores: pd.DataFrame, finished_run: Path
) -> None:
    rows = scores[scores["metric"] == "identification"]
    if rows.empty:  # the scoring network is not among the package's assets
        assert any("tiny-eval" in note for note in facts_of(finished_run)["scorers_missing"])
        pytest.skip("no weights of tiny-eval on this machine")
    matched = rows[
        (rows["candidates"] == "matched") & (rows["model"] == "mindeye") & (rows["control"] == "brain")
    ]
    assert set(FIRST_FIVE) | {"ridge"} <= set(matched["versus"])


def test_pixels_stand_beside_the_images_that_need_no_brain(scores: pd.DataFrame) -> None:
    rows = scores[(scores["metric"] == "pixcorr") & (scores["versus"] == "")]
    assert {"mean-image", "flat-grey", "blurred-truth", "brain", *FIRST_FIVE, "true-latent"} <= set(
        rows["control"]
    )
    brain = rows[rows["control"] == "brain"]
    assert set(zip(brain["model"], brain["stage"], strict=True)) == {
        (model, stage) for model in ("mindeye", "ridge") for stage in ("low-level", "final")
    }
    assert brain["chance"].notna().all()
    assert (rows[rows["control"] == "flat-grey"]["value"] == 0).all()
    versus = scores[
        (scores["metric"] == "pixcorr") & (scores["versus"] == "mean-image") & (scores["model"] == "mindeye")
    ]
    assert set(versus["stage"]) == {"low-level", "final"}
    assert (versus["ci_low"] <= versus["value"]).all()


def test_all_images_are_saved_with_their_own_scores(finished_run: Path) -> None:
    table = pd.read_csv(
        result_path(finished_run, "01", "mindeye", "images.tsv"), sep="\t", dtype={"stimulus_id": str}
    )
    base = decoding_dir(finished_run, "01")
    assert all((base / path).is_file() for path in table["path"])
    brain = table[(table["control"] == "brain") & (table["model"] == "mindeye")]
    assert len(brain) == 20  # ten images, two stages
    assert brain["pixcorr"].notna().all()
    nearest = table[table["control"] == "nearest-train"]
    assert set(nearest["source"]) == {"study"}
    assert any("could not be searched" in note for note in facts_of(finished_run)["notes"])


def test_saved_latents_give_the_saved_similarity_again(finished_run: Path) -> None:
    from braindecode_suite.metrics.retrieval import cosine

    with (
        np.load(result_path(finished_run, "01", "mindeye", "latents.npz")) as latents,
        np.load(result_path(finished_run, "01", "mindeye", "similarity.npz")) as similarity,
    ):
        assert latents["ids"].tolist() == similarity["ids"].tolist()
        again = cosine(latents["mindeye_seed-1_retrieval_predicted"], latents["retrieval_true"])
        np.testing.assert_allclose(similarity["mindeye_seed-1_cosine"], again, atol=1e-5)


def test_the_facts_tell_what_was_done(finished_run: Path) -> None:
    facts = facts_of(finished_run)
    assert facts["simulated"] is True
    assert facts["seeds"] == [0, 1]
    assert [split["protocol"] for split in facts["splits"]] == ["nsd-shared1000", "nsd-cluster-disjoint"]
    assert facts["study"]["repeats"] == {"3": 40}
    assert {model["name"] for model in facts["models"]} == {"mindeye", "ridge", "mindeye (shuffled-train)"}
    assert all(model["n_parameters"] > 0 for model in facts["models"])
    assert len(facts["random_examples"]) == 4
    assert facts["recipe"] == [{"name": "z-score", "by": "session", "scope": "train"}]
    assert any("Permutation p-values" in citation["text"] for citation in facts["citations"])
    assert "never performance" in facts["methods"][0]
    assert facts["oracle"]["retrieval_brain_to_image_top1 of 20"] > 0.9


def test_csls_is_left_out_with_a_reason_where_too_few_images_are_for_validation(
    finished_run: Path, scores: pd.DataFrame
) -> None:
    facts = facts_of(finished_run)
    assert facts["splits"][0]["images"]["validation"] == 8
    assert "and 8 are fewer than its 10 neighbours" in " ".join(facts["methods"])
    assert any(note.startswith("Not scored by CSLS: ") for note in facts["notes"])
    assert "csls" not in set(scores["scorer"])
    page = (finished_run / "sub-01.html").read_text()
    assert "Not scored by CSLS: " in page
    assert "Ceiling: what the oracle reaches, worked out for Retrieval, brain" in page


def test_clip_beside_another_clip_is_noted_and_beside_itself_is_circular() -> None:
    assert related_scorers(["ViT-bigG-14/laion2b_s39b_b160k"], ["pixcorr"]) == []
    assert related_scorers(["ViT-L-14/openai"], ["clip"]) == []
    (note,) = related_scorers(["ViT-bigG-14/laion2b_s39b_b160k"], ["clip", "pixcorr"])
    assert "ViT-bigG-14/laion2b_s39b_b160k, another network" in note


def test_the_same_command_again_reads_everything_back_and_finds_the_same(
    finished_run: Path, simulated_folder: Path, fast_run: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished_run, out)
    words = ["run", "simulated-nsd", str(out), "participant", "--participant-label", "sub-01"]
    assert main([*words, "--data-dir", str(simulated_folder), *fast_run]) == 0
    log = json.loads(sorted((out / "logs").glob("*.json"))[-1].read_text())
    kept = [
        step
        for step in log["steps"]
        if step["name"].startswith(("fit", "draw", "refit", "oracle", "leakage"))
    ]
    assert len(kept) >= 12
    assert {step["status"] for step in kept} == {"resumed"}
    for suffix in ("scores.tsv", "retrieval.tsv"):
        first, second = (
            result_path(folder, "01", "mindeye", suffix).read_text() for folder in (finished_run, out)
        )
        assert first == second


def test_reports_can_be_rendered_again_without_the_data(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished_run, out, ignore=shutil.ignore_patterns("work"))
    (out / "sub-01.html").unlink()
    assert main(["run", "simulated-nsd", str(out), "participant", "--reports-only"]) == 0
    assert (out / "sub-01.html").is_file()


def test_reports_of_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "simulated-nsd", str(tmp_path), "participant", "--reports-only"]) == 2
    assert "expected results of workflow 'mindeye'; found none" in capsys.readouterr().err


@pytest.fixture(scope="module")
def routed_run(
    tmp_path_factory: pytest.TempPathFactory, simulated_folder: Path, open_clip_folder: Path
) -> Path:
    """A run of brain-routing beside MindEye and ridge, retrieval only."""
    out = tmp_path_factory.mktemp("routed") / "out"
    settings = [
        "simulation={size: seconds, formats: [hdf5, nii.gz]}",
        f"weights={{retrieval: {open_clip_folder}, image: {open_clip_folder}}}",
        "encoder=brain-routing",
        "encoder_settings={network: {width: 16, heads: 2, feed_forward: 16}, training: {epochs: 2}}",
        "beside=[mindeye]",
        "beside_settings.mindeye={backbone: {hidden: 16, n_blocks: 1}, projector_hidden: 16, training: {epochs: 1}}",
        "n_seeds=2",
        "generator=''",
        "gallery_sizes=[20]",
        "second_protocols=[]",
        "n_relabellings=0",
        "n_bootstrap=100",
    ]
    words = ["run", "simulated-nsd", str(out), "participant", "--participant-label", "01", "--device", "cpu"]
    words += ["--data-dir", str(simulated_folder)]
    assert main([*words, *(word for setting in settings for word in ("--set", setting))]) == 0
    return out


def test_an_encoder_is_compared_with_those_beside_it_and_with_the_baseline(routed_run: Path) -> None:
    scores = read_scores(result_path(routed_run, "01", "mindeye", "scores.tsv"))
    top1 = scores[
        (scores["metric"] == "retrieval_brain_to_image_top1")
        & (scores["scorer"] == "cosine-centred")
        & (scores["level"] == "mean-prediction")
        & (scores["gallery"] == 20)
    ]
    plain = top1[(top1["versus"] == "") & (top1["control"] == "brain")]
    assert set(plain["model"]) == {"brain-routing", "mindeye", "ridge"}
    assert set(plain[plain["model"] == "mindeye"]["seed"]) == {"0,1", "0", "1"}
    differences = top1[(top1["versus"] != "") & (top1["control"] == "brain")].set_index("versus")
    assert set(differences["model"]) == {"brain-routing"}
    assert set(differences.index) == {"mindeye", "ridge", "shuffled-train"}
    pooled = plain[plain["seed"].isin(["0,1", ""])].set_index("model")["value"]
    for rival in ("mindeye", "ridge"):
        expected = pooled["brain-routing"] - pooled[rival]
        assert differences.loc[rival, "value"] == pytest.approx(expected, abs=1e-6)
        assert differences.loc[rival, "ci_low"] <= expected <= differences.loc[rival, "ci_high"]


def test_the_routing_is_written_and_shown(routed_run: Path) -> None:
    table = pd.read_csv(result_path(routed_run, "01", "mindeye", "routing.tsv"), sep="\t")
    assert set(table["model"]) == {"brain-routing", "brain-routing-shuffled-train"}
    assert set(table["seed"]) == {0, 1}
    assert set(table["role"]) == {"retrieval", "image"}
    sums = table.groupby(["model", "seed", "role", "query"])["weight"].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-4)
    page = (routed_run / "sub-01.html").read_text()
    assert 'id="routing"' in page
    assert "Share of attention by region and group of latent queries" in page
    assert all(name in page for name in table["region"].unique())
    assert "brain routing" in page
    assert (
        "MindEye: " in page[page.index('class="cards"') : page.index('id="data"')]
    )  # compared in the headline


def test_a_page_without_an_encoder_that_routes_has_no_section_on_it(finished_run: Path) -> None:
    assert not result_path(finished_run, "01", "mindeye", "routing.tsv").exists()
    assert 'id="routing"' not in (finished_run / "sub-01.html").read_text()


def test_figures_of_an_encoder_that_routes_are_verified(
    routed_run: Path, simulated_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_dir(routed_run, "01", "mindeye")
    assert main(["verify", str(folder), "--data-dir", str(simulated_folder)]) == 0
    assert "brain-routing seed 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beside": ["mindeye"]}, "other than `encoder` and `baseline`, each once"),
        ({"beside": ["brain-routing", "brain-routing"]}, "each once"),
        ({"beside_settings": {"brain-routing": {}}}, "named in `beside`, not brain-routing"),
    ],
)
def test_encoders_beside_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(MindEyeWorkflowConfig, settings, "settings")


def test_an_encoder_without_a_head_for_captions_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "simulated-nsd", str(tmp_path), "participant", "--participant-label", "01", "--dry-run"]
    assert main([*words, "--set", "text_target=tiny-clip:text"]) == 2
    assert (
        "`text_target`: expected encoders with a head for captions; found 'mindeye'"
        in capsys.readouterr().err
    )
