"""Every number of the simulated NSD study, each with where it comes from. Frozen: models are tuned, these are not.

A source is a publication, the release itself ("NSD", as described by Allen et al. 2022), or "our choice".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError

Share = Annotated[float, Field(ge=0, le=1)]
Kind = Literal["retinotopic", "category", "place", "mixture"]
KINDS: tuple[Kind, ...] = ("retinotopic", "category", "place", "mixture")
STREAMS = ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal")
REGIONS = (*STREAMS, "floc-places")


class StudySize(Config):
    """How large a study is; the proportions of NSD are kept, its sizes scaled."""

    n_shared: PositiveInt = Field(description="Images that every subject sees, the test set. NSD: 1000.")
    n_own: PositiveInt = Field(description="Further images of each subject. NSD: 9000.")
    sessions: tuple[PositiveInt, ...] = Field(
        description="Scan sessions done by each subject; the longest is what was planned. NSD: 40, 40, 32, 30, 40, 32, "
        "40, 30. Whoever stops early lacks third repeats."
    )
    trials_per_session: PositiveInt = Field(description="NSD: 750.")
    runs_per_session: PositiveInt = Field(description="NSD: 12, of 63 and 62 trials in turn.")
    voxels: tuple[PositiveInt, ...] = Field(
        description="Voxels inside nsdgeneral, one number a subject. NSD: about 15,000."
    )
    volume: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        description="Voxels of the whole volume along x, y, z. NSD at 1.8 mm, subject 1: 81, 104, 83."
    )
    image_size: PositiveInt = Field(description="Side of a stimulus in pixels. NSD: 425.")
    n_distractors: PositiveInt = Field(
        default=5,
        description="Images drawn to match each shared image in main category and place. Our choice.",
    )

    @property
    def n_subjects(self) -> int:
        """Number of subjects."""
        return len(self.sessions)

    @property
    def n_images(self) -> int:
        """Images that one subject is to see."""
        return self.n_shared + self.n_own

    @property
    def n_stimuli(self) -> int:
        """Images of the whole study. NSD: 73,000."""
        return self.n_shared + self.n_own * self.n_subjects


SIZES: dict[str, StudySize] = {
    "seconds": StudySize(
        n_shared=40,
        n_own=80,
        sessions=(6, 6, 5),
        trials_per_session=60,
        runs_per_session=4,
        voxels=(300, 260, 220),
        volume=(12, 14, 10),
        image_size=64,
    ),
    "demo": StudySize(
        n_shared=640,
        n_own=2360,
        sessions=(12, 12, 10),
        trials_per_session=750,
        runs_per_session=12,
        voxels=(2000, 1700, 1500),
        volume=(20, 24, 16),
        image_size=64,
    ),
    "large": StudySize(
        n_shared=1000,
        n_own=5000,
        sessions=(24, 24, 20),
        trials_per_session=750,
        runs_per_session=12,
        voxels=(6000, 5400, 4800),
        volume=(36, 44, 30),
        image_size=128,
    ),
    "nsd": StudySize(
        n_shared=1000,
        n_own=9000,
        sessions=(40, 40, 32, 30, 40, 32, 40, 30),
        trials_per_session=750,
        runs_per_session=12,
        voxels=(15724, 14278, 15226, 13153, 13039, 17907, 12682, 14386),
        volume=(81, 104, 83),
        image_size=425,
    ),
}
"""Presets. `seconds`: tests. `demo`: the embedded default. `nsd`: the release's own sizes (hundreds of gigabytes)."""


