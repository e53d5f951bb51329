"""Every number of the simulated MEG study, each with where it comes from. Frozen: models are tuned, these are not.

A source is a publication, a released data set ("THINGS-MEG", as described by Hebart et al. 2023), mne, or "our choice".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.simulate_parameters import Share, VoxelParameters

Point = tuple[float, float, float]
JITTERS_MS = (0, 15, 30, 60)


class MEGStudySize(Config):
    """How large a study is. Images are shared: every subject sees all of them."""

    n_subjects: PositiveInt = Field(description="THINGS-MEG: 4.")
    n_train: PositiveInt = Field(description="Training images, shown once each. THINGS-MEG: 22,248.")
    n_twice: NonNegativeInt = Field(description="Training images that are shown a second time. Our choice.")
    n_test: PositiveInt = Field(description="Test images. THINGS-MEG: 200.")
    test_repeats: PositiveInt = Field(description="Presentations of each test image. THINGS-MEG: 12.")
    sessions: PositiveInt = Field(description="THINGS-MEG: 12.")
    runs_per_session: PositiveInt = Field(description="THINGS-MEG: 10.")
    image_size: PositiveInt = Field(default=64, description="Side of a stimulus in pixels. Our choice.")
    n_distractors: PositiveInt = Field(
        default=5,
        description="Images drawn to match each test image in main category and place. Our choice.",
    )

    @property
    def n_images(self) -> int:
        """Images of the whole study."""
        return self.n_train + self.n_test

    @property
    def n_runs(self) -> int:
        """Runs of one subject."""
        return self.sessions * self.runs_per_session

    @property
    def n_trials(self) -> int:
        """Trials of one subject."""
        return self.n_train + self.n_twice + self.n_test * self.test_repeats


MEG_SIZES: dict[str, MEGStudySize] = {
    "seconds": MEGStudySize(
        n_subjects=2, n_train=100, n_twice=6, n_test=8, test_repeats=3, sessions=3, runs_per_session=1
    ),
    "small": MEGStudySize(
        n_subjects=2, n_train=240, n_twice=40, n_test=40, test_repeats=4, sessions=2, runs_per_session=2
    ),
    "demo": MEGStudySize(
        n_subjects=4, n_train=1800, n_twice=150, n_test=200, test_repeats=3, sessions=3, runs_per_session=6
    ),
    "large": MEGStudySize(
        n_subjects=4, n_train=6000, n_twice=600, n_test=200, test_repeats=12, sessions=6, runs_per_session=10
    ),
}
"""Presets. `seconds`: tests. `small`: null studies by the hundred. `demo`: 2550 trials, 0.24 GB a subject. `large`: 9000 trials, 0.9 GB a subject."""


class RecordingParameters(Config):
    """How the recording is made: rates, times, and in which units it is stored."""

    sfreq: PositiveFloat = Field(
        default=160.0,
        description="Samples a second. THINGS-MEG: 1200; our choice, for size on disk: responses end at 30 Hz.",
    )
    image_seconds: PositiveFloat = Field(default=0.5, description="Time on the screen. THINGS-MEG: 0.5.")
    spacing: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.95, 1.15),
        description="Seconds from one onset to the next, uniform. THINGS-MEG: 1.3 to 1.7; our choice, for size on disk.",
    )
    lead: PositiveFloat = Field(
        default=2.0, description="Seconds before the first onset of a run. Our choice."
    )
    tail: PositiveFloat = Field(
        default=1.5, description="Seconds from the last onset of a run to its end. Our choice."
    )
    trigger_channel: str = Field(default="UPPT001", description="THINGS-MEG.")
    trigger: PositiveInt = Field(
        default=64, description="Value of the trigger at an image's onset. THINGS-MEG."
    )
    trigger_samples: PositiveInt = Field(default=4, description="Samples that it lasts. Our choice.")
    resolution: PositiveFloat = Field(
        default=3.3e-16,
        description="Tesla a step of the 16-bit integers. Of the order of a CTF-275 system's calibration as mne reads it.",
    )


class HelmetParameters(Config):
    """How mne's flat layout is lifted onto mne's helmet, and where the head is in it."""

    layout_centre: tuple[float, float] = Field(
        default=(0.4993, 0.4808),
        description="Where the axis of projection meets the layout CTF-275. With the next two fitted by least squares to mne's "
        "canonical CTF positions: the layout is an azimuthal equidistant projection, to 3 mm on average.",
    )
    layout_radian: PositiveFloat = Field(
        default=0.2262, description="Length of one radian on the layout. As above, from mne."
    )
    projection_centre: Point = Field(
        default=(0.0, 0.0, -0.02),
        description="Centre of projection, m in the device frame. As above, from mne.",
    )
    gap: PositiveFloat = Field(
        default=0.015,
        description="Sensors lie so many metres outside mne's helmet, along the ray. Median over mne's canonical positions.",
    )
    head: Point = Field(
        default=(0.0, 0.010, 0.060),
        description="Origin of the device in the head frame, m. Our choice, of the order of CTF recordings.",
    )
    session_shift: PositiveFloat = Field(
        default=0.003,
        description="Deviation of that origin between sessions along each axis, m. Our choice; head casts reach 1 to 2 mm.",
    )
    session_turn: PositiveFloat = Field(
        default=1.5,
        description="Deviation of the head's turn between sessions about each axis, degrees. Our choice.",
    )
    sphere_centre: Point = Field(
        default=(0.0, 0.0, 0.04),
        description="Centre of the spherical conductor, m in the head frame. mne's default.",
    )
    sphere_radius: PositiveFloat = Field(default=0.09, description="Radius of the head, m. mne's default.")


class SourceParameters(Config):
    """Where the responses arise, what they carry and when."""

    tuning: VoxelParameters = Field(
        default=VoxelParameters(attribute_gain=0.5, selective_own=1.0, n_reference=200),
        description="Tuning of a source, as that of simulated voxels with its own sources; the attributes of an object weigh less "
        "than its category. Our choice.",
    )
    n_early: PositiveInt = Field(
        default=32,
        description="Retinotopic sources: Gabor energy, luminance and colour of a part. Our choice.",
    )
    per_category: PositiveInt = Field(
        default=2,
        description="Sources that prefer each category, half of them in each hemisphere. Our choice.",
    )
    n_place: PositiveInt = Field(default=6, description="Sources that tell kinds of place apart. Our choice.")
    eccentric: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.82, 0.68),
        description="Distance of early and of late sources from the centre of the sphere, in radii. Early visual cortex lies "
        "under the skull, ventral temporal cortex deeper; values: our choice.",
    )
    scatter: PositiveFloat = Field(
        default=0.12,
        description="How far a subject's sources lie from where those of the mean subject do, radians on the sphere. Our choice.",
    )
    latency: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.100, 0.225),
        description="Mean peak of early and of late responses after onset, s. Cichy et al. 2014: 0.1 in V1; Carlson et al. 2013: "
        "categories at 0.2 to 0.25.",
    )
    latency_sd: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.008, 0.015), description="Deviation of the peak over sources, s. Our choice."
    )
    width: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.025, 0.045), description="Deviation of the Gaussian envelope of a response, s. Our choice."
    )
    frequency: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(9.0, 5.0),
        description="Frequency of the wave under the envelope, Hz: alternating deflections as of the M100 and M170. Our choice.",
    )
    offset_latency: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.110, 0.180),
        description="Mean peak after the image goes off, s. THINGS-MEG: a second peak of decoding 0.15 to 0.2 after offset.",
    )
    offset_gain: tuple[Share, Share] = Field(
        default=(0.4, 0.6),
        description="Size of the response to the offset over that to the onset. Our choice.",
    )
    opens: tuple[float, float] = Field(
        default=(0.02, 0.05),
        description="A raised cosine between these times after onset (offset): no response is faster. Retina to cortex takes "
        "about 0.05; our choice.",
    )
    closes: tuple[float, float] = Field(
        default=(0.87, 0.92),
        description="Likewise at the end, so that a response is over before the next image. Our choice.",
    )
    common: PositiveFloat = Field(
        default=2.0,
        description="Response to any image, mean over sources, in deviations of the response between images. Our choice.",
    )
    variability: PositiveFloat = Field(
        default=1.5,
        description="Deviation of a source's response from trial to trial, in deviations between images; it limits what a single "
        "trial can tell. Evoked responses vary as much as they differ (Arieli et al. 1996); value: our choice.",
    )
    late_over_early: PositiveFloat = Field(
        default=1.0, description="Size of late over early responses at the sensors. Our choice."
    )


class MEGNoiseParameters(Config):
    """What is added at the sensors."""

    n_dipoles: PositiveInt = Field(
        default=160, description="Dipoles of the brain's own activity, all over the sphere. Our choice."
    )
    depth: tuple[Share, Share] = Field(
        default=(0.35, 0.85),
        description="Their distance from the centre in radii, uniform in volume. Our choice.",
    )
    brain: PositiveFloat = Field(
        default=300e-15,
        description="Deviation of the brain's activity, root mean square over sensors, tesla up to the Nyquist frequency. "
        "Our choice, of the order of what is left of a recording at rest above 0.1 Hz.",
    )
    exponent: PositiveFloat = Field(
        default=1.0,
        description="Its power falls with frequency to this power. Dehghani et al. 2010: about 1 in MEG.",
    )
    knee: PositiveFloat = Field(
        default=0.5, description="Below this frequency the power is flat, Hz. Our choice."
    )
    alpha: PositiveFloat = Field(
        default=2.0, description="Power of the alpha rhythm at its peak over the 1/f power there. Our choice."
    )
    alpha_hz: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(10.0, 1.0), description="Centre and deviation of the alpha peak, Hz. Our choice."
    )
    sensor: PositiveFloat = Field(
        default=6e-15,
        description="White noise of a sensor, tesla per root hertz. Our choice, of the order given for CTF systems.",
    )


class MEGAwkwardParameters(Config):
    """What is wrong with the awkward subject, as it may be with a real one."""

    subject: PositiveInt = Field(default=2, description="Number of the awkward subject. Our choice.")
    session: PositiveInt = Field(default=2, description="Session in which it goes wrong. Our choice.")
    sensor: str = Field(
        default="MRO11",
        description="Sensor that is flat there and marked bad. The one that fails in THINGS-MEG.",
    )


class MEGSimulationOptions(Config):
    """What a user chooses; everything else follows from the presets.

    Attributes
    ----------
    size : {'seconds', 'small', 'demo', 'large'}
    jitter_ms : {0, 15, 30, 60}
        Standard deviation over trials of the latency of the whole response, in milliseconds.
    snr : float
        Of one trial: deviation between images of the response at its peak over that of the noise (0 to Nyquist), both root
        mean square over sensors.
    noise_covariance : Path, optional
        A FIF covariance of any system; its eigenvalues become those of the brain's activity (see `simulate_meg_noise`).
    evoked : Path, optional
        A FIF file of averages; its time course becomes that of a response (see `simulate_meg_sources`).
    null : bool
        No image changes the responses; all images evoke the same one.
    subjects : int, optional
        Write only so many of the preset's subjects.
    seed : int
        Draws people, images, order, jitter and noise.
    recording : int
        Draws order, jitter and noise anew, with the same people and images.
    """

    size: Literal["seconds", "small", "demo", "large"] = "demo"
    jitter_ms: Literal[0, 15, 30, 60] = 0
    snr: PositiveFloat = 0.8
    noise_covariance: Path | None = None
    evoked: Path | None = None
    null: bool = False
    subjects: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    recording: Annotated[int, Field(ge=0)] = 0

    @property
    def study_size(self) -> MEGStudySize:
        """The preset, with as many subjects as asked for."""
        size = MEG_SIZES[self.size]
        if self.subjects is None:
            return size
        if self.subjects > size.n_subjects:
            raise InputError("`subjects`", expected=f"at most {size.n_subjects}", found=str(self.subjects))
        return size.model_copy(update={"n_subjects": self.subjects})


class MEGParameters(Config):
    """All parameters of a simulated MEG study."""

    options: MEGSimulationOptions = MEGSimulationOptions()
    recording: RecordingParameters = RecordingParameters()
    helmet: HelmetParameters = HelmetParameters()
    sources: SourceParameters = SourceParameters()
    noise: MEGNoiseParameters = MEGNoiseParameters()
    awkward: MEGAwkwardParameters = MEGAwkwardParameters()

    @property
    def jitter(self) -> float:
        """Deviation of the latency over trials, seconds."""
        return self.options.jitter_ms / 1000


def meg_parameter_sources() -> dict[str, str]:
    """Return ``group.parameter -> what it is and where it comes from`` for every parameter."""
    groups: dict[str, type[Config]] = {
        "size": MEGStudySize,
        "recording": RecordingParameters,
        "helmet": HelmetParameters,
        "sources": SourceParameters,
        "noise": MEGNoiseParameters,
        "awkward": MEGAwkwardParameters,
    }
    return {
        f"{group}.{name}": field.description or ""
        for group, model in groups.items()
        for name, field in model.model_fields.items()
    }
