"""What a report says in words: the study in numbers, the leakage cards, the methods text with its citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from braindecode_suite.core.protocols import DatasetCard
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.reliability import KeepReliable
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.metrics.duplicates import near_duplicate_ids, perceptual_hashes
from braindecode_suite.metrics.retrieval import CSLS_NEIGHBOURS
from braindecode_suite.workflows.brain_maps import BrainMap

CITATIONS: Mapping[str, dict[str, str]] = {
    "mindeye": {
        "text": "Scotti et al. (2023). Reconstructing the mind's eye: fMRI-to-image with contrastive learning and diffusion "
        "priors. NeurIPS.",
        "url": "https://arxiv.org/abs/2305.18274",
    },
    "brain-routing": {
        "text": "Adeli, Sun and Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses. NeurIPS.",
        "url": "https://arxiv.org/abs/2505.17329",
    },
    "ridge": {
        "text": "Hoerl and Kennard (1970). Ridge regression: biased estimation for nonorthogonal problems. Technometrics 12.",
        "url": "https://doi.org/10.1080/00401706.1970.10488634",
    },
    "meg-module": {
        "text": "Benchetrit, Banville and King (2024). Brain decoding: toward real-time reconstruction of visual perception. ICLR.",
        "url": "https://arxiv.org/abs/2310.19812",
    },
    "nice": {
        "text": "Song et al. (2024). Decoding natural images from EEG for object recognition. ICLR.",
        "url": "https://arxiv.org/abs/2308.13234",
    },
    "atm": {
        "text": "Li et al. (2024). Visual decoding and reconstruction via EEG embeddings with guided diffusion. NeurIPS.",
        "url": "https://arxiv.org/abs/2403.07721",
    },
    "whiten": {
        "text": "Guggenmos, Sterzer and Cichy (2018). Multivariate pattern analysis for MEG: a comparison of dissimilarity measures. "
        "NeuroImage 173.",
        "url": "https://doi.org/10.1016/j.neuroimage.2018.02.044",
    },
    "csls": {
        "text": "Conneau et al. (2018). Word translation without parallel data. ICLR.",
        "url": "https://arxiv.org/abs/1710.04087",
    },
    "kandinsky": {
        "text": "Razzhigaev et al. (2023). Kandinsky: an improved text-to-image synthesis with image prior and latent "
        "diffusion. EMNLP demonstrations.",
        "url": "https://arxiv.org/abs/2310.03502",
    },
    "open_clip": {
        "text": "Ilharco et al. (2021). OpenCLIP.",
        "url": "https://doi.org/10.5281/zenodo.5143773",
    },
    "ssim": {
        "text": "Wang et al. (2004). Image quality assessment: from error visibility to structural similarity. IEEE TIP 13.",
        "url": "https://doi.org/10.1109/TIP.2003.819861",
    },
    "permutation": {
        "text": "Phipson and Smyth (2010). Permutation p-values should never be zero. Stat. Appl. Genet. Mol. Biol. 9.",
        "url": "https://doi.org/10.2202/1544-6115.1585",
    },
}


def study_facts(study: Study, split: Split) -> dict[str, Any]:
    """Return the study in numbers; repeats are counted over test images."""
    trials = study.trials
    test_ids = study.stimulus_ids[split.test[0]]
    _, counts = np.unique(test_ids.astype(str), return_counts=True)
    values, how_many = np.unique(counts, return_counts=True)
    n_valid = study.n_units if study.valid is None else int(np.count_nonzero(study.valid))
    provenance = dict(study.provenance)
    facts: dict[str, Any] = {
        "n_trials": len(trials),
        "n_units": study.n_units,
        "n_valid": n_valid,
        "unit": study.unit,
        "n_images": int(trials["stimulus_id"].nunique()),
        "sessions": int(trials["session"].nunique()),
        "repeats": {str(int(k)): int(n) for k, n in zip(values, how_many, strict=True)},
        "rois": {name: int(np.count_nonzero(member)) for name, member in study.space.rois.items()},
        "warnings": [str(warning) for warning in provenance.pop("warnings", [])],
        "provenance": {key: value for key, value in provenance.items() if is_plain(value)},
    }
    if isinstance(study.space, SensorSpace):
        facts["units"] = "sensors"
    if study.noise is not None:
        ncsnr = np.asarray(study.noise.ncsnr, float)
        finite = ncsnr[np.isfinite(ncsnr)]
        facts["ncsnr_median"] = float(np.median(finite)) if len(finite) else None
        facts["ncsnr_source"] = study.noise.source
    return facts


def kept_map(recipes: Sequence[Recipe | None]) -> dict[str, BrainMap]:
    """Return the map ``singletrialceiling`` that units were kept by, averaged over folds.

    Empty where no recipe keeps reliable units only; 0 where a unit never varies.
    """
    last = [recipe.steps[-1] for recipe in recipes if recipe is not None and recipe.steps]
    shares = [step.share for step in last if isinstance(step, KeepReliable) and step.share is not None]
    if not shares:
        return {}
    least = min(step.threshold for step in last if isinstance(step, KeepReliable))
    return {
        "singletrialceiling": BrainMap(
            values=np.asarray(np.nan_to_num(shares).mean(axis=0), np.float32),
            title="Signal in single trials",
            units="share of variance",
            description="Noise ceiling of a single trial, estimated without rectification from the repeats of the training part"
            f"{f', the mean over {len(shares)} folds' if len(shares) > 1 else ''}. Units of at least {least:g} were kept for decoding.",
            diverging=True,
        )
    }


def is_plain(value: Any) -> bool:
    """Tell whether a value can be written as JSON as it is."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)


