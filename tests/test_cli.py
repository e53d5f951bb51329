"""The command line: instant help, one-line errors, and what it lists and describes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from braindecode_suite.cli import build_parser, main, subject_label
from braindecode_suite.datasets import DATASETS
from braindecode_suite.workflows import WORKFLOWS
from braindecode_suite.workflows.configuration import load_config, presets

HEAVY = (
    "torch",
    "lightning",
    "numpy",
    "mne",
    "nibabel",
    "pandas",
    "scipy",
    "diffusers",
    "open_clip",
    "pydantic",
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    return subprocess.run(
        [sys.executable, "-m", "braindecode_suite", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom braindecode_suite.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip().endswith("LOADED []"), done.stdout
    assert "usage: bds" in done.stdout


def test_help_is_instant() -> None:
    seconds = []
    for _ in range(5):
        clock = time.perf_counter()
        assert run("--help").returncode == 0
        seconds.append(time.perf_counter() - clock)
    assert min(seconds) <= 0.5, seconds


def test_both_ways_to_start_show_the_same_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert run("--version").stdout == capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "label"), [("01", "01"), ("sub-01", "01"), ("subj02", "02"), ("subj-3", "3"), ("sub", "sub")]
)
def test_prefixes_of_subjects_are_dropped(text: str, label: str) -> None:
    assert subject_label(text) == label


@pytest.mark.parametrize("option", ["--participant-label", "--participant_label"])
def test_participants_are_a_list_in_either_spelling(option: str) -> None:
    arguments = build_parser().parse_args(["run", "nsd", "out", "participant", option, "01", "sub-02"])
    assert arguments.participant_label == ["01", "02"]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "nsd", "out"],
        ["run", "nsd", "out", "session"],
        ["list", "planets"],
        ["fly"],
        ["run", "--frsh"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "nsdd", "out", "participant"],
            r"dataset: expected one of .*; found 'nsdd' \(did you mean 'nsd'\?\)",
        ),
        (["run", "nsd", "out", "participant"], r"`--data-dir`: expected the folder of 'nsd'; found nothing"),
        (
            ["run", "./nowhere", "out", "participant"],
            r"nowhere: expected a catalogue name, or a folder with a trials.tsv",
        ),
        (
            ["run", "nsd", "out", "participant", "--workflow", "mindeye2"],
            r"workflow: expected one of .*did you mean 'mindeye'",
        ),
        (
            ["run", "nsd", "out", "participant", "--set", "n_seds=1"],
            r"--set: expected a known config key; found 'n_seds' \(did you mean 'n_seeds'\?\)",
        ),
        (
            ["run", "simulated-meg", "out", "participant", "--set", "size=seconds"],
            r"found 'size' \(one of baseline, .*; what a dataset takes goes under dataset_options, what a simulated",
        ),
        (
            ["run", "nsd", "out", "participant", "--set", "n_seeds"],
            r"--set: expected KEY=VALUE; found 'n_seeds'",
        ),
        (
            ["run", "nsd", "out", "participant", "--set", "n_seeds=zero"],
            r"--set: expected n_seeds: .*; found 'zero'",
        ),
        (
            ["run", "nsd", "out", "participant", "--set", "preset=huge"],
            r"`preset`: expected one of .*; found 'huge'",
        ),
        (["describe", "mindeey"], r"did you mean 'mindeye'"),
        (["verify", "nowhere", "--data-dir", "."], r"nowhere: expected a model folder; found nothing there"),
        (["check", "nsd"], r"`--data-dir`: expected the folder of 'nsd'; found nothing"),
    ],
)
def test_the_users_mistakes_are_one_line_that_says_what_was_expected(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_a_bids_folder_without_participants_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dataset_description.json").write_text("{}")
    assert main(["run", str(tmp_path), str(tmp_path / "out"), "participant"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "expected" in error
    assert str(tmp_path) in error


@pytest.mark.parametrize(
    "catalogue", ["datasets", "targets", "encoders", "image-encoders", "decoders", "generators", "workflows"]
)
def test_every_catalogue_is_listed_with_a_line_for_each_entry(
    catalogue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from braindecode_suite.workflows.inputs import CATALOGUES

    assert main(["list", catalogue]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[0] for line in lines] == list(CATALOGUES[catalogue])
    assert all(len(line.split()) > 1 for line in lines)


def test_describe_shows_a_datasets_terms_and_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "simulated_nsd"]) == 0
    shown = capsys.readouterr().out
    assert "model recovery" in shown
    assert "nsddata_betas" in shown


def test_describe_shows_a_workflows_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "mindeye"]) == 0
    assert "--- kandinsky" in capsys.readouterr().out


@pytest.mark.parametrize("workflow", list(WORKFLOWS))
def test_every_preset_of_every_workflow_is_a_valid_config(workflow: str) -> None:
    found = presets(workflow)
    assert found
    for preset in found:
        assert load_config(WORKFLOWS[workflow], preset).preset == preset


@pytest.mark.parametrize("name", list(DATASETS))
def test_the_default_preset_of_every_dataset_exists(name: str) -> None:
    card = DATASETS[name].card
    assert card.preset in presets(WORKFLOWS.resolve(card.workflow))


def test_a_config_file_changes_the_preset_and_settings_change_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: kandinsky\nn_seeds: 2\nencoder_settings: {training: {epochs: 4}}\n")
    config = load_config(
        WORKFLOWS["mindeye"], "tiny", file, ["n_seeds=5", "encoder_settings.training.batch_size=8"]
    )
    assert config.preset == "kandinsky"
    assert config.model_dump()["n_seeds"] == 5
    assert config.model_dump()["encoder_settings"] == {"training": {"epochs": 4, "batch_size": 8}}


def test_a_mistake_in_a_config_file_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("n_seeds: 2\nsedes: 3\n")
    words = ["run", "simulated-nsd", str(tmp_path / "out"), "participant", "--config", str(file)]
    assert main(words) == 2
    told = f"bds run: {file}: expected a known config key; found 'sedes' (did you mean 'n_seeds'?)"
    assert capsys.readouterr().err.strip() == told


def test_a_run_of_nobody_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    out = tmp_path / "out"
    assert main(["run", "things-meg", str(out), "participant", "--data-dir", str(tmp_path / "data")]) == 2
    assert "expected subjects of 'things-meg'; found none" in capsys.readouterr().err
    assert not out.exists()


def test_output_that_nobody_reads_on_is_no_traceback() -> None:
    words = "import sys; from braindecode_suite.cli import main; sys.exit(main(['list', 'datasets']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-u", "-c", words], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "run",
        "simulated-nsd",
        str(tmp_path / "out"),
        "participant",
        "--participant-label",
        "sub-01",
        "--dry-run",
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "fit mindeye seed 2" in shown
    assert "nsd-cluster-disjoint" in shown
    assert list(tmp_path.iterdir()) == []
