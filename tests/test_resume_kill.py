"""``kill -9`` in the middle of training, then the same command: it goes on, and ends where an uninterrupted run ends."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from braindecode_suite.cli import main
from braindecode_suite.workflows.results import result_path

SETTINGS = (
    "generator=''",
    "n_seeds=1",
    "shuffled_train=false",
    "second_protocols=[]",
    "n_relabellings=0",
    "encoder_settings.training={epochs: 12, patience: 0, checkpoint_seconds: 0}",
)


def command(out: Path, data: Path, fast_run: list[str]) -> list[str]:
    words = [
        "run",
        "simulated-nsd",
        str(out),
        "participant",
        "--participant-label",
        "01",
        "--data-dir",
        str(data),
    ]
    return [*words, *fast_run, *(word for setting in SETTINGS for word in ("--set", setting))]


def wait_for_state(out: Path, process: subprocess.Popen[bytes], epochs: int, seconds: float = 240) -> None:
    """Wait until training has left a resumable state `epochs` times."""
    seen: set[float] = set()
    deadline = time.monotonic() + seconds
    while len(seen) < epochs:
        assert time.monotonic() < deadline, "training left no state in time"
        assert process.poll() is None, f"the run ended by itself: {process.returncode}"
        with suppress(FileNotFoundError):  # folders come and go while it works
            seen |= {path.stat().st_mtime for path in out.rglob("last.ckpt")}
        time.sleep(0.01)


def test_a_killed_training_goes_on_and_gives_the_same_scores(
    simulated_folder: Path, fast_run: list[str], tmp_path: Path
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "braindecode_suite", *command(killed, simulated_folder, fast_run)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_state(killed, process, epochs=2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "sub-01.html").exists()

    assert main(command(killed, simulated_folder, fast_run)) == 0
    assert main(command(whole, simulated_folder, fast_run)) == 0
    (step,) = killed.glob("work/sub-01_desc-mindeye/fit-mindeye-seed-0-*.json")
    assert json.loads(step.read_text())["facts"]["resumed_from_epoch"] >= 1
    for suffix in ("scores.tsv", "retrieval.tsv", "history.tsv"):
        first, second = (result_path(out, "01", "mindeye", suffix).read_text() for out in (killed, whole))
        assert first == second
