"""Config of the workflow ``encode``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from braindecode_suite.workflows.job import MinutesConfig, Permutations, Resamples

STACK = "stacked"


class EncodeConfig(MinutesConfig):
    """What is fitted and scored.

    Attributes
    ----------
    zscore_by : {'session', 'run'} or None
        Column within which units are z-scored by training rows; None leaves them as released.
    encoder : str
        The image encoder of the headline.
    n_seeds : int
        Fits of it from different seeds; their scores are averaged, their predictions are not.
    rivals : tuple of str
        Image encoders that stand beside it, on the same features, rows and validation images.
    stack : bool
        Whether to weigh all of them unit by unit, convex weights, and to compare that with the best single model.
    stack_pooling : float
        How far the weights of a unit are those of its region, 0 (its own) to 1, see `learning.stacking.stacking_weights`.
    choosing_share : float
        Share of the validation images that no model sees: they choose the best rival and weigh the stack.
    presets : dict of str to str
        Preset of an image encoder by its name; its first where none is named.
    settings : dict of str to dict
        Changes to the preset of an image encoder, nested as its config.
    features : tuple of str
        Names for `encoders.targets.make_features`; all of them are offered to every model.
    weights : dict of str to str
        Local file or folder of a feature's network, by the name of the feature.
    by_layer : bool
        Whether to fit every model on each feature alone too.
    shuffled_train : bool
        Whether to refit the encoder on shuffled pairs, for its routing maps.
    rois : tuple of str
        Regions that are scored; all of the study's by default.
    groups : dict of str to tuple of str
        Regions that are also scored together, under one name; regions that the study lacks are left out.
    threshold : float
        Least noise ceiling of the units of the thresholded score.
    n_bootstrap, n_permutations : int
    n_examples : int
        Random test images whose routing maps the report shows.
    ablation_share : float
        Share of the image's tokens that are replaced to see whether attention points at what the prediction rests on.
    ablation_images : int
        Random test images, at most, on which that is done; 0 leaves it out.
    """

    zscore_by: Literal["session", "run"] | None = "session"
    encoder: str = "attention-routing"
    n_seeds: PositiveInt = 3
    rivals: tuple[str, ...] = ()
    stack: bool = True
    stack_pooling: Annotated[float, Field(ge=0, le=1)] = 0.8
    choosing_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    presets: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    features: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "tiny-clip:block-1:with-cls",
        "tiny-clip:block-4:with-cls",
    )
    weights: dict[str, str] = Field(default_factory=dict)
    by_layer: bool = True
    shuffled_train: bool = True
    rois: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.05
    n_bootstrap: Resamples = 2000
    n_permutations: Permutations = 1000
    n_examples: NonNegativeInt = 8
    ablation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    ablation_images: NonNegativeInt = 200

    @field_validator("features", "rivals")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("each name once")
        return names

    @model_validator(mode="after")
    def _of_models_and_features(self) -> EncodeConfig:
        models = {self.encoder, *self.rivals}
        if self.encoder in self.rivals:
            raise ValueError("`rivals` must be other models than `encoder`")
        if self.stack and STACK in models:
            raise ValueError("a stack of all models is made already; `stack: false` to fit one of your own")
        unknown = sorted({*self.presets, *self.settings} - models)
        if unknown:
            raise ValueError(
                f"`presets` and `settings` must be of a model that is fitted; got {unknown[0]!r}"
            )
        foreign = sorted(set(self.weights) - set(self.features))
        if foreign:
            raise ValueError(f"`weights` must be of a feature that is read; got {foreign[0]!r}")
        return self
