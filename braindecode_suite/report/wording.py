"""Words and numbers as people read them: titles of metrics and controls, formatted values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

METRIC_TITLES: Mapping[str, str] = {
    "pixcorr": "PixCorr",
    "ssim": "SSIM",
    "alexnet2": "AlexNet(2)",
    "alexnet5": "AlexNet(5)",
    "inception": "Inception",
    "clip": "CLIP",
    "effnet": "EffNet-B distance",
    "swav": "SwAV distance",
    "identification": "Identification (two-way)",
    "median_relative_rank": "Median relative rank",
    "unique_variance_early": "Share of the variance of decoded low-level features that these alone explain",
    "unique_variance_late": "Share of the variance of decoded categories that categories alone explain",
    "retrieval_identification": "Share of the gallery below the truth",
    "feature_identification": "Identification by features",
    "feature_identification_early": "Identification by low-level features, without what categories say",
    "feature_identification_late": "Identification by categories, without what low-level features say",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "encoding_r": "Encoding correlation",
    "encoding_r2": "Encoding R\u00b2",
    "encoding_r2_nc": "Encoding R\u00b2, noise-normalised",
    "pattern_identification": "Identification of patterns (two-way)",
    "rsa_noise_ceiling": "Representational similarity, noise ceiling",
    "rsa_between_sessions": "Representational similarity between sessions",
    "rsa": "Representational similarity",
    "routing_ratio": "Routing to the own object",
    "routing_location_share": "Routing by place (share of the mean map)",
    "routing_entropy": "Routing entropy (share of the largest)",
    "routing_left_minus_right": "Routing, left minus right half",
    "routing_upper_minus_lower": "Routing, upper minus lower half",
    "routing_field_x": "Routing field, centre from the left (image widths)",
    "routing_field_y": "Routing field, centre from above (image widths)",
    "routing_field_sd": "Routing field, standard deviation (image widths)",
    "routing_field_explained": "Routing field, variance explained",
    "routing_ablation_change": "Change of the prediction without tokens",
    "routing_ablation_ratio": "Change without attended over random tokens",
    "routing_ablation_loss": "Loss of encoding correlation without tokens",
    "category_accuracy": "Category of the main object",
    "colour_accuracy": "Colour of the main object",
    "position_error": "Position error (share of the width)",
    "size_error": "Size error (|log2 ratio|)",
}
CONTROL_TITLES: Mapping[str, str] = {
    "truth": "Seen image",
    "brain": "Reconstruction",
    "shuffled-test": "Shuffled test pairs",
    "shuffled-train": "Trained on shuffled pairs",
    "null-condition": "No brain",
    "category-only": "Category only",
    "nearest-train": "Nearest training image",
    "true-latent": "True latent (ceiling)",
    "shuffled-within-class": "Shuffled within class",
    "mean-image": "Mean image",
    "flat-grey": "Flat grey",
    "blurred-truth": "Blurred truth",
    "true-image": "Seen image itself",
    "motion": "Head motion alone",
    "reaction-time": "Reaction time alone",
    "eye": "Eye signals alone",
    "reference": "Reference channels alone",
}
CONTROL_NOTES: Mapping[str, str] = {
    "brain": "decoded from the recordings",
    "shuffled-test": "the same reconstructions, each judged against another test image",
    "shuffled-train": "the model refitted on shuffled brain-image pairs",
    "null-condition": "the generator on the mean training latent, without any recording",
    "category-only": "the generator on the mean training latent of the true main category",
    "nearest-train": "the training image nearest to the predicted latent, instead of a generated one",
    "true-latent": "the generator on the seen image's own latent, drawn and chosen like the others: as good as it can get",
    "shuffled-within-class": "pairs shuffled among images of one class",
    "mean-image": "the mean of the training images",
    "flat-grey": "one grey image for all",
    "blurred-truth": "the seen image, blurred: what the metric gives for no detail at all",
    "true-image": "the seen image itself, read by the same network: its own errors",
    "motion": "the same classifier on recorded head motion, without the brain",
    "reaction-time": "the same classifier on reaction times, without the brain",
    "eye": "the same linear model on recorded eye signals, without the brain",
    "reference": "the same linear model on the reference channels, which are far from the head",
}
LEVEL_NOTES: Mapping[str, str] = {
    "single": "single trials",
    "mean-signal": "signals averaged over repeats",
    "mean-prediction": "predictions averaged over repeats",
    "mean-prediction-across-subjects": "predictions averaged over repeats and subjects",
}
CANDIDATE_NOTES: Mapping[str, str] = {
    "all": "all other test images",
    "matched": "distractors of the same category and place",
    "within-class": "test images of the same class",
    "no-near-duplicates": "near-duplicates of training images left out",
}
SCORER_TITLES: Mapping[str, str] = {
    "cosine": "raw cosine",
    "cosine-centred": "centred cosine",
    "csls": "CSLS",
}
MODEL_TITLES: Mapping[str, str] = {
    "mindeye": "MindEye",
    "brain-routing": "brain routing",
    "meg-module": "MEG module",
    "meg-module, growing": "MEG module on growing windows",
    "nice": "NICE",
    "atm": "ATM-S",
    "ridge": "ridge",
    "image-prior": "image prior",
    "lda": "shrinkage LDA",
    "linear-svm": "linear SVM",
    "banded-ridge": "banded ridge",
    "attention-routing": "attention routing",
    "cls-ridge": "CLS ridge",
    "pooled-ridge": "pooled ridge",
    "kernel-ridge": "kernel ridge",
    "receptive-field": "receptive field",
    "stacked": "stack",
}
PROPORTIONS = (
    "retrieval_",
    "identification",
    "feature_identification",
    "pattern_identification",
    "accuracy",
    "alexnet",
    "inception",
    "clip",
    "balanced_accuracy",
)
DASH = "\u2013"


def metric_title(metric: str) -> str:
    """Return a metric's name as people say it.

    Examples
    --------
    >>> metric_title("retrieval_brain_to_image_top1")
    'Retrieval, brain → image, top 1'
    """
    found = re.fullmatch(r"retrieval_(brain|image)_to_(brain|image)_top(\d+)", metric)
    if found:
        return f"Retrieval, {found[1]} \u2192 {found[2]}, top {found[3]}"
    return METRIC_TITLES.get(metric, metric.replace("_", " ").capitalize())


def control_title(control: str) -> str:
    """Return a control's name as people say it."""
    return CONTROL_TITLES.get(control, control)