class VoxelParameters(Config):
    """What voxels respond to."""

    stream_shares: dict[str, Share] = Field(
        default={
            "early": 0.30,
            "midventral": 0.08,
            "midlateral": 0.08,
            "midparietal": 0.06,
            "ventral": 0.20,
            "lateral": 0.18,
            "parietal": 0.10,
        },
        description="Share of nsdgeneral in each of the release's `streams`. Names and order: NSD; shares: our choice.",
    )
    kind_shares: dict[str, dict[Kind, Share]] = Field(
        default={
            "early": {"retinotopic": 1.0},
            "midventral": {"retinotopic": 0.6, "mixture": 0.4},
            "midlateral": {"retinotopic": 0.6, "mixture": 0.4},
            "midparietal": {"retinotopic": 1.0},
            "ventral": {"category": 0.8, "place": 0.05, "mixture": 0.15},
            "lateral": {"category": 0.75, "mixture": 0.25},
            "parietal": {"retinotopic": 0.6, "mixture": 0.4},
            "floc-places": {"place": 0.6, "category": 0.4},
        },
        description="Kinds of voxel in each stream, and in the place regions whatever their stream. From retinotopic to category-selective along the visual hierarchy: "
        "Grill-Spector & Weiner 2014; shares: our choice.",
    )
    orientations: PositiveInt = Field(
        default=4, description="Gabor orientations. Kay et al. 2008 use 8; our choice for speed."
    )
    frequencies: tuple[PositiveFloat, ...] = Field(
        default=(4.0, 8.0, 16.0),
        description="Gabor frequencies, cycles per image. Kay et al. 2008 use 1 to 32 in octaves.",
    )
    bandwidth_octaves: PositiveFloat = Field(default=1.0, description="Gabor bandwidth. Kay et al. 2008.")
    grid: PositiveInt = Field(
        default=16,
        description="Energy and colour maps are averaged on grid x grid cells before pooling. Our choice.",
    )
    colour_share: dict[str, Share] = Field(
        default={"V1": 0.3, "V2": 0.3, "V3": 0.3, "hV4": 0.6, "other": 0.4},
        description="Share of a retinotopic voxel's weight on luminance and opponent colour. More in V4: Brouwer & Heeger "
        "2009; values: our choice.",
    )
    prf_sigma: dict[str, PositiveFloat] = Field(
        default={"V1": 0.05, "V2": 0.07, "V3": 0.10, "hV4": 0.15, "other": 0.25},
        description="Median pRF size (standard deviation) as a share of the image's width (8.4 degrees in NSD). Order and "
        "growth: Kay et al. 2013; values: our choice.",
    )
    prf_sigma_log_sd: PositiveFloat = Field(
        default=0.25, description="Spread of log pRF size within an area. Our choice."
    )
    compression: PositiveFloat = Field(
        default=0.5,
        description="Exponent of compressive spatial summation. Kay et al. 2013: 0.1 to 0.6, smaller up the hierarchy.",
    )
    selective_own: Share = Field(
        default=0.85,
        description="Share of an floc region's category voxels that prefer the region's category. Our choice.",
    )
    presence_gain: PositiveFloat = Field(
        default=1.0, description="Response to the preferred category, attributes apart. Our choice of scale."
    )
    attribute_gain: PositiveFloat = Field(
        default=1.5,
        description="Largest attribute-driven response relative to presence, shared among size, colour and pose. "
        "Our choice, so that attributes of the preferred object are as visible as its presence.",
    )
    size_tuning_width: PositiveFloat = Field(
        default=0.5, description="Gaussian tuning to log2 size, octaves. Non-linear by design; our choice."
    )
    colour_concentration: PositiveFloat = Field(
        default=2.0,
        description="Von Mises tuning to hue. Brouwer & Heeger 2009 use half-sinusoids of similar width.",
    )
    pose_tuning_width: PositiveFloat = Field(
        default=12.0,
        description="Gaussian tuning to rotation in degrees. View-tuned responses: Logothetis et al. 1995; our choice.",
    )
    mixture_share: Share = Field(
        default=0.5, description="Share of the variance of a mixture voxel that is retinotopic. Our choice."
    )
    n_reference: PositiveInt = Field(
        default=400,
        description="Scenes of no study over which signals are scaled to mean 0, deviation 1. Our choice.",
    )


