"""``bds fetch``: a dataset from its open mirror into a folder, or where to ask for it. Nothing else in the package downloads data."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import requests

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DatasetCard
from braindecode_suite.datasets import DATASETS
from braindecode_suite.datasets.download import (
    PATIENT,
    DownloadError,
    Patience,
    download,
    is_right,
    open_session,
    part_path,
)
from braindecode_suite.datasets.openneuro import (
    ACCESSION,
    BUCKET,
    RemoteFile,
    list_files,
    place,
    select_files,
)

DONE, FAILED = 0, 1
UNITS = ("B", "kB", "MB", "GB", "TB")


def fetch_dataset(
    name: str,
    data_dir: Path | None,
    *,
    subjects: Sequence[str] = (),
    everything: bool = False,
    dry_run: bool = False,
    bucket: str = BUCKET,
    patience: Patience = PATIENT,
    progress: bool = False,
) -> int:
    """Download what a dataset's loader reads, and say what is still to be asked for elsewhere.

    Parameters
    ----------
    name : str
        Catalogue name, or any dataset of OpenNeuro by its accession number.
    data_dir : Path or None
        Where to; made if it is not there.
    subjects : sequence of str
        Labels; all by default. Files of no subject come with them.
    everything : bool
        All files of the mirror, raw BOLD too, rather than those that the loader reads.
    dry_run : bool
        List the files and stop.
    bucket : str
        Address of the bucket.
    patience : Patience
    progress : bool

    Returns
    -------
    int
        0 if all files are there and right, 1 if some could not be had.

    Raises
    ------
    InputError
        If the dataset has no open mirror (saying where to ask), a subject is unknown, a path is not safe, or the disk is too small.
    """
    card: DatasetCard | None = None if ACCESSION.fullmatch(name) else DATASETS[name].card
    accession, patterns = (name, ()) if card is None else _mirror(card)
    if data_dir is None:
        raise InputError("`--data-dir`", expected="the folder to download into", found="nothing")
    if data_dir.exists() and not data_dir.is_dir():
        raise InputError(data_dir, expected="a folder to download into", found="a file")
    session = open_session(bucket)
    try:
        listed = list_files(session, bucket, accession, patience)
    except DownloadError as error:
        print(f"bds fetch: {error}", file=sys.stderr)
        return FAILED
    files = select_files(listed, subjects, () if everything else patterns, accession)
    targets = [place(data_dir, file) for file in files]
    if card is not None:
        print(f"terms: {card.terms}")
    print(
        f"{accession} in {bucket}: {len(files)} of {len(listed)} files, {in_words(sum(f.size for f in files))} "
        f"of {in_words(sum(f.size for f in listed))}, into {data_dir}"
    )
    if dry_run:
        for file in files:
            print(f"{in_words(file.size):>9}  {file.path}")
        return DONE
    check_room(data_dir, files, targets)
    outcomes = _fetch(session, f"{bucket}/{accession}", files, targets, patience, progress)
    print(", ".join(f"{count} {what}" for what, count in outcomes.items()))
    if card is not None:
        if card.source:
            print(f"not there: {card.source}")
        print(f"next: bds check {card.name} --data-dir {data_dir}")
    return FAILED if outcomes["failed"] else DONE


def _mirror(card: DatasetCard) -> tuple[str, tuple[str, ...]]:
    """Return a dataset's accession number and what of it is read; without an open mirror say how else to get it."""
    if card.openneuro:
        return card.openneuro, card.openneuro_files
    raise InputError(
        card.name, expected="a dataset with an open mirror", found=f"none. {card.terms}", hint=card.source
    )


def check_room(data_dir: Path, files: Sequence[RemoteFile], targets: Sequence[Path]) -> None:
    """Raise unless the disk holds what is still to come."""
    needed = sum(file.size - _bytes_there(file, target) for file, target in zip(files, targets, strict=True))
    above = next(folder for folder in (data_dir, *data_dir.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(above).free
    if needed > free:
        raise InputError(
            data_dir,
            expected=f"{in_words(needed)} of free space",
            found=in_words(free),
            hint="--participant-label takes some subjects only",
        )


def _bytes_there(file: RemoteFile, target: Path) -> int:
    for path in (target, part_path(target, file.etag)):
        if path.is_file():
            return min(path.stat().st_size, file.size)
    return 0


def _fetch(
    session: requests.Session,
    address: str,
    files: Sequence[RemoteFile],
    targets: Sequence[Path],
    patience: Patience,
    show: bool,
) -> Counter[str]:
    """Get one file after the other; one that cannot be had is told, and the others go on."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    outcomes: Counter[str] = Counter()
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("", total=sum(file.size for file in files))
        before = 0
        for file, target in zip(files, targets, strict=True):

            def advance(done: int, before: int = before) -> None:
                bar.update(task, completed=before + done)

            outcome, remark = _fetch_one(session, address, file, target, patience, advance)
            outcomes[outcome] += 1
            if remark:
                bar.console.print(f"{file.path}: {remark}", markup=False, highlight=False, soft_wrap=True)
            before += file.size
            bar.update(task, completed=before)
    return outcomes


def _fetch_one(
    session: requests.Session,
    address: str,
    file: RemoteFile,
    target: Path,
    patience: Patience,
    advance: Callable[[int], None],
) -> tuple[str, str]:
    """Return what became of a file, and a remark where there is one to make."""
    try:
        if is_right(target, file.size, file.etag):
            return "there already", ""
        replaced = "was there with other content: replaced" if target.is_file() else ""
        url = f"{address}/{quote(str(file.path))}"
        compared = download(session, url, target, file.size, file.etag, patience=patience, progress=advance)
    except DownloadError as error:
        return "failed", str(error)
    except OSError as error:
        raise InputError(
            target, expected="a file that can be written", found=error.strerror or str(error)
        ) from error
    if compared:
        return "downloaded", replaced
    return "downloaded", f"only its size could be compared (ETag {file.etag})"


def in_words(size: int) -> str:
    """Return a number of bytes in words.

    Examples
    --------
    >>> in_words(512), in_words(15_700_000_000)
    ('512 B', '15.7 GB')
    """
    value, unit = float(size), UNITS[0]
    for unit in UNITS:
        if value < 1000 or unit == UNITS[-1]:
            break
        value /= 1000
    return f"{value:.1f} {unit}" if unit != "B" else f"{size} B"