def model_title(model: str) -> str:
    """Return a model's name as people say it.

    Examples
    --------
    >>> model_title("mindeye"), model_title("mindeye-shuffled-train"), model_title("ridge (shuffled-train)")
    ('MindEye', 'MindEye on shuffled pairs', 'ridge on shuffled pairs')
    """
    name = re.sub(r"(-| \()shuffled-train\)?$", "", model)
    return MODEL_TITLES.get(name, name) + (" on shuffled pairs" if name != model else "")


def scorer_title(scorer: str) -> str:
    """Return a scorer's name as people say it."""
    return SCORER_TITLES.get(scorer, scorer)


def is_proportion(metric: str) -> bool:
    """Say whether a metric is a share of cases, printed in percent in the summary."""
    return metric.startswith(PROPORTIONS) or metric.endswith(("_accuracy", "_right"))


def missing(value: Any) -> bool:
    """Say whether a table cell is empty."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def number(value: Any, digits: int = 3) -> str:
    """Return a number with three decimals, more where it would read as zero, a dash where there is none.

    Examples
    --------
    >>> number(0.41234), number(0.0005), number(None), number(1200.0), number(-0.5)
    ('0.412', '0.0005', '–', '1200', '−0.500')
    """
    if missing(value):
        return DASH
    value = float(value)
    if math.isinf(value):
        return ("\u2212" if value < 0 else "") + "\u221e"
    if abs(value) < 1e-9:
        value = 0.0
    if value == round(value) and abs(value) >= 10:
        text = f"{value:.0f}"
    elif 0 < abs(value) < 10**-digits:
        text = f"{value:.1g}"
    elif abs(value) >= 1000:
        text = f"{value:.0f}"
    else:
        text = f"{value:.{digits}f}"
    return text.replace("-", "\u2212", 1) if text.startswith("-") else text


def percent(value: Any) -> str:
    """Return a share in percent.

    Examples
    --------
    >>> percent(0.4123) == "41.2\\u00a0%"
    True
    """
    return DASH if missing(value) else f"{100 * float(value):.1f}\u00a0%".replace("-", "\u2212")


def quantity(metric: str, value: Any) -> str:
    """Return a value in percent for shares and plain otherwise."""
    return percent(value) if is_proportion(metric) else number(value)


def points(metric: str, value: Any) -> str:
    """Return a difference: percentage points for shares and plain otherwise, always with its sign."""
    if missing(value):
        return DASH
    text = f"{100 * float(value):+.1f}" if is_proportion(metric) else f"{float(value):+.3f}"
    return text.replace("-", "\u2212")


def integer(value: Any) -> str:
    """Return a whole number with thousands kept apart by a thin space.

    Examples
    --------
    >>> integer(15724) == "15\\u202f724"
    True
    """
    return DASH if missing(value) else f"{round(float(value)):,}".replace(",", "\u202f")


def count(value: Any) -> str:
    """Return a count that may be a mean: whole where it is whole."""
    if missing(value):
        return DASH
    return integer(value) if float(value) == int(float(value)) else number(value, 2)


def p_text(value: Any) -> str:
    """Return a p-value, never as zero.

    Examples
    --------
    >>> p_text(0.000999), p_text(0.04321)
    ('0.001', '0.043')
    """
    if missing(value):
        return DASH
    value = float(value)
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.1g}"


def interval(low: Any, high: Any, metric: str = "", *, signed: bool = False) -> str:
    """Return an interval in brackets, or a dash."""
    if missing(low) or missing(high):
        return DASH
    show = points if signed else quantity
    return f"[{show(metric, low)}, {show(metric, high)}]"


def seconds(value: Any) -> str:
    """Return a duration.

    Examples
    --------
    >>> seconds(0.5), seconds(75), seconds(7384)
    ('0.5 s', '1 min 15 s', '2 h 3 min')
    """
    if missing(value):
        return DASH
    value = float(value)
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def plain(value: Any) -> str:
    """Return any fact as one line of text."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return integer(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or DASH
    return str(value)


def plural(noun: str) -> str:
    """Return the plural of a unit of resampling.

    Examples
    --------
    >>> plural("image"), plural("category")
    ('images', 'categories')
    """
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def listed(items: list[str]) -> str:
    """Join words: 'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
