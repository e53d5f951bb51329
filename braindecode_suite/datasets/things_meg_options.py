"""What can be chosen when a subject of THINGS-MEG is read."""

from __future__ import annotations

from typing import Literal, Self

from braindecode_suite.datasets.recording_options import ChannelOptions
from braindecode_suite.datasets.things_meg_onsets import Source

BROKEN = "MRO11-1609"


class ThingsMegOptions(ChannelOptions):
    """How a subject is read; of released epochs, sessions and channels to drop can be chosen.

    Attributes
    ----------
    files : {'', 'raw', 'epochs'}
        Raw recordings, or the authors' epochs; raw ones where there are any, by default.
    onsets : {'trigger', 'sample', 'onset'}
        Where onsets of raw recordings come from: trigger channel, or a column of events.tsv.
    drop : list of str
        Channels left out, with or without serial number; the broken MRO11-1609 by default.
    mend : bool
        Replace the two known dropouts by each channel's median before anything is filtered.
    stimuli : str
        Folder of the images, such as THINGS' own, where they are not in the dataset.
    sessions, kinds, reject_by_annotation, tmin, tmax, highpass, lowpass, notch, sfreq, phase, image_side, prepare
        As in `ChannelOptions` and `RecordingOptions`. Sessions have two digits, the eye tracker's channels are misc, and a dropout
        counts as an annotation that starts with BAD.
    """

    files: Literal["", "raw", "epochs"] = ""
    onsets: Source = "trigger"
    drop: tuple[str, ...] = (BROKEN,)
    mend: bool = True
    stimuli: str = ""

    def recording(self) -> Self:
        """Return the options with each channel to drop named without its serial number too, as some recordings have it."""
        return self.model_copy(update={"drop": (*self.drop, *(name.split("-")[0] for name in self.drop))})
