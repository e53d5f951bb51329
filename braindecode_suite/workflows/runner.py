"""The participant level: subjects one after another, each staged and put into place when it is complete.

Other subjects go on when one fails; one line per subject at the end; the exit code tells whose mistake it was.
"""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from braindecode_suite.core.config import build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.manifest import PeakMemory, RunLog, library_versions
from braindecode_suite.core.protocols import Dataset, FolderDataset, SimulatedDataset
from braindecode_suite.workflows.configuration import config_dict
from braindecode_suite.workflows.job import Job, Workflow, WorkflowConfig
from braindecode_suite.workflows.results import (
    SubjectResults,
    decoding_dir,
    prepare_output,
    publish,
    read_source,
    result_path,
    stage,
)
from braindecode_suite.workflows.steps import Steps, code_version

DONE, FAILED, USER_MISTAKE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of ``bds run ... participant``.

    Attributes
    ----------
    dataset : Dataset
    data_dir : Path or None
        None only where the dataset simulates itself into the work folder.
    output_dir, work_dir : Path
    workflow : class
    config : WorkflowConfig
    subjects : tuple of str
        Empty means all that the dataset has.
    device, precision : str
    seed : int
    fresh, dry_run, reports_only, progress : bool
    command : tuple of str
    """

    dataset: Dataset
    data_dir: Path | None
    output_dir: Path
    work_dir: Path
    workflow: type[Workflow]
    config: WorkflowConfig
    subjects: tuple[str, ...] = ()
    device: str = "cpu"
    precision: str = "32"
    seed: int = 0
    fresh: bool = False
    dry_run: bool = False
    reports_only: bool = False
    progress: bool = False
    command: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one subject ended: ``done`` or ``failed``, in one line."""

    subject: str
    status: str
    line: str
    user_mistake: bool = False


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 0 if all are done, 2 if every failure is the user's own input, 1 otherwise."""
    failures = [outcome for outcome in outcomes if outcome.status == "failed"]
    if not failures:
        return DONE
    return USER_MISTAKE if all(outcome.user_mistake for outcome in failures) else FAILED


def run_participants(run: Run) -> int:
    """Work on every subject and return the exit code.

    Raises
    ------
    InputError
        If nothing could start.
    """
    if run.reports_only:
        return _render_all(run)
    build_options(run.dataset.options_class, run.config.dataset_options, run.dataset.card.name)
    if run.dry_run:
        return _print_plan(run)
    check_data(run)
    if not isinstance(run.dataset, SimulatedDataset):
        _subjects(run, data_folder(run))  # where nobody can be decoded, no folder becomes this dataset's
    prepare_output(run.output_dir, describe_source(run))
    data_dir = prepare_data(run)
    subjects = _subjects(run, data_dir)
    outcomes = [_one_subject(replace(run, data_dir=data_dir), subject) for subject in subjects]
    for outcome in outcomes:
        print(f"sub-{outcome.subject}: {outcome.line}", flush=True)
    return exit_code(outcomes)


def data_folder(run: Run) -> Path:
    """Return where the data lie, or will be simulated."""
    if run.data_dir is not None:
        return run.data_dir
    if not run.dataset.card.simulated:
        raise InputError(
            "`--data-dir`",
            expected=f"the folder of {run.dataset.card.name!r}",
            found="nothing",
            hint=f"`bds describe {run.dataset.card.name}` shows the folder tree it expects",
        )
    return run.work_dir / run.dataset.card.name


def check_data(run: Run) -> None:
    """Raise if recorded data are not where they should be; simulated ones are still to be written."""
    data_dir = data_folder(run)
    if isinstance(run.dataset, SimulatedDataset):
        return
    if run.config.simulation:
        raise InputError(
            "`simulation`", expected="nothing for recorded data", found=str(run.config.simulation)
        )
    if not data_dir.is_dir():
        raise InputError(data_dir, expected="the folder of the data (`--data-dir`)", found="nothing there")


def describe_source(run: Run) -> dict[str, Any]:
    """Return what the results folder records of the dataset: its name and, where that is not enough, who its subjects are."""
    source: dict[str, Any] = {"Name": run.dataset.card.name}
    if isinstance(run.dataset, FolderDataset):
        data_dir = data_folder(run)
        known = read_source(run.output_dir).get("Identity", {})
        subjects = {*(run.subjects or run.dataset.subjects(data_dir)), *known}
        source["Identity"] = run.dataset.identity(data_dir, sorted(subjects))
    return source


def prepare_data(run: Run) -> Path:
    """Return the data folder; a simulated study is written there first (and kept, if it is there already)."""
    data_dir = data_folder(run)
    if isinstance(run.dataset, SimulatedDataset):
        run.dataset.write(data_dir, **run.config.simulation)
    return data_dir


def _subjects(run: Run, data_dir: Path) -> list[str]:
    known = run.dataset.subjects(data_dir)
    if not known:
        raise InputError(data_dir, expected=f"subjects of {run.dataset.card.name!r}", found="none")
    missing = [subject for subject in run.subjects if subject not in known]
    if missing:
        raise InputError(
            "`--participant-label`", expected=f"labels among {', '.join(known)}", found=", ".join(missing)
        )
    return list(run.subjects) or known


