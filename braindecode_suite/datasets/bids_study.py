"""Opening one participant of a BIDS dataset: betas yet to be estimated from BOLD, or read back from a derivative."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.spaces import SurfaceSpace, VoxelSpace
from braindecode_suite.core.study import Noise, Study
from braindecode_suite.datasets.bids_events import read_run_events
from braindecode_suite.datasets.bids_layout import NATIVE, find_derivatives, find_runs, read_json
from braindecode_suite.datasets.bids_series import BoldSpace, open_space, read_header
from braindecode_suite.datasets.bids_surface import mesh_of, read_surface_mask
from braindecode_suite.datasets.glmsingle import TUNED, Conversion, find_outputs, match_runs
from braindecode_suite.datasets.image_files import open_stimuli
from braindecode_suite.datasets.lab_files import check_inside
from braindecode_suite.datasets.single_trial_betas import Estimation, Model, combine_trials
from braindecode_suite.datasets.single_trial_design import (
    Hrf,
    MotionModel,
    Strategy,
    default_response,
    response_names,
)
from braindecode_suite.datasets.single_trial_files import (
    BetaFiles,
    SingleTrialBetas,
    read_ncsnr,
    read_place,
    read_trials,
)
from braindecode_suite.datasets.volumes import check_grid, read_mask

SHARED_NOISE = (
    "betas of one run share noise (drifts, overlapping responses, confounds fitted together): trials of a run on both "
    "sides of a split are not independent; leave-one-run-out is the default"
)


class BidsFmriOptions(Config):
    """How a participant is read.

    Attributes
    ----------
    derivatives : str
        fMRIPrep's folder, where it is not ``derivatives/fmriprep``.
    space : str
        Output space: ``T1w``, ``MNI152NLin2009cAsym:res-2``, ``func``, ``fsaverage5``, ``fsLR:den-91k``; needed where there are
        several volumes or, without volumes, several surfaces.
    task : str
    sessions : list of str, optional
        Labels.
    mask : str
        NIfTI mask on the grid of the BOLD; by default the brain in every run. On a surface a file a hemisphere, ``{hemi}`` in
        its name.
    rois : dict of str to str
        Regions: name and mask, as for `mask`.
    stimulus_column : str
        Column of the events that names the stimulus, so that repeats are known; by default the first there is of stim_id,
        stim_file, stimulus and trial_type.
    trial_types : list of str, optional
        Only events with one of these in trial_type are trials.
    duration : float, optional
        Seconds of every trial, instead of the events' durations.
    estimator : {'lss', 'lsa', 'glmsingle'}
        Each trial on its own, all at once, or betas that GLMsingle has left below ``derivatives/glmsingle/sub-*``.
    hrf : {'glover', 'spm', 'library'}
        ``library``: the best of ten responses in each voxel, chosen in training runs when a split is fitted.
    high_pass : float
        Cut-off in Hz, 0 for none.
    confounds : list of str
        Strategies of nilearn's ``load_confounds``: motion, wm_csf, global_signal, compcor, high_pass, scrub.
    motion : {'basic', 'power2', 'derivatives', 'full'}
    model_others : bool
        Whether events that are not trials are modelled.
    glmsingle : str
        Folder of GLMsingle's outputs, where it is not ``derivatives/glmsingle``.
    stimuli : str
        Folder of the images, where it is not ``stimuli``.
    image_side : int, optional
        Resize images to squares of this many pixels.
    prepare : bool
        Estimate at once rather than when the first row is read; the noise ceiling and the voxels without signal are
        known only then.
    """

    derivatives: str = ""
    space: str = ""
    task: str = ""
    sessions: tuple[str, ...] | None = None
    mask: str = ""
    rois: dict[str, str] = Field(default_factory=dict)
    stimulus_column: str = ""
    trial_types: tuple[str, ...] | None = None
    duration: PositiveFloat | None = None
    estimator: Literal["lss", "lsa", "glmsingle"] = "lss"
    hrf: Hrf = "glover"
    high_pass: NonNegativeFloat = 1 / 128
    confounds: tuple[Strategy, ...] = ("motion",)
    motion: MotionModel = "basic"
    model_others: bool = True
    glmsingle: str = ""
    stimuli: str = ""
    image_side: PositiveInt | None = None
    prepare: bool = False


def open_bold(data_dir: Path, subject: str, work_dir: Path, options: BidsFmriOptions) -> Study:
    """Open a participant whose betas are to be estimated from BOLD; they go into a derivative below `work_dir`."""
    derivatives = find_derivatives(data_dir, options.derivatives)
    runs, warnings = find_runs(
        data_dir, derivatives, subject, space=options.space, task=options.task, sessions=options.sessions
    )
    headers = [read_header(run) for run in runs]
    space = open_space(runs, headers, options.mask)
    events = [
        read_run_events(
            run.events,
            header.n_volumes * header.t_r,
            stimulus_column=options.stimulus_column,
            trial_types=options.trial_types,
            duration=options.duration,
        )
        for run, header in zip(runs, headers, strict=True)
    ]
    trials = combine_trials(tuple(runs), tuple(headers), tuple(events))
    chosen = options.model_dump(mode="json", exclude={"prepare", "rois", "stimuli", "image_side"})
    root = work_dir / f"singletrial_{data_hash([str(data_dir.resolve()), chosen])[:8]}"
    one_task = len({run.task for run in runs}) == 1
    files = BetaFiles.of(root, subject, runs[0].task if one_task else "", runs[0].space)
    provenance: dict[str, Any] = {"derivative": str(root), "space": runs[0].space}
    outputs = find_outputs(data_dir, options.glmsingle, subject)
    if options.estimator == "glmsingle":
        if not outputs:
            raise InputError(
                data_dir / (options.glmsingle or "derivatives/glmsingle") / f"sub-{subject}",
                expected="GLMsingle's outputs (option glmsingle)",
                found="none",
            )
        if not isinstance(space, VoxelSpace):
            raise InputError(
                "option estimator",
                expected="lss or lsa on the surface",
                found="glmsingle",
                hint="its outputs are read in the volume they were made in",
            )
        counts = [len(one.trials) for one in events]
        conversion = Conversion(
            sources=match_runs(outputs, runs, counts),
            space=space,
            files=files,
            trials=trials,
            run_of_trial=np.repeat(np.arange(len(runs)), counts),
        ).check()
        shape = (len(trials), space.n_units)
        responses = SingleTrialBetas(files, shape, make=conversion.write, key=conversion.key)
        provenance |= {
            "betas": "GLMsingle",
            "files": [path.name for path, _ in conversion.sources],
            "tuned_on_test": TUNED,
        }
    else:
        model = Model(
            estimator=options.estimator,
            hrf=options.hrf,
            high_pass=options.high_pass,
            confounds=options.confounds,
            motion=options.motion,
            model_others=options.model_others,
        )
        estimation = Estimation(
            runs=tuple(runs),
            headers=tuple(headers),
            events=tuple(events),
            space=space,
            model=model,
            files=files,
            trials=trials,
        )
        responses = SingleTrialBetas(
            files,
            (len(trials), space.n_units),
            n_responses=len(response_names(model.hrf)),
            default=default_response(model.hrf),
            make=estimation.write,
            key=estimation.key,
            scratch=work_dir / "betas",
        )
        provenance |= {
            "betas": f"{options.estimator.upper()}, {options.hrf}, from BOLD",
            "files": [header.path.name for header in headers],
            "model": vars(model),
        }
        if outputs:
            warnings.append("GLMsingle's betas are there too: estimator=glmsingle reads them")
    warnings += _gather([text for header in headers for text in header.warnings])
    warnings += _gather([text for one in events for text in one.warnings])
    space = _read_rois(options, space, runs[0].bold)
    return _make_study(data_dir, subject, options, responses, trials, space, warnings, provenance)


def open_written(
    data_dir: Path,
    subject: str,
    written: list[BetaFiles],
    options: BidsFmriOptions,
    work_dir: Path | None = None,
) -> Study:
    """Open betas that are in a derivative already; options of the model do not apply."""
    if len(written) > 1:
        found = [
            files
            for files in written
            if not options.space or files.stem.endswith(f"_space-{options.space.replace(':', '_')}")
        ]
        found = [files for files in found if not options.task or f"task-{options.task}" in files.stem]
        if len(found) != 1:
            raise InputError(
                written[0].folder,
                expected="one file of betas, chosen by the options space and task",
                found=", ".join(files.stem for files in found or written),
            )
        written = found
    files = written[0]
    for path in (files.betas, files.events, files.mask):
        check_inside(data_dir, path)
    sidecar = read_json(files.sidecar)
    place = re.search(r"_space-(.+)$", files.stem)
    name = re.sub(r"_(res|den)-", r":\1-", place[1]) if place else NATIVE
    space = read_place(files, name, mesh_of(name))
    trials = read_trials(files.events)
    names = sidecar.get("HaemodynamicResponses")
    default = sidecar.get("DefaultResponse", 0)
    if (
        not isinstance(names, list)
        or not names
        or not isinstance(default, int)
        or not 0 <= default < len(names)
    ):
        raise InputError(
            files.sidecar,
            expected="HaemodynamicResponses and which of them is the default",
            found=repr((names, default)),
        )
    scratch = None if work_dir is None else work_dir / "betas"
    shape = (len(trials), space.n_units)
    responses = SingleTrialBetas(files, shape, len(names), default, scratch=scratch)
    provenance = {
        "derivative": str(data_dir),
        "betas": f"{str(sidecar.get('Estimator', 'unknown')).upper()}, read back",
        "files": [files.betas.name],
        "tuned_on_test": str(sidecar.get("TunedOnTest", "")),
        "model": {
            key: sidecar.get(key)
            for key in ("Estimator", "HaemodynamicResponses", "HighPassCutoffHz", "Confounds")
        },
    }
    space = _read_rois(options, space, files.mask)
    return _make_study(
        data_dir,
        subject,
        options.model_copy(update={"prepare": True}),
        responses,
        trials,
        space,
        [],
        provenance,
    )


def _make_study(
    data_dir: Path,
    subject: str,
    options: BidsFmriOptions,
    responses: SingleTrialBetas,
    trials: pd.DataFrame,
    space: BoldSpace,
    warnings: list[str],
    provenance: dict[str, Any],
) -> Study:
    stimuli, image_warnings = open_stimuli(data_dir, trials, options.stimuli, options.image_side)
    if trials["repeat"].max() == 1:
        warnings.append("no stimulus repeats: there is no noise ceiling")
    study = Study(
        dataset="bids-fmri",
        subject=subject,
        responses=responses,
        trials=trials,
        stimuli=stimuli,
        space=space,
        unit="percent signal change",
        provenance={
            "folder": str(data_dir),
            **provenance,
            "shared_noise": SHARED_NOISE,
            "warnings": [*warnings, *image_warnings],
        },
    )
    return prepare(study) if options.prepare else study


def prepare(study: Study) -> Study:
    """Estimate the betas now if that has not been done, and return the study with its noise and valid voxels.

    Raises
    ------
    InputError
        If `study` is not of this loader, or its BOLD cannot be read.
    """
    if not isinstance(study.responses, SingleTrialBetas):
        raise InputError("`study`", expected="a study of bids-fmri", found=study.dataset)
    responses = study.responses.prepare()
    noise, space = None, study.space
    if isinstance(space, VoxelSpace | SurfaceSpace):
        values = read_ncsnr(responses.files, space)
        if values is not None:
            source = "repeats of all trials, test ones included, z-scored within session; rectified"
            noise = Noise(values, source)
    valid = responses.valid
    warnings = list(study.provenance["warnings"])
    if not valid.all():
        units = "vertices" if isinstance(space, SurfaceSpace) else "voxels"
        warnings.append(f"{int((~valid).sum())} of {len(valid)} {units} are constant in some run")
    return replace(study, noise=noise, valid=valid, provenance={**study.provenance, "warnings": warnings})


def _gather(warnings: list[str], most: int = 4) -> list[str]:
    """Keep a list of warnings of many runs short."""
    return (
        warnings
        if len(warnings) <= most
        else [*warnings[:most], f"and {len(warnings) - most} more like these"]
    )


def _read_rois(options: BidsFmriOptions, space: BoldSpace, where: Path) -> BoldSpace:
    """Return the space with the regions of the option rois, which must lie on its grid or mesh."""
    rois = {}
    for name, file in options.rois.items():
        if isinstance(space, SurfaceSpace):
            sides = read_surface_mask(file, (len(space.left), len(space.right)), f"the region {name!r}")
            rois[name] = np.concatenate([sides[0][space.left], sides[1][space.right]])
            continue
        region, affine = read_mask(Path(file), f"the region {name!r}")
        check_grid(Path(file), region.shape, affine, where, space.inverse_transform(np.zeros(space.n_units)))
        rois[name] = region[space.mask]
    return replace(space, rois=rois)
