"""Is what attention points at what the prediction rests on? Tokens are taken away, region by region; heads one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from braindecode_suite.core.features import FeatureSource, Grid, Rows
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.score import Score
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.metrics.encoding_resampling import draw_weights, resampled_r
from braindecode_suite.metrics.routing_ablation import (
    most_and_least,
    prediction_change,
    prediction_spread,
    random_tokens,
    resampled_ratio,
)
from braindecode_suite.workflows.encode_fitting import EncodingData, FittedImageEncoder, features_of, flat
from braindecode_suite.workflows.encode_scoring import ALL_UNITS, FEWEST_IMAGES, EncodingScores, Settings
from braindecode_suite.workflows.steps import Arrays, Steps

MOST, RANDOM, LEAST = "most attended tokens", "random tokens", "least attended tokens"
MORE = f"{MOST} over {RANDOM}"
LOSES_MORE = f"{MOST} minus {RANDOM}"
N_DRAWS = 4
MEAN_IMAGES = 1024
IMAGES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class AblatedRows:
    """Features in which some tokens are replaced by the mean training token of their place.

    Attributes
    ----------
    rows : Rows of shape (images, tokens, width)
    chosen : array of bool of shape (images, tokens)
    mean : array of shape (tokens, width)
    """

    rows: Rows
    chosen: np.ndarray
    mean: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, at: Any) -> np.ndarray:
        return np.where(self.chosen[at][..., None], self.mean, np.asarray(self.rows[at], np.float32))


class _Some:
    """Some rows of features, read when they are asked for."""

    def __init__(self, rows: Rows, at: np.ndarray) -> None:
        self.rows, self.at = rows, at
        self.shape, self.dtype = (len(at), *rows.shape[1:]), rows.dtype

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, at: Any) -> np.ndarray:
        return np.asarray(self.rows[self.at[at]])


def mean_token(rows: Rows) -> np.ndarray:
    """Return the mean over images of the token at each place, of up to `MEAN_IMAGES` evenly spaced ones: (tokens, width)."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, MEAN_IMAGES).astype(int))
    total = np.zeros(rows.shape[1:])
    for start in range(0, len(chosen), IMAGES_AT_ONCE):
        total += np.asarray(rows[chosen[start : start + IMAGES_AT_ONCE]], np.float64).sum(axis=0)
    return (total / len(chosen)).astype(np.float32)


def regions_of_queries(queries: Sequence[str]) -> dict[str, list[int]]:
    """Return the queries of each region, both hemispheres together.

    Examples
    --------
    >>> regions_of_queries(("lh.V1v", "rh.V1v", "rest"))
    {'V1v': [0, 1], 'rest': [2]}
    """
    found: dict[str, list[int]] = {}
    for k, query in enumerate(queries):
        found.setdefault(query.removeprefix("lh.").removeprefix("rh."), []).append(k)
    return found


def image_tokens(grid: Grid) -> np.ndarray:
    """Return which tokens show the image, booleans of shape (tokens,): neither the class token nor padding."""
    seen = grid.mask.copy()
    seen[: int(grid.has_cls)] = False
    return seen


