"""``bds check``: the leakage card of every dataset, of designs without recordings, and of folders that cannot be opened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from braindecode_suite.cli import main
from braindecode_suite.datasets import DATASETS, PROTOCOLS
from braindecode_suite.datasets.protocols import nsd_shared1000
from braindecode_suite.datasets.simulate_bold import BoldParameters, write_bold_study
from braindecode_suite.workflows.check import describe_splits, leakage_card
from tests.haxby_files import write_haxby
from tests.parcels_files import write_parcels
from tests.release_writers import write_algonauts, write_bold5000, write_god, write_things

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def block(lines: list[str], protocol: str) -> list[str]:
    """Return the lines below one protocol, or its one line."""
    start = next(k for k, line in enumerate(lines) if line.strip().split(":")[0] == protocol)
    end = next((k for k in range(start + 1, len(lines)) if not lines[k].startswith("    ")), len(lines))
    return [
        line.strip() for line in (lines[start + 1 : end] if end > start + 1 else lines[start : start + 1])
    ]


def test_numbers_are_those_of_the_split(simulated_folder, tmp_path, capsys):
    assert main(["check", "simulated-nsd", "--data-dir", str(simulated_folder)]) == 0
    shown = capsys.readouterr().out.splitlines()
    start = shown.index("sub-01: 360 rows of 120 stimuli, 300 units")
    assert not any(line.startswith("sub-02") for line in shown)
    study = DATASETS["simulated-nsd"].open(simulated_folder, "01", tmp_path)
    (split,) = nsd_shared1000([study])
    trials = study.trials
    first, *rest = block(shown[start:], "nsd-shared1000")
    parts = []
    for part in ("train", "validation", "test"):
        rows = getattr(split, part)[0]
        parts.append(f"{part} {len(rows)} rows of {trials['stimulus_id'].iloc[rows].nunique()} stimuli")
    assert first == ", ".join(parts)
    assert rest[0] == "disjoint by proof: stimulus"
    sessions = [
        set(trials["session"].iloc[getattr(split, part)[0]]) for part in ("train", "validation", "test")
    ]
    both = len(sessions[0] & sessions[2])
    assert rest[1].startswith(f"shared sessions: {both} train/test, ")
    assert rest[-1] == "note: test images were shown in the same runs and sessions as training images"
    (cluster,) = block(shown[start:], "nsd-cluster-disjoint")
    assert cluster.startswith("nsd-cluster-disjoint: needs a target")


def test_what_was_tuned_on_test_images_is_said_once(simulated_folder):
    lines = leakage_card(DATASETS["nsd"], simulated_folder, ["02"])
    assert lines[1].startswith("sub-02: ")
    tuned = [
        line for line in lines if "b3 betas: denoising, ridge and haemodynamic response were tuned" in line
    ]
    assert len(tuned) == 1
    assert tuned[0].startswith("  tuned on test: b3 betas")


def test_several_subjects_are_split_alone_and_together(simulated_folder, tmp_path, capsys):
    words = [
        "check",
        "simulated-nsd",
        "--data-dir",
        str(simulated_folder),
        "--participant-label",
        "01",
        "sub-02",
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    alone = next(k for k, line in enumerate(shown) if line.startswith("sub-02: 360 rows of 120 stimuli"))
    together = shown.index("sub-01, sub-02 together:")
    assert alone < together
    studies = [DATASETS["simulated-nsd"].open(simulated_folder, label, tmp_path) for label in ("01", "02")]
    (split,) = nsd_shared1000(studies)
    assert block(shown[together:], "nsd-shared1000")[0] == describe_splits([split])[0]


def test_folds_are_counted_and_give_their_smallest_and_largest_numbers(tmp_path):
    write_haxby(tmp_path)
    labels = (tmp_path / "attributes_literal.txt").read_text().splitlines()
    (tmp_path / "attributes_literal.txt").write_text(
        "\n".join(line.replace("face 0", "house 0") for line in labels) + "\n"
    )
    lines = leakage_card(DATASETS["haxby"], tmp_path, ["01"])
    card = block(lines, "leave-one-run-out")
    assert card[0] == (
        "6 splits, each with train 104 rows of 5 to 6 stimuli, validation 26 rows of 5 stimuli, test 26 rows of 5 stimuli"
    )
    assert card[1] == "disjoint by proof: run"
    assert card[2] == "shared stimuli: 4 to 5 train/test, 4 to 5 validation/test, 4 to 5 train/validation"
    assert (
        card[-1] == "too few for workflows that learn images: expected at least 20 training images; found 5"
    )
    assert "  no images: only workflows that need none can be run" in lines


def test_runs_that_share_noise_are_told(tmp_path):
    write_bold_study(tmp_path, BoldParameters(shape=(5, 5, 4), images=30, repeats=2, sessions=(), runs=3))
    lines = leakage_card(DATASETS["bids-fmri"], tmp_path, ["01"])
    assert any(line.startswith("  shared noise: betas of one run share noise") for line in lines)
    assert block(lines, "leave-one-session-out")[0].startswith(
        "leave-one-session-out: cannot be run: expected at least 3 sessions"
    )
    random = block(lines, "random-by-image")
    assert random[1] == "disjoint by proof: stimulus"
    assert any(line.startswith("shared runs: 3 train/test") for line in random)


@pytest.mark.parametrize(
    ("name", "write", "label", "protocol"),
    [
        ("bold5000", lambda folder: write_bold5000(folder, betas=False), "CSI1", "bold5000-repeats"),
        ("god", lambda folder: write_god(folder, responses=False), "01", "god-test50"),
        ("things-fmri", lambda folder: write_things(folder, responses=False), "01", "things-fmri-zero-shot"),
    ],
)
def test_a_design_without_recordings_still_shows_its_splits(name, write, label, protocol, tmp_path, capsys):
    write(tmp_path)
    assert main(["check", name, "--data-dir", str(tmp_path)]) == 2
    shown = capsys.readouterr().out.splitlines()
    start = next(k for k, line in enumerate(shown) if line.startswith(f"sub-{label}: cannot be opened: "))
    assert "the design can be read: nothing can be decoded from it, but" in shown[start + 1]
    trials = DATASETS[name].design(tmp_path, label)
    card = block(shown[start:], protocol)
    assert card[0].startswith("train ")
    counts = [int(word) for word in card[0].replace(",", "").split() if word.isdecimal()]
    assert 0 < sum(counts[::2]) <= len(trials)
    assert "stimulus" in card[1]


def test_a_study_that_cannot_be_opened_is_one_line_and_the_others_go_on(tmp_path, capsys):
    for label in ("01", "02"):
        folder = tmp_path / f"sub-{label}"
        (tmp_path / "images").mkdir(exist_ok=True)
        folder.mkdir()
        np.save(folder / "responses.npy", np.zeros((30, 3), np.float32))
        (folder / "trials.tsv").write_text("stimulus_id\n" + "\n".join(f"im{k}" for k in range(30)) + "\n")
    assert main(["check", "table", "--data-dir", str(tmp_path), "--participant-label", "01", "02"]) == 2
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sub-0")]
    assert len(shown) == 2
    assert all(
        "cannot be opened: " in line and "expected the image of stimulus 'im0'" in line for line in shown
    )


def test_an_unknown_participant_is_refused(tmp_path, capsys):
    write_haxby(tmp_path)
    assert main(["check", "haxby", "--data-dir", str(tmp_path), "--participant-label", "07"]) == 2
    assert "`--participant-label`: expected one of 01; found '07'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "write", "label"),
    [
        ("haxby", write_haxby, "01"),
        ("parcels", write_parcels, "01"),
        ("algonauts2023", write_algonauts, "01"),
        ("bold5000", write_bold5000, "CSI1"),
        ("god", write_god, "01"),
        ("things-fmri", write_things, "01"),
    ],
)
def test_the_card_names_every_protocol_and_reads_no_response(name, write, label, tmp_path, monkeypatch):
    write(tmp_path)
    dataset = DATASETS[name]
    opened = dataset.open(tmp_path, label, tmp_path / "work")

    def refuse(self, rows):
        raise AssertionError("responses were read")

    monkeypatch.setattr(type(opened.responses), "__getitem__", refuse)
    lines = leakage_card(dataset, tmp_path, [label])
    named = [line.strip().split(":")[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert set(dataset.card.protocols) <= set(named)
    assert set(dataset.card.protocols) <= set(PROTOCOLS)


@pytest.mark.skipif(not (SHARED / "bold5000_events").is_dir(), reason="bold5000_events is not here")
def test_the_real_design_of_bold5000_shows_how_it_is_split(capsys):
    assert main(["check", "bold5000", "--data-dir", str(SHARED / "bold5000_events")]) == 2
    shown = capsys.readouterr().out.splitlines()
    first, proof, *rest = block(shown, "bold5000-repeats")
    assert first.endswith("test 451 rows of 113 stimuli")
    assert proof == "disjoint by proof: stimulus"
    assert "shared sessions: 15 train/test, 15 validation/test, 15 train/validation" in rest