class NoiseParameters(Config):
    """What is added to the signal, and in which units it is stored."""

    ncsnr_log_sd: PositiveFloat = Field(
        default=0.55,
        description="Spread of log ncsnr over voxels. Our choice; gives the release's range of about 0.05 to 1.5.",
    )
    ncsnr_range: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.02, 1.6), description="Clip of ncsnr. NSD's range, roughly."
    )
    shared_share: Share = Field(
        default=0.15,
        description="Share of each voxel's noise variance that it shares with others (attention, arousal, "
        "motion). Noise is correlated in NSD; the share is our choice.",
    )
    shared_rank: PositiveInt = Field(default=8, description="Dimensions of the shared noise. Our choice.")
    session_offset: PositiveFloat = Field(
        default=0.3,
        description="Deviation of a voxel's mean between sessions, in deviations of a single trial. That betas "
        "drift between sessions is why NSD z-scores within session; the value is our choice.",
    )
    session_gain_log_sd: PositiveFloat = Field(
        default=0.1, description="Deviation of the log gain of a voxel between sessions. Our choice."
    )
    mean_beta: tuple[float, PositiveFloat] = Field(
        default=(1.0, 0.5),
        description="Mean and deviation over voxels of the mean beta, percent signal change. Our choice.",
    )
    trial_sd: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(1.5, 0.3),
        description="Median over voxels and log spread of a single trial's deviation, percent signal "
        "change. Our choice, of the order seen in single-trial GLMs.",
    )
    int16_scale: PositiveInt = Field(default=300, description="int16 = percent signal change x 300. NSD.")


class AwkwardParameters(Config):
    """What is wrong with the awkward subject, as it may be with a real one."""

    subject: PositiveInt = Field(default=3, description="Number of the awkward subject. Our choice.")
    empty_roi: str = Field(
        default="mTL-words", description="Region in the label table without a single voxel. Occurs in NSD."
    )
    constant_voxels: Share = Field(
        default=0.03,
        description="Share of voxels inside nsdgeneral that never vary (cut off or dead). Our choice.",
    )


Structure = Literal["linear", "mixed", "routed"]
STRUCTURES: dict[str, dict[str, dict[Kind, float]]] = {
    "linear": {region: {"retinotopic": 1.0} for region in REGIONS},
    "mixed": {},
    "routed": {
        "early": {"retinotopic": 0.3, "category": 0.7},
        **{region: {"category": 1.0} for region in REGIONS if region != "early"},
    },
}
"""Structures of the grid: `linear` has no routing at all, `routed` little else. Values replace `kind_shares`."""


class SimulationOptions(Config):
    """What a user chooses; everything else follows from the presets.

    Attributes
    ----------
    size : {'seconds', 'demo', 'large', 'nsd'}
    ncsnr : float
        Median over voxels. 0.26 has been quoted of the release; 0.40 is the easier preset and our choice.
    structure : {'linear', 'mixed', 'routed'}
        Where results are printed over a grid.
    formats : tuple of {'hdf5', 'nii.gz'}
        In which formats the betas are written.
    subjects : int, optional
        Write only so many of the preset's subjects.
    seed : int
        Draws scenes, order, voxels and noise.
    """

    size: Literal["seconds", "demo", "large", "nsd"] = "demo"
    ncsnr: PositiveFloat = 0.40
    structure: Structure = "mixed"
    formats: tuple[Literal["hdf5", "nii.gz"], ...] = ("hdf5",)
    subjects: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def study_size(self) -> StudySize:
        """The preset, with as many subjects as asked for."""
        size = SIZES[self.size]
        if self.subjects is None:
            return size
        if self.subjects > size.n_subjects:
            raise InputError("`subjects`", expected=f"at most {size.n_subjects}", found=str(self.subjects))
        return size.model_copy(
            update={"sessions": size.sessions[: self.subjects], "voxels": size.voxels[: self.subjects]}
        )


class SimulationParameters(Config):
    """All parameters of a simulated study."""

    options: SimulationOptions = SimulationOptions()
    voxels: VoxelParameters = VoxelParameters()
    noise: NoiseParameters = NoiseParameters()
    awkward: AwkwardParameters = AwkwardParameters()

    def kind_shares(self, region: str) -> dict[Kind, float]:
        """Return the kinds of voxel of a stream (or of ``floc-places``) under the structure asked for."""
        return STRUCTURES[self.options.structure].get(region) or dict(self.voxels.kind_shares[region])


def parameter_sources() -> dict[str, str]:
    """Return ``group.parameter -> what it is and where it comes from`` for every parameter."""
    groups: dict[str, type[Config]] = {
        "size": StudySize,
        "voxels": VoxelParameters,
        "noise": NoiseParameters,
        "awkward": AwkwardParameters,
    }
    return {
        f"{group}.{name}": field.description or ""
        for group, model in groups.items()
        for name, field in model.model_fields.items()
    }
