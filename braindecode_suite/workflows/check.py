"""``bds check``: the files of a dataset one by one, then the leakage card: what each of its splits keeps apart and what it shares."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError, LeakageError
from braindecode_suite.core.protocols import Dataset, DesignedDataset
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.split import PARTS, Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.workflows.inputs import find_dataset

TOLD = ("tuned_on_test", "shared_noise", "normalised")
"""What a loader knows of leaks that no split can mend, by its name in the provenance."""
NEEDS_TARGET = "`vectors_of`"
PLURAL = {"stimulus": "stimuli"}


def check_dataset(name: str, data_dir: Path | None, subjects: Sequence[str] = ()) -> int:
    """Print the state of a dataset's files and its leakage card.

    Parameters
    ----------
    name : str
    data_dir : Path or None
    subjects : sequence of str
        Whose splits are shown; the first one found by default. Several are also split together.

    Returns
    -------
    int
        0 if all files that are needed are there, 2 otherwise; a study that cannot be opened is a line of the card.
    """
    from rich.console import Console
    from rich.table import Column, Table

    dataset, folder = find_dataset(name, data_dir)
    if folder is None:
        raise InputError("`--data-dir`", expected=f"the folder of {dataset.card.name!r}", found="nothing")
    if not folder.is_dir():
        raise InputError(folder, expected="the folder of the data (`--data-dir`)", found="nothing there")
    known = dataset.subjects(folder)
    for subject in subjects:
        check_option("--participant-label", subject, known)
    lines = dataset.check(folder)
    table = Table(Column("file", overflow="fold"), "status", Column("found", overflow="fold"))
    for line in lines:
        table.add_row(line.path, line.status, line.found)
    Console().print(table)
    bad = [line for line in lines if line.status in ("missing", "bad")]
    print(f"{len(lines)} looked at, {len(bad)} missing or bad")
    for text in leakage_card(dataset, folder, list(subjects) or known[:1]):
        print(text)
    return 2 if bad else 0


def leakage_card(dataset: Dataset, data_dir: Path, subjects: Sequence[str]) -> list[str]:
    """Return the leakage card of some subjects, each alone and several together, as lines.

    Every protocol of the dataset is split on headers and tables alone; no response is read. Where there are no recordings but
    the design can be read, the splits are those of the design.
    """
    lines: list[str] = []
    studies: list[Study] = []
    with tempfile.TemporaryDirectory() as scratch:
        for subject in subjects:
            try:
                study = dataset.open(data_dir, subject, Path(scratch))
            except InputError as error:
                lines += ["", f"sub-{subject}: cannot be opened: {error}"]
                planned = _planned(dataset, data_dir, subject)
                if planned is None:
                    continue
                study = planned
                lines.append(
                    "  the design can be read: nothing can be decoded from it, but these would be its splits"
                )
            else:
                lines += ["", f"sub-{subject}: {_sizes(study)}"]
            lines += [f"  {text}" for text in _limits(study)]
            lines += _protocols(dataset, [study])
            studies.append(study)
        if len(studies) > 1:
            names = ", ".join(f"sub-{study.subject}" for study in studies)
            lines += ["", f"{names} together:", *_protocols(dataset, studies)]
    return lines


def _planned(dataset: Dataset, data_dir: Path, subject: str) -> Study | None:
    """Return the design as a study without a single unit, or None where it cannot be read."""
    if not isinstance(dataset, DesignedDataset):
        return None
    try:
        trials = dataset.design(data_dir, subject)
    except InputError:
        return None
    return Study(
        dataset=dataset.card.name,
        subject=subject,
        responses=np.zeros((len(trials), 0), np.float32),
        trials=trials,
        stimuli=None,
        space=UnitSpace(0),
        unit="",
    )


def _sizes(study: Study) -> str:
    return (
        f"{len(study.trials)} rows of {study.trials['stimulus_id'].nunique()} stimuli, {study.n_units} units"
    )


def _limits(study: Study) -> list[str]:
    """Return what the loader tells of leaks, and what the study lacks for some workflows."""
    told = [f"{key.replace('_', ' ')}: {study.provenance[key]}" for key in TOLD if study.provenance.get(key)]
    if study.n_units and study.stimuli is None:
        told.append("no images: only workflows that need none can be run")
    return told


def _protocols(dataset: Dataset, studies: Sequence[Study]) -> list[str]:
    lines = []
    told = {str(study.provenance.get(key)) for study in studies for key in TOLD}
    for protocol in dataset.card.protocols:
        try:
            splits = PROTOCOLS[protocol](studies)
        except InputError as error:
            reason = f"cannot be run: expected {error.expected}; found {error.found}"
            if error.where == NEEDS_TARGET:
                reason = (
                    "needs a target, whose vectors of the images are clustered: see the report of `bds run`"
                )
            lines.append(f"  {protocol}: {reason}")
        except LeakageError as error:
            lines.append(f"  {protocol}: cannot be run: {error}")
        else:
            card = [text for text in describe_splits(splits) if text.removeprefix("note: ") not in told]
            lines += [f"  {protocol}", *(f"    {text}" for text in card)]
    return lines


def describe_splits(splits: Sequence[Split]) -> list[str]:
    """Return the cards of a protocol's splits as lines: sizes, what is declared disjoint, what is shared, notes.

    Of several splits (folds, repeats) the smallest and the largest number are given.
    """
    cards = [split.card() for split in splits]
    several = f"{len(cards)} splits, each with " if len(cards) > 1 else ""
    sizes = [
        f"{part} {_span([card['trials'][part] for card in cards])} rows of "
        f"{_span([card['images'][part] for card in cards])} stimuli"
        for part in PARTS
    ]
    lines = [f"{several}{', '.join(sizes)}", f"disjoint by proof: {', '.join(cards[0]['disjoint'])}"]
    for kind, pairs in cards[0]["shared"].items():
        counts = {pair: _span([card["shared"][kind][pair] for card in cards]) for pair in pairs}
        shared = [f"{count} {pair}" for pair, count in counts.items() if count != "0"]
        if shared:
            lines.append(f"shared {PLURAL.get(kind, f'{kind}s')}: {', '.join(shared)}")
    few = _too_few(splits)
    notes = dict.fromkeys(note for card in cards for note in card["notes"])
    return [*lines, *([few] if few else []), *(f"note: {note}" for note in notes)]


def _span(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _too_few(splits: Sequence[Split]) -> str:
    try:
        for split in splits:
            split.check_training_size()
    except InputError as error:
        return f"too few for workflows that learn images: expected {error.expected}; found {error.found}"
    return ""
