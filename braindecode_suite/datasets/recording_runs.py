"""From an opened recording to a run that is yet to be preprocessed: which channels, and which stretches are bad."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from braindecode_suite.core.errors import MissingChannels
from braindecode_suite.datasets.bad_segments import read_bad_segments
from braindecode_suite.datasets.meg_runs import Run
from braindecode_suite.datasets.recording_files import Recording, open_recording
from braindecode_suite.datasets.recording_options import ChannelOptions
from braindecode_suite.datasets.stimulus_events import STIMULUS_COLUMN


def make_run(
    recording: Recording, raw: Any, options: ChannelOptions, folder: Path, stimulus_column: str = ""
) -> tuple[Run, list[str]]:
    """Return the run as it is to be preprocessed, with the channels that are asked for and the stretches marked as bad, and warnings.

    Parameters
    ----------
    recording : Recording
    raw : mne.io.BaseRaw
        As `open_recording` gives it.
    options : ChannelOptions
    folder : Path
        Where what is made is kept.
    stimulus_column : str
        Column of the events that names the picture, where it is not the usual one; a row with a picture is no annotation.
    """
    wanted = options.kinds or (recording.datatype,)
    kinds = {kind for name in wanted for kind in (("mag", "grad") if name == "meg" else (name,))}
    types = raw.get_channel_types()
    kept = [
        (name, kind)
        for name, kind in zip(raw.ch_names, types, strict=True)
        if kind in kinds and name not in options.drop
    ]
    if not kept:
        raise MissingChannels(
            recording.path,
            expected=f"channels of type {', '.join(wanted)} (option kinds)",
            found=", ".join(sorted(set(types))),
        )
    names = tuple(name for name, _ in kept)
    run = Run(
        name=recording.name,
        session=recording.session or "1",
        path=recording.path,
        read=partial(_read, recording),
        names=names,
        kinds=tuple(kind for _, kind in kept),
        bad=tuple(name for name in raw.info["bads"] if name in names),
        n_samples=int(raw.n_times),
        signal=options.signal(float(raw.info["sfreq"])),
        fingerprint=recording.fingerprint(),
        folder=folder,
    )
    if not options.reject_by_annotation:
        return run, []
    segments, warnings = read_bad_segments(recording, stimulus_column or STIMULUS_COLUMN)
    return replace(run, segments=segments), warnings


def _read(recording: Recording) -> Any:
    return open_recording(recording)[0]