def _job(run: Run, data_dir: Path, subject: str) -> Job:
    return Job(
        dataset=run.dataset,
        data_dir=data_dir,
        output_dir=run.output_dir,
        work_dir=run.work_dir,
        subject=subject,
        device=run.device,
        precision=run.precision,
        seed=run.seed,
        progress=run.progress,
        command=run.command,
    )


def _one_subject(run: Run, subject: str) -> Outcome:
    label = run.workflow.label
    log = RunLog(list(run.command))
    memory = PeakMemory()
    job = _job(run, data_folder(run), subject)
    base = {
        "dataset": run.dataset.card.name,
        "data_dir": str(job.data_dir.resolve()),
        "subject": subject,
        "workflow": run.workflow.name,
        "device": run.device,
        "precision": run.precision,
    }
    outcome = Outcome(subject=subject, status="failed", line="interrupted")
    try:
        with memory:
            steps = Steps(run.work_dir / f"sub-{subject}_desc-{label}", log, base, run.fresh)
            results = run.workflow(run.config, job).run(steps)
            _complete(results, run, subject, log, memory)
            save_results(results, run.output_dir, subject, run.workflow.name, label)
        outcome = Outcome(
            subject=subject, status="done", line=f"done, report in {run.output_dir / f'sub-{subject}.html'}"
        )
    except InputError as error:
        print(f"sub-{subject}: {error}", file=sys.stderr, flush=True)
        outcome = Outcome(subject=subject, status="failed", line=f"failed: {error}", user_mistake=True)
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome(subject=subject, status="failed", line=f"failed: {type(error).__name__}: {error}")
    finally:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        log.facts |= {
            "subject": subject,
            "workflow": run.workflow.name,
            "status": outcome.status,
            "result": outcome.line,
        }
        log.write(run.output_dir / "logs" / f"sub-{subject}_desc-{label}_{stamp}.json", memory.peak_kb)
    return outcome


def _complete(results: SubjectResults, run: Run, subject: str, log: RunLog, memory: PeakMemory) -> None:
    """Add what the runner knows to the facts."""
    card = run.dataset.card
    told = log.as_dict(memory.peak_kb)
    known: dict[str, Any] = {
        "subject": subject,
        "dataset": dict(vars(card)),
        "workflow": run.workflow.name,
        "preset": run.config.preset,
        "simulated": card.simulated,
        "config": config_dict(run.config),
        "command": list(run.command),
        "versions": library_versions(),
        "code": code_version(),
        "device": run.device,
        "precision": run.precision,
        "steps": told["steps"],
        "peak_anonymous_kb": memory.peak_kb,
        "cpu_s": round(told["cpu_seconds"], 1),
        "wall_s": round((datetime.now(UTC) - log.started).total_seconds(), 1),
    }
    results.facts = {**known, **results.facts}


def save_results(results: SubjectResults, output_dir: Path, subject: str, workflow: str, label: str) -> Path:
    """Put one subject's results, models and report into a results folder, all of them or none.

    Parameters
    ----------
    results : SubjectResults
    output_dir : Path
    subject : str
        Label without ``sub-``.
    workflow, label : str
        Catalogue name, and the name that files carry after ``desc-``.

    Returns
    -------
    Path
        The report.
    """
    staging = output_dir / f".staging-sub-{subject}_desc-{label}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        stage(results, staging, subject, label)
        render(staging, subject, workflow)
        publish(staging, output_dir, subject, label)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return output_dir / f"sub-{subject}.html"


def render(output_dir: Path, subject: str, workflow: str) -> Path:
    """Render one subject's report from its results folder."""
    from braindecode_suite.report.subject import write_subject_report

    return write_subject_report(output_dir, subject, workflow)


def _render_all(run: Run) -> int:
    label = run.workflow.label
    found = [
        folder.name.removeprefix("sub-")
        for folder in sorted(run.output_dir.glob("sub-*"))
        if result_path(run.output_dir, folder.name.removeprefix("sub-"), label, "facts.json").is_file()
    ]
    subjects = list(run.subjects) or found
    missing = [subject for subject in subjects if subject not in found]
    if missing or not subjects:
        where = decoding_dir(run.output_dir, missing[0]) if missing else run.output_dir
        raise InputError(where, expected=f"results of workflow {run.workflow.name!r}", found="none")
    for subject in subjects:
        print(f"sub-{subject}: report in {render(run.output_dir, subject, run.workflow.name)}")
    return DONE


def _print_plan(run: Run) -> int:
    data_dir = data_folder(run)
    if run.subjects:
        subjects = ", ".join(run.subjects)
    else:
        subjects = ", ".join(run.dataset.subjects(data_dir)) if data_dir.is_dir() else "all"
    print(f"dataset   {run.dataset.card.name} in {data_dir}")
    print(f"workflow  {run.workflow.name}, preset {run.config.preset}")
    print(f"subjects  {subjects}")
    print(f"results   {run.output_dir}   work {run.work_dir}")
    print(f"device    {run.device}, precision {run.precision}, seed {run.seed}")
    for number, step in enumerate(run.workflow(run.config, _job(run, data_dir, subjects)).plan(), 1):
        print(f"{number:3d}. {step}")
    return DONE