def leakage_card(study: Study, split: Split) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the split's card with its near-duplicates, and the test images that look like a training image."""
    card = split.card()
    if study.stimuli is None:
        return card, frozenset()
    hashes = {}
    ids = {}
    for part in ("train", "test"):
        ids[part] = sorted(split.keys(part, "stimulus"))
        images = (study.stimuli.images([stimulus_id])[0] for stimulus_id in ids[part])
        hashes[part] = perceptual_hashes(images)
    pairs = near_duplicate_ids(ids["test"], hashes["test"], ids["train"], hashes["train"])
    similar = sorted({test for test, _ in pairs})
    card["near_duplicates"] = {"pairs": len(pairs), "test_images": similar}
    return card, frozenset(similar)


def methods(
    card: DatasetCard,
    study: Mapping[str, Any],
    split: Split,
    recipe: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    targets: Mapping[str, str],
    generator: Mapping[str, Any] | None,
    scoring: Mapping[str, Any],
) -> tuple[list[str], list[dict[str, str]]]:
    """Return paragraphs that say what was done, made from what was done, and the works they cite.

    Parameters
    ----------
    card : DatasetCard
    study : mapping
        From `study_facts`.
    split : Split
    recipe : sequence of mapping
        `Recipe.describe()`.
    models : sequence of mapping
        ``name, seed, n_parameters, chosen, departures``.
    targets : mapping of role to target name
    generator : mapping or None
        ``name, steps, guidance, strength, candidates, images``.
    scoring : mapping
        ``n_bootstrap, n_permutations, n_relabellings, scorer, pixel_protocol``.
    """
    sizes = split.card()
    has_csls = sizes["images"]["validation"] >= CSLS_NEIGHBOURS
    cited = ["ridge", "open_clip", *(["csls"] if has_csls else []), "permutation"]
    paragraphs = [
        f"Data. {card.title}: {study['n_trials']} trials of {study['n_images']} images in {study['sessions']} sessions, "
        f"{study['n_units']} {study.get('units', 'units')} ({study['n_valid']} of them with a signal), in {study['unit']}."
        + (
            " The recordings are simulated: the results show model recovery, never performance."
            if card.simulated
            else ""
        ),
        f"Split. Protocol {split.protocol}: {sizes['images']['train']} training, {sizes['images']['validation']} validation "
        f"and {sizes['images']['test']} test images, disjoint in {', '.join(sorted(split.disjoint)) or 'nothing'}. "
        "Nothing was fitted, selected, stopped or scaled on test rows.",
        "Preprocessing. " + (recipe_words(recipe) or "The responses were used as released."),
    ]
    spaces = ", ".join(f"{role}: {name}" for role, name in targets.items())
    paragraphs.append(f"Targets. Latents of the images were embedded once for each image ({spaces}).")
    seeds: dict[str, list[str]] = {}
    for model in models:
        seeds.setdefault(str(model["name"]), []).append(str(model["seed"]))
    for name, of in seeds.items():
        size = next(model["n_parameters"] for model in models if model["name"] == name)
        departures = next(model.get("departures", []) for model in models if model["name"] == name)
        paragraphs.append(_model_words(name, [seed for seed in of if seed], size, departures))
        if name in ("mindeye", "brain-routing", "meg-module", "nice", "atm"):
            cited.append(name)
    cited += ["whiten"] * any(step["name"] == "whiten" for step in recipe)
    paragraphs.append(
        "Retrieval. Predictions were averaged over the repeats of an image, and each query was averaged over seeds before "
        "anything was resampled. Similarities are the raw cosine and the cosine centred on the means of training predictions and "
        f"of training images (the headline). {_csls_words(sizes['images']['validation'])} Top-1 in galleries of a given size is "
        "the exact expectation over random galleries. "
        f"Intervals are 95 % percentile bootstraps of images ({scoring['n_bootstrap']} resamples), conditional on gallery and "
        f"model; p-values permute whole images ({scoring['n_permutations']} permutations), conditional on the model."
        + (
            f" The baseline was also refitted on {scoring['n_relabellings']} relabellings of the training images, all folds and "
            "penalties."
            if scoring.get("n_relabellings")
            else ""
        )
    )
    if generator is not None:
        cited += ["kandinsky", "ssim"]
        paragraphs.append(
            f"Reconstruction. {generator['images']} test images, drawn at random with the seed, were reconstructed by "
            f"{generator['name']} ({generator['steps']} steps, guidance {generator['guidance']:g}, image-to-image strength "
            f"{generator['strength']:g} from the decoded low-level latents). Of {generator['candidates']} candidates an image the "
            "one nearest to the predicted embedding was kept; the true image was never consulted. Every control was drawn in the "
            "same way with the same seeds; true-latent, the generator's ceiling, has the true embedding in the place of the "
            f"predicted one. Identification is two-way, by Pearson's correlation of features of {scoring['scorer'] or 'no network'}. "
            f"{_size_words(scoring['pixel_protocol'])} SSIM has gaussian weights of sigma 1.5."
        )
    own = [{"text": card.citation, "url": ""}] if card.citation else []
    citations = [*own, *(dict(CITATIONS[key]) for key in dict.fromkeys(cited))]
    return paragraphs, citations