def ablate_tokens(
    steps: Steps,
    label: str,
    data: EncodingData,
    sources: Sequence[FeatureSource],
    fits: Sequence[FittedImageEncoder],
    scores: EncodingScores,
    *,
    share: float,
    n_images: int,
    device: str,
) -> list[Score]:
    """Score what every region's prediction loses without what its maps point at, each seed by its own maps.

    The tokens of one source of features are replaced at a time, by the mean over training images of the token at their place;
    the model, of all features, is not fitted again. The class token stays.

    Parameters
    ----------
    steps : Steps
    label : str
        Name of the step, one for each fit.
    data : EncodingData
    sources : sequence of FeatureSource
    fits : sequence of FittedImageEncoder
        Of one model from several seeds, with attention.
    scores : EncodingScores
        Its test images, units and settings.
    share : float
        Of the tokens that show the image.
    n_images : int
        Random test images, at most.
    device : str

    Returns
    -------
    list of Score
        Of regions that have queries and scored units. ``routing_ablation_change``: squared change of the prediction over
        the variance of predictions over images, units summed first; ``routing_ablation_ratio``: that of the most attended
        tokens over that of random ones; ``routing_ablation_loss``: what mean r loses. Averaged over seeds.
    """
    settings = scores.settings
    n_all = len(scores.truth)
    at = np.sort(np.random.default_rng([settings.seed, 20]).permutation(n_all)[:n_images])
    if len(at) < FEWEST_IMAGES:
        return []
    units = None if settings.units is None else np.asarray(settings.units)[at]
    weights = draw_weights(len(at), settings.n_bootstrap, seed=settings.seed, units=units)
    weights = np.concatenate([np.ones((1, len(at))), weights])
    known = dict(zip(scores.sets.names, scores.sets.members, strict=True))
    regions = {
        roi: own
        for roi, own in regions_of_queries(fits[0].queries).items()
        if roi != ALL_UNITS and roi in known
    }
    if not regions:
        return []
    study, train = data.prepared.study, data.prepared.split.train[0]
    stimuli, train_ids = Cohort.of(study).stimuli, sorted(set(study.stimulus_ids[train].astype(str)))
    parts: list[Arrays] = []
    for fit in fits:

        def compute(fit: FittedImageEncoder = fit) -> tuple[Arrays, dict[str, Any]]:
            model = IMAGE_ENCODERS[fit.name].load(fit.folder, device=device)
            kept: Arrays = {}
            test = features_of(data, sources, "test")
            for k, source in enumerate(sources):
                own = Ablation(
                    model=model,
                    source=source.name,
                    rows={name: _Some(rows, at) for name, rows in test.items()},
                    maps=np.asarray(fit.attention[source.name][at], np.float64),
                    allowed=image_tokens(source.grid),
                    mean=mean_token(source.rows(stimuli, train_ids)),
                    share=share,
                    seed=settings.seed,
                )
                found = own.measure(regions, known, scores.truth[at], weights)
                kept |= {f"{name}_{k}": values for name, values in found.items()}
            return kept, {}

        key = {
            **data.prepared.identity,
            "fit": fit.folder.parent.name,
            "images": data_hash(at),
            "share": share,
            "units": data_hash(*(known[roi] for roi in regions)),
            "resamples": data_hash(weights),
            "regions": list(regions),
            "features": [source.name for source in sources],
        }
        arrays, _ = steps.arrays(f"{label}{f' seed {fit.seed}' if fit.seed else ''}", key, compute)
        parts.append(arrays)
    mean = {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}
    base = {"seed": ",".join(fit.seed for fit in fits if fit.seed), "model": fits[0].name, "n": len(at)}
    return [
        row
        for k, source in enumerate(sources)
        for row in _rows(
            list(regions), {n: mean[f"{n}_{k}"] for n in ("change", "ratio", "loss")}, source, base, settings
        )
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class Ablation:
    """One fitted model without some tokens of one source of features.

    Attributes
    ----------
    model : ImageEncoder
    source : str
    rows : dict of str to Rows
        Features of the images, of every source of the model.
    maps : array of shape (images, queries, tokens)
        Attention to the tokens of `source`.
    allowed : array of bool of shape (tokens,)
    mean : array of shape (tokens, width)
    share : float
    seed : int
    """

    model: Any
    source: str
    rows: Mapping[str, Rows]
    maps: np.ndarray
    allowed: np.ndarray
    mean: np.ndarray
    share: float
    seed: int

    def predict(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """Predict responses without the chosen tokens (images, tokens), of shape (images, units)."""
        rows = dict(self.rows)
        if chosen is not None:
            rows[self.source] = AblatedRows(rows[self.source], chosen, self.mean)
        return flat(self.model.predict(rows))

    def measure(
        self,
        regions: Mapping[str, list[int]],
        known: Mapping[str, np.ndarray],
        truth: np.ndarray,
        weights: np.ndarray,
    ) -> Arrays:
        """Return what tokens do: change and loss of shape (regions, 3, resamples), ratio of shape (regions, resamples)."""
        intact = self.predict()
        drawn = random_tokens(len(truth), self.share, self.allowed, N_DRAWS, seed=self.seed)
        random = [self.predict(chosen) for chosen in drawn]
        change, ratio, loss = [], [], []
        for roi, queries in regions.items():
            member = known[roi]
            most, least = most_and_least(self.maps[:, queries].mean(axis=1), self.share, self.allowed)
            groups = [[self.predict(most)], random, [self.predict(least)]]
            before = intact[:, member]
            moved = [
                np.mean([prediction_change(before, p[:, member]) for p in group], axis=0) for group in groups
            ]
            spread = prediction_spread(before)
            change.append([resampled_ratio(part, spread, weights) for part in moved])
            ratio.append(resampled_ratio(moved[0], moved[1], weights))
            r = _mean_r(truth[:, member], before, weights)
            loss.append(
                [
                    r - np.mean([_mean_r(truth[:, member], p[:, member], weights) for p in group], axis=0)
                    for group in groups
                ]
            )
        return {"change": np.array(change), "ratio": np.array(ratio), "loss": np.array(loss)}


def _mean_r(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over units of r in each resample; a unit that is constant there gives 0."""
    return np.asarray(np.nan_to_num(resampled_r(truth, predicted, weights)).mean(axis=1), np.float64)


def _rows(
    regions: Sequence[str],
    found: Mapping[str, np.ndarray],
    source: FeatureSource,
    base: Mapping[str, Any],
    settings: Settings,
) -> list[Score]:
    """Return the rows of one source of features; the first resample is what was observed."""
    rows = []
    for k, roi in enumerate(regions):
        loss = found["loss"][k]
        values = [
            *(
                ("routing_ablation_change", s, v)
                for s, v in zip((MOST, RANDOM, LEAST), found["change"][k], strict=True)
            ),
            ("routing_ablation_ratio", MORE, found["ratio"][k]),
            *(("routing_ablation_loss", s, v) for s, v in zip((MOST, RANDOM, LEAST), loss, strict=True)),
            ("routing_ablation_loss", LOSES_MORE, loss[0] - loss[1]),
        ]
        for metric, scorer, distribution in values:
            if not np.isfinite(distribution).all():
                continue  # predictions that are the same for every image
            low, high = np.quantile(distribution[1:], [0.025, 0.975])
            rows.append(
                Score(
                    subject=settings.subject,
                    metric=metric,
                    value=float(distribution[0]),
                    roi=roi,
                    ci_low=float(low),
                    ci_high=float(high),
                    ci_over=settings.unit,
                    n_subjects=1,
                    scorer=scorer,
                    target=source.name,
                    split=settings.split,
                    **base,
                )
            )
    return rows


def attention_by_head(
    fit: FittedImageEncoder,
    data: EncodingData,
    sources: Sequence[FeatureSource],
    at: np.ndarray,
    device: str,
) -> dict[str, np.ndarray]:
    """Return where each head of one fit looks on some test images, by source: (images, heads, queries, height, width).

    Heads of another seed are others: they are never averaged over seeds.
    """
    model = IMAGE_ENCODERS[fit.name].load(fit.folder, device=device)
    rows = {name: _Some(some, at) for name, some in features_of(data, sources, "test").items()}
    return {
        source.name: source.grid.on_image(model.attention(rows, source=source.name, per_head=True)).astype(
            np.float32
        )
        for source in sources
    }
