"""How epochs of MEG or EEG are brought to one scale before a model sees them: the order of steps is a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveFloat, field_validator, model_validator

from braindecode_suite.core.config import Config
from braindecode_suite.core.epoch_steps import Baseline, Clip, RobustScale
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe, Step
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.step_levels import block_columns
from braindecode_suite.core.whitening import Whiten
from braindecode_suite.core.windows import EDGE

SensorStep = Literal["scale", "whiten", "baseline", "clip"]


class SensorRecipe(Config):
    """Steps after filtering, resampling and cutting, which are options of the dataset.

    The default order is that of Meta's recent code, of which the paper is silent: the scale is that of the recording, whatever the
    baseline of a single epoch is. Brainmagick takes the baseline first.

    Attributes
    ----------
    order : tuple of {'scale', 'whiten', 'baseline', 'clip'}
        Each at most once; what is not named is left out. ``whiten`` is in no published recipe of MEG decoders: it is that of
        THINGS-EEG2 (multivariate noise normalisation), here fitted on training rows only.
    scale_by : {'session', 'run'} or None
        Block within which every sensor is scaled by median and interquartile range of training rows, and whitened; a run is one of
        its session.
    noise_until : float or None
        Samples up to so many seconds from the picture are the noise that is whitened; None takes whole epochs.
    baseline : tuple of (float or None, float)
        Seconds from the picture between which the mean is subtracted; None is the start of the epoch. The default leaves epochs alone that
        begin with the picture: their first sample is no baseline, and would add its noise to all others.
    limit : float
        Values beyond are clipped, in interquartile ranges (in deviations of the noise after ``whiten``).
    """

    order: tuple[SensorStep, ...] = ("scale", "baseline", "clip")
    scale_by: Literal["session", "run"] | None = "session"
    baseline: tuple[float | None, float] = (None, 0.0)
    limit: PositiveFloat = 20.0
    noise_until: float | None = 0.0

    @field_validator("order")
    @classmethod
    def _each_once(cls, value: tuple[SensorStep, ...]) -> tuple[SensorStep, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each step once")
        return value

    @model_validator(mode="after")
    def _scaled_before_clipped(self) -> SensorRecipe:
        if "clip" in self.order and "scale" not in self.order[: self.order.index("clip")]:
            raise ValueError("order: 'clip' counts in interquartile ranges, so 'scale' comes before it")
        return self

    def steps(self, space: SensorSpace, scope: str = "train") -> Sequence[Step]:
        """Return the steps, to be fitted on training rows; `scope` is that of `RobustScale`."""
        kinds = list(dict.fromkeys(space.kinds))
        first = [step for step in self.order if step in ("scale", "whiten")][:1]
        if first == ["whiten"] and len(kinds) > 1:
            raise InputError(
                "`sensors`",
                expected=f"'scale' before 'whiten' in the order, for sensors of several kinds ({', '.join(kinds)})",
                found=", ".join(self.order),
                hint="one covariance of different units is mostly that of the largest",
            )
        by = block_columns(self.scale_by)
        made: dict[SensorStep, Step] = {
            "scale": RobustScale(by=by, scope=scope),
            "clip": Clip(self.limit),
        }
        if "whiten" in self.order:
            made["whiten"] = Whiten(space.times, self.noise_until, by=by, scope=scope)
        if "baseline" in self.order and not (self.baseline == (None, 0.0) and space.times[0] > -EDGE):
            made["baseline"] = Baseline(space.times, *self.baseline)
        return [made[name] for name in self.order if name in made]


def sensor_by_sensor(recipe: Recipe) -> Recipe:
    """Return the steps but for a whitening, after which a channel is a sum over sensors; all of them where a later one was fitted to it."""
    names = [step.name for step in recipe.steps]
    if "whiten" not in names or "robust-scale" in names[names.index("whiten") :]:
        return recipe
    return Recipe(tuple(step for step in recipe.steps if step.name != "whiten"))


def unit_after(recipe: Recipe, recorded: str) -> str:
    """Return the unit of what comes out of a recipe, for recordings in another one.

    Examples
    --------
    >>> unit_after(Recipe((RobustScale(), Clip())), "tesla"), unit_after(Recipe(), "tesla")
    ('interquartile ranges', 'tesla')
    """
    units = {"robust-scale": "interquartile ranges", "whiten": "standard deviations of the noise"}
    return next((units[step.name] for step in reversed(recipe.steps) if step.name in units), recorded)