def _csls_words(n_validation: int) -> str:
    if n_validation < CSLS_NEIGHBOURS:
        return (
            f"CSLS was left out: it takes its hubs from validation images, and {n_validation} are fewer than its "
            f"{CSLS_NEIGHBOURS} neighbours."
        )
    return (
        f"CSLS ({CSLS_NEIGHBOURS} neighbours) stands beside; its hubs were measured on the {n_validation} validation images, "
        "which belong to the training part but which no model was fitted on (they stop the deep one)."
    )


def _size_words(protocol: str) -> str:
    if protocol == "nsd":
        return "All images were brought to 256 pixels and then to 425 for pixel scores, bilinear, as in the published scores."
    return "Truths, distractors, training images and reconstructions were brought to the size of what is drawn by one function."


def recipe_words(recipe: Sequence[Mapping[str, Any]]) -> str:
    """Return the preprocessing in sentences, empty where there was none."""
    words = []
    for step in recipe:
        if step["name"] == "z-score":
            within = _within(step["by"])
            words.append(
                f"Every unit was z-scored {within}, with the mean and standard deviation of "
                + (
                    "that block's training rows."
                    if step["scope"] == "train"
                    else "all rows of held-out blocks (transductive)."
                )
            )
        elif step["name"] == "filter":
            words.append(_filter_words(step))
        elif step["name"] == "resample":
            words.append(f"They were resampled to {step['sfreq']:g} Hz.")
        elif step["name"] == "robust-scale":
            within = _within(step["by"])
            rows = (
                "training rows"
                if step["scope"] == "train"
                else "all rows of held-out blocks too (transductive)"
            )
            words.append(
                f"Every sensor was scaled {within}: minus the median, over the interquartile range of {rows}."
            )
        elif step["name"] == "whiten":
            within = _within(step["by"])
            samples = "whole epochs" if step["tmax"] is None else f"samples up to {step['tmax']:g} s"
            rows = (
                "training rows"
                if step["scope"] == "train"
                else "all rows of held-out blocks too (transductive)"
            )
            words.append(
                f"Sensors were whitened {within} by the covariance of {samples} of {rows}, shrunk by the rule of Ledoit and Wolf "
                "(multivariate noise normalisation): a channel is then a sum over sensors around its place."
            )
        elif step["name"] == "baseline":
            start = "the start of the epoch" if step["tmin"] is None else f"{step['tmin']:g} s"
            words.append(
                f"The mean from {start} to {step['tmax']:g} s was subtracted from every epoch and sensor."
            )
        elif step["name"] == "clip":
            words.append(f"Values were clipped at {step['limit']:g} on either side.")
        elif step["name"] == "keep-reliable":
            words.append(
                f"{step['kept']} of {step['of']} units were kept: those whose single trials are signal to at least "
                f"{step['threshold']:g} of their variance, estimated without rectification from the repeats of training images."
            )
        else:
            words.append(f"{step['name']}: {', '.join(f'{k} {v}' for k, v in step.items() if k != 'name')}.")
    return " ".join(words)


