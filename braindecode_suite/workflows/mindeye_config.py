"""Config of the workflow ``mindeye``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from braindecode_suite.metrics.permutation import MIN_REFITS
from braindecode_suite.workflows.job import MinutesConfig, Permutations, Resamples, Share
from braindecode_suite.workflows.sensor_recipe import SensorRecipe


class MindEyeWorkflowConfig(MinutesConfig):
    """What is fitted, drawn and scored.

    Attributes
    ----------
    n_seeds : int
        Seeds of the deep encoder; images and their controls are of the first.
    zscore_by : {'session', 'run'} or None
        Column within which units are z-scored by training rows; None leaves them as released.
    keep_reliable : float or None
        Least share of signal in single trials (their noise ceiling, from repeats of training images) of the units that are
        kept; None keeps all.
    sensors : SensorRecipe
        What epochs of MEG or EEG go through instead of the z-scoring.
    encoder, encoder_preset : str
        By default the encoder's first preset.
    encoder_settings : dict
        Changes to the encoder's preset, nested as its config.
    baseline : str
        The linear encoder in every table.
    baseline_settings : dict
    beside : tuple of str
        Further encoders, fitted with the same seeds under the headline's protocol; scores and images of the encoder are
        compared with theirs, pair by pair.
    beside_settings : dict of dict
        Changes to their first presets, by encoder.
    retrieval_target, image_target : str
        Names for `encoders.targets.make_target`; the second conditions the generator.
    text_target : str or None
        Target of captions, such as ``tiny-clip:text``: all models learn captions too, images are retrieved by their captions, and by image
        and caption together. None for images alone.
    generator : str
        Empty for retrieval only.
    generator_settings : dict
    weights : dict
        Local files or folders: ``retrieval``, ``image``, ``text``, ``generator``, ``generator_clip``.
    n_images : int
        Test images that are reconstructed, drawn at random with the seed; 0 for all.
    n_candidates : int
        Images drawn for each, the one nearest to the predicted embedding kept.
    scorer : str
        Network of ``identification``: ``tiny-eval`` or a published one.
    pixel_protocol : {'native', 'nsd'}
    published : bool
        Whether to add the published networks whose weights are on this machine.
    gallery_sizes : tuple of int
        Exact random galleries beside the full one.
    second_protocols : tuple of str
        Scored by the baseline and the encoder's first seed, retrieval only.
    shuffled_train : bool
        Whether to refit the encoder on shuffled pairs.
    n_relabellings : int
        Refits of the baseline on relabelled training images: none, or at least 200.
    n_bootstrap, n_permutations : int
    n_examples : int
        Random test images that the report shows.
    """

    n_seeds: PositiveInt = 3
    zscore_by: Literal["session", "run"] | None = "session"
    keep_reliable: Share | None = None
    sensors: SensorRecipe = Field(default_factory=SensorRecipe)
    encoder: str = "mindeye"
    encoder_preset: str = ""
    encoder_settings: dict[str, Any] = Field(default_factory=dict)
    baseline: str = "ridge"
    baseline_settings: dict[str, Any] = Field(default_factory=dict)
    beside: tuple[str, ...] = ()
    beside_settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    retrieval_target: str = "tiny-clip"
    image_target: str = "tiny-clip"
    text_target: str | None = None
    generator: str = "tiny-kandinsky"
    generator_settings: dict[str, Any] = Field(default_factory=dict)
    weights: dict[Literal["retrieval", "image", "text", "generator", "generator_clip"], str] = Field(
        default_factory=dict
    )
    n_images: NonNegativeInt = 200
    n_candidates: PositiveInt = 2
    scorer: str = "tiny-eval"
    pixel_protocol: Literal["native", "nsd"] = "native"
    published: bool = True
    gallery_sizes: tuple[PositiveInt, ...] = (200, 300)
    second_protocols: tuple[str, ...] = ("nsd-cluster-disjoint",)
    shuffled_train: bool = True
    n_relabellings: NonNegativeInt = 200
    n_bootstrap: Resamples = 2000
    n_permutations: Permutations = 1000
    n_examples: PositiveInt = 12

    @model_validator(mode="after")
    def _each_once(self) -> MindEyeWorkflowConfig:
        again = {self.encoder, self.baseline}.intersection(self.beside)
        if again or len(set(self.beside)) < len(self.beside):
            raise ValueError("beside: encoders other than `encoder` and `baseline`, each once")
        unknown = sorted(set(self.beside_settings) - set(self.beside))
        if unknown:
            raise ValueError(f"beside_settings: encoders named in `beside`, not {unknown[0]}")
        return self

    @field_validator("n_relabellings")
    @classmethod
    def _enough_refits(cls, value: int) -> int:
        if 0 < value < MIN_REFITS:
            raise ValueError(f"0 or at least {MIN_REFITS} refits")
        return value
