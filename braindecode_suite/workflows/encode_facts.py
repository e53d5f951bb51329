"""What a report of encoding models says in words: models, methods, citations, the card of the saved models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from braindecode_suite.core.protocols import DatasetCard
from braindecode_suite.core.split import Split
from braindecode_suite.workflows.encode_config import STACK, EncodeConfig
from braindecode_suite.workflows.encode_fitting import FittedImageEncoder
from braindecode_suite.workflows.encode_scoring import EncodingScores
from braindecode_suite.workflows.facts import recipe_words
from braindecode_suite.workflows.model_card import figure_table

CITATIONS = [
    {
        "text": "Adeli, Sun, Kriegeskorte 2025. Transformer brain encoders explain human high-level visual responses",
        "url": "https://arxiv.org/abs/2505.17329",
    },
    {
        "text": "Gifford et al. 2023. The Algonauts Project 2023 Challenge: how the human brain makes sense of natural scenes",
        "url": "https://arxiv.org/abs/2301.03198",
    },
    {
        "text": "Wolpert 1992. Stacked generalization. Neural Networks 5",
        "url": "https://doi.org/10.1016/S0893-6080(05)80023-1",
    },
    {
        "text": "Benjamini, Hochberg 1995. Controlling the false discovery rate. J. R. Stat. Soc. B 57",
        "url": "https://doi.org/10.1111/j.2517-6161.1995.tb02031.x",
    },
    {
        "text": "Jain and Wallace 2019. Attention is not explanation. NAACL",
        "url": "https://arxiv.org/abs/1902.10186",
    },
    {
        "text": "Phipson and Smyth 2010. Permutation p-values should never be zero. Stat. Appl. Genet. Mol. Biol. 9",
        "url": "https://doi.org/10.2202/1544-6115.1585",
    },
]


def model_rows(fits: Sequence[FittedImageEncoder], stacked: bool) -> list[dict[str, Any]]:
    """Return every fitted model for the report, with what it was fitted to."""
    rows: list[dict[str, Any]] = [
        {
            "name": fit.name if fit.control == "brain" else f"{fit.name} ({fit.control})",
            "seed": fit.seed,
            "features": ", ".join(fit.features),
            **{key: fit.facts[key] for key in ("n_parameters", "seconds", "departures")},
        }
        for fit in fits
    ]
    return [*rows, {"name": STACK, "seed": "", "weights": "convex, of every unit"}] if stacked else rows


def methods(
    card: DatasetCard,
    study: Mapping[str, Any],
    split: Split,
    recipe: Sequence[Mapping[str, Any]],
    config: EncodeConfig,
    scores: EncodingScores,
) -> list[str]:
    """Return paragraphs that say what was done, made from what was done."""
    sizes = split.card()["images"]
    over = scores.settings.unit
    simulated = (
        " The recordings are simulated: the results show model recovery, never performance."
        if card.simulated
        else ""
    )
    beside = (
        f"Beside {config.encoder} stand {', '.join(config.rivals)}, on the same features, rows and images."
        if config.rivals
        else f"{config.encoder} stands alone: no rival was named."
    )
    return [
        f"Data. {card.title}: {study['n_trials']} trials of {study['n_images']} images in {study['sessions']} sessions, "
        f"{study['n_units']} units ({study['n_valid']} of them with a signal), in {study['unit']}.{simulated}",
        f"Split. Protocol {split.protocol}: {sizes['train']} training, {sizes['validation']} validation and {sizes['test']} test "
        f"images, disjoint in {', '.join(sorted(split.disjoint))}. A random share of {config.choosing_share:g} of the validation "
        "images was shown to no model: they chose among models and weighed the stack. Nothing was fitted, selected, stopped or "
        "scaled on test rows.",
        "Preprocessing. " + (recipe_words(recipe) or "The responses were used as released."),
        f"Models. {beside} Every model was offered all features ({', '.join(config.features)}), named beforehand. "
        f"{config.encoder} was fitted from {config.n_seeds} seed{'' if config.n_seeds == 1 else 's'}; its scores, not its "
        "predictions, are averaged over seeds."
        + (
            " The stack weighs all models unit by unit (not negative, summing to one); a share of "
            f"{config.stack_pooling:g} of the errors it weighs by is that of all units of the same region."
            if config.stack and config.rivals
            else ""
        ),
        "Scores. Predicted responses to test images were correlated over images with measured responses averaged over repeats, "
        "unit by unit, and averaged over units; medians are named as such. Normalised scores divide r squared by the noise "
        "ceiling of these averages: clipped unit by unit as in the Algonauts 2023 challenge, or as a ratio of sums with the sign "
        "of r kept, over all units and over those whose ceiling reaches "
        f"{config.threshold:g}. The ceiling of r is the mean root of the noise ceiling.",
        f"Statistics. Intervals are 95 % percentile bootstraps of {over}s ({config.n_bootstrap} resamples, the same for all "
        "models and units), conditional on the models; those of normalised scores are BCa, which corrects for the noise that resampling "
        "adds to squares. Chance and p-values of plain scores come from exchanging whole images "
        f"({config.n_permutations} permutations, all units together, models fixed). The p-value of a paired difference is "
        "two-sided and exchanges the two models' standardised predictions of whole images. P-values of regions are corrected for "
        "their number (Benjamini and Hochberg). The best rival of a region was chosen on validation images.",
        "Routing. Attention on the object of a region's own category is compared with attention on the other objects of the "
        "same image, per area, after the mean map over test images was subtracted and what lies below it set to 0: the ratio of "
        "the means over images. Some objects draw any query, trained or not; the relative ratio is therefore divided by that of "
        "the regions that prefer other categories, on the same objects. Chance exchanges maps between images."
        + (
            f" On at most {config.ablation_images} random test images the {100 * config.ablation_share:g} % of the image's tokens that a "
            "region's map gave most weight were replaced by the mean training token of their place, against as many random and as "
            "many of the least attended ones; the model was not fitted again."
            if config.ablation_images
            else ""
        ),
    ]


def encode_card(
    config: Mapping[str, Any],
    card: DatasetCard,
    study: Mapping[str, Any],
    split: Split,
) -> str:
    """Return the ``README.md`` of the model folder."""
    run = config["run"]
    lines = [
        f"# {run['workflow']}, sub-{run['subject']} of {card.name}",
        "",
        f"Models that predict one person's responses to images: {', '.join(config['models'])}. They give {study['n_units']} "
        f"units of sub-{run['subject']} ({study['unit']}); they say nothing of anybody else's brain.",
        "",
        f"- data: {card.title}. Terms: {card.terms}",
        f"- split: {run['protocol']} ({run['split_hash']}), disjoint in {', '.join(sorted(split.disjoint))}",
        f"- preprocessing: z-scored within {run['zscore_by'] or 'nothing'}, statistics of training rows",
        f"- features: {', '.join(run['features'])}",
        "- intended use: research on vision with the consent of the person recorded",
    ]
    if card.simulated:
        lines.append("- simulated recordings: the figures show model recovery, never performance")
    lines += [
        "",
        "Mean over units of r with responses to test images averaged over repeats; `bds verify` recomputes these figures from this "
        "folder and the data.",
        "",
        *figure_table(config["figures"]),
    ]
    return "\n".join(lines) + "\n"
