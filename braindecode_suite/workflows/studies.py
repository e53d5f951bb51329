"""A job's study, opened and filtered, and what of it images are drawn by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.study import Study
from braindecode_suite.datasets.meg_runs import EpochRows
from braindecode_suite.datasets.recording_study import prepare as prepare_recordings
from braindecode_suite.workflows.job import Job


def open_study(job: Job, options: Mapping[str, Any], data_dir: Path | None = None) -> Study:
    """Open the job's subject; raw MEG and EEG is filtered at once, since only then is it known which sensors are missing.

    Parameters
    ----------
    job : Job
    options : mapping
        Of the dataset.
    data_dir : Path, optional
        By default the job's own.
    """
    return filtered(job.dataset.open(data_dir or job.data_dir, job.subject, job.work_dir, **options))


def filtered(study: Study) -> Study:
    """Return a study of raw recordings with all runs filtered and unusable sensors flagged, any other as it is."""
    return prepare_recordings(study) if isinstance(study.responses, EpochRows) else study


def resampling_units(study: Study, ids: np.ndarray) -> dict[str, Any]:
    """Return ``unit`` and ``units`` for the intervals: concepts where several of the images share one, images otherwise."""
    if "concept" not in study.trials.columns:
        return {}
    concept = study.trials.drop_duplicates("stimulus_id").set_index("stimulus_id")["concept"]
    known = concept.reindex(list(ids))
    units = known.where(known.notna(), known.index).to_numpy(dtype=object).astype(str)  # alone where unknown
    return {} if len(set(units)) == len(units) else {"unit": "concept", "units": units}