def _filter_words(step: Mapping[str, Any]) -> str:
    """Return what a filter of recordings lets through, and in which direction it ran."""
    cuts = [
        f"{word} {step[key]:g} Hz"
        for key, word in (("highpass", "high-pass"), ("lowpass", "low-pass"))
        if step[key]
    ]
    cuts += [f"notch {hertz:g} Hz" for hertz in step["notch"] or ()]
    way = "forwards only (causal)" if step["phase"] == "causal" else "in both directions in time (zero phase)"
    return f"Recordings were filtered {way}, Butterworth of order {step['order']}: {', '.join(cuts) or 'nothing cut'}."


def _within(by: str | Sequence[str] | None) -> str:
    """Return what a step was fitted within, in words; the last of several columns is the smallest block."""
    return f"within each {by if isinstance(by, str) else by[-1]}" if by else "over all sessions"


def _model_words(name: str, seeds: Sequence[str], n_parameters: int, departures: Sequence[str]) -> str:
    if name == "ridge":
        return (
            f"Baseline. Ridge regression ({n_parameters:,} numbers) from units to the same latents, a penalty for each latent "
            "dimension chosen by cross-validation over training images; validation images, which stop the deep model, are "
            "not used."
        )
    times = (
        f"{len(seeds)} seeds ({', '.join(seeds)})"
        if len(seeds) > 1
        else f"seed {seeds[0]}"
        if seeds
        else "one fit"
    )
    return (
        f"Model. {name} with {n_parameters:,} parameters, {times}; trained on training images, stopped and chosen on validation "
        "images." + (f" Other than in its paper: {'; '.join(departures)}." if departures else "")
    )
