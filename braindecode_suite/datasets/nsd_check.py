"""What of the NSD release is in a folder, file by file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from braindecode_suite.core.checks import check_folder
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import FileCheck
from braindecode_suite.datasets.lab_files import check_inside
from braindecode_suite.datasets.nsd_betas import read_header
from braindecode_suite.datasets.nsd_files import (
    BETA_VERSIONS,
    GRID,
    SURFACE,
    Layout,
    read_behaviour,
    read_design,
    read_label_table,
    read_volume,
)
from braindecode_suite.datasets.nsd_stimuli import read_brick_header


def check_release(data_dir: Path, labels: Sequence[str]) -> list[FileCheck]:
    """Return what is there, missing or unreadable of a release, file by file; only headers are read.

    Parameters
    ----------
    data_dir : Path
    labels : sequence of str
        Of the subjects whose betas are there.
    """
    check_folder(data_dir, "the folder of the release")
    results: list[FileCheck] = []

    def look(path: Path, read: Any, optional: bool = False) -> Any:
        name = str(path.relative_to(data_dir)) if path.is_relative_to(data_dir) else str(path)
        if not path.exists():
            results.append(FileCheck(name, "optional-missing" if optional else "missing"))
            return None
        try:
            value = read(check_inside(data_dir, path))
        except InputError as error:
            results.append(FileCheck(name, "bad", f"expected {error.expected}; found {error.found}"))
            return None
        results.append(FileCheck(name, "ok", value if isinstance(value, str) else ""))
        return value

    any_subject = Layout(data_dir, "01")
    n_stimuli: list[int] = []

    def brick(path: Path) -> str:
        n, height, width = read_brick_header(path)
        n_stimuli.append(n)
        return f"{n} images of {height} x {width}"

    def design(path: Path) -> str:
        found = read_design(path, n_stimuli[0] if n_stimuli else 2**31)
        return f"{len(found.order)} trials, {len(found.shared)} shared images, {len(found.images)} subjects"

    look(any_subject.stimuli, brick)
    look(any_subject.expdesign, design)
    look(any_subject.stim_info, lambda path: f"{path.stat().st_size} bytes", optional=True)
    if not labels:
        results.append(FileCheck("nsddata_betas/ppdata/subj01", "missing"))
    for label in labels:
        layout = Layout(data_dir, label)
        look(layout.behaviour, _count_trials, optional=True)
        for path in sorted((layout.functional / "roi").glob("*.nii.gz")) or [
            layout.functional / "roi" / "nsdgeneral.nii.gz"
        ]:
            look(path, lambda p: f"{int((read_volume(p, 'a mask')[0] > 0).sum())} voxels")
        look(
            layout.functional / "brainmask.nii.gz",
            lambda p: str(read_volume(p, "a mask")[0].shape),
            optional=True,
        )
        for path in sorted(layout.labels.glob("*.mgz.ctab")):
            look(path, lambda p: ", ".join(read_label_table(p).values()))
        for version in BETA_VERSIONS.values():
            for grid in (GRID, SURFACE):
                _check_betas(Layout(data_dir, label, version, grid), look, results)
    return results


def _count_trials(path: Path) -> str:
    table = read_behaviour(path)
    return f"{0 if table is None else len(table)} trials"


def _check_betas(layout: Layout, look: Any, results: list[FileCheck]) -> None:
    if not layout.beta_folder.is_dir():
        return
    name = str(layout.beta_folder.relative_to(layout.root))
    try:
        files = layout.session_files()
    except InputError as error:
        results.append(FileCheck(name, "bad", f"{error.found}; {error.hint}".rstrip("; ")))
        return
    surface = layout.grid == SURFACE
    for path in files.values():
        for one in (path, path.with_name(f"rh{path.name[2:]}")) if surface else (path,):
            look(one, lambda p: f"{(header := read_header(p)).n_trials} trials of {header.volume}")
    missing: Sequence[int] = [n for n in range(1, max(files) + 1) if n not in files]
    if missing:
        results.append(FileCheck(name, "missing", f"sessions {', '.join(map(str, missing))}"))
    for name in ("lh.ncsnr.mgh", "rh.ncsnr.mgh") if surface else ("ncsnr.nii.gz",):
        look(layout.beta_folder / name, lambda p: str(read_volume(p, "a map")[0].shape), optional=True)
