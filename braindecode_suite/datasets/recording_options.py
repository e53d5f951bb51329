"""How continuous recordings of MEG and EEG are filtered, cut and picked from: what all their readers let one choose."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.signal import Filter, Resample, SignalRecipe, SignalStep

Kind = Literal["meg", "mag", "grad", "eeg", "eog", "ecg", "emg", "ref_meg", "eyegaze", "pupil", "misc"]


class RecordingOptions(Config):
    """Signal and windows of continuous recordings.

    Attributes
    ----------
    sessions : list of str, optional
        Labels.
    tmin, tmax : float
        Window in seconds from the onset, both ends included (Benchetrit et al. 2023: -0.5 to 1).
    highpass, lowpass : float, optional
        Cut-offs in Hz.
    notch : list of float
        Frequencies taken out, in Hz.
    sfreq : float, optional
        Samples a second of the responses; None keeps those of the recording.
    phase : {'zero', 'causal'}
        Filters that delay nothing and need the future, or those that a live decoder can run.
    image_side : int, optional
        Resize images to squares of this many pixels.
    prepare : bool
        Filter all runs at once rather than when their first row is read; sensors that are flat, saturated or NaN are known
        only then.
    """

    sessions: tuple[str, ...] | None = None
    tmin: float = -0.5
    tmax: float = 1.0
    highpass: PositiveFloat | None = 0.1
    lowpass: PositiveFloat | None = None
    notch: tuple[PositiveFloat, ...] = ()
    sfreq: PositiveFloat | None = 120.0
    phase: Literal["zero", "causal"] = "zero"
    image_side: PositiveInt | None = None
    prepare: bool = False

    def signal(self, sfreq: float) -> SignalRecipe:
        """Return the preprocessing of a recording of this rate: filters first, then resampling."""
        steps: list[SignalStep] = []
        if self.highpass is not None or self.lowpass is not None or self.notch:
            steps.append(Filter(self.highpass, self.lowpass, self.notch, self.phase))
        if self.sfreq is not None:
            if self.sfreq > sfreq * (1 + 1e-6):
                raise InputError(
                    "option sfreq",
                    expected=f"at most the {sfreq:g} Hz of the recording",
                    found=f"{self.sfreq:g}",
                    hint="sfreq=null keeps the recording's rate",
                )
            steps.append(Resample(self.sfreq, self.phase))
        return SignalRecipe(tuple(steps), sfreq)


class ChannelOptions(RecordingOptions):
    """The same, of recordings whose channels and bad stretches can be picked; signal and windows as in `RecordingOptions`.

    Attributes
    ----------
    kinds : list of str, optional
        Channels by MNE's type: meg (mag and grad), eeg; eog, ecg, emg, ref_meg, eyegaze, pupil and misc for controls. By default the
        sensors of the data type.
    drop : list of str
        Channels left out by name.
    reject_by_annotation : bool
        Leave out trials whose window overlaps an annotation that starts with BAD, in the events or in the recording, and mask the sensors of
        those that name channels.
    """

    kinds: tuple[Kind, ...] | None = None
    drop: tuple[str, ...] = ()
    reject_by_annotation: bool = True
