"""The summary: headline scores as cards, one sentence that says what they mean, and the warnings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from braindecode_suite.core.score import FIRST_FIVE
from braindecode_suite.report.classification import verdict_sentence
from braindecode_suite.report.encoding import encoding_headlines, encoding_sentences, rival_row
from braindecode_suite.report.results import Results, mapping, sequence
from braindecode_suite.report.selection import pick, pooled, seed_spread, tone, versus_row, where
from braindecode_suite.report.similarity import similarity_sentence
from braindecode_suite.report.vectors import vectors_sentence
from braindecode_suite.report.wording import (
    CANDIDATE_NOTES,
    LEVEL_NOTES,
    control_title,
    count,
    integer,
    interval,
    is_proportion,
    listed,
    metric_title,
    missing,
    model_title,
    p_text,
    plural,
    points,
    quantity,
    scorer_title,
)

TONE_WORDS = {
    "better": "better than",
    "worse": "worse than",
    "unclear": "not clearly different from",
    "unknown": "no interval against",
}
LOWER_IS_BETTER = ("effnet", "swav", "median_relative_rank", "position_error", "size_error")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Where a score stands on an axis from 0 to 100 percent of the card's width."""

    low: float | None
    high: float | None
    value: float
    chance: float | None = None
    ceiling: float | None = None
    baseline: float | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """One headline score with everything needed to trust it, as text."""

    title: str
    value: str
    meaning: str
    facts: list[tuple[str, str]]
    verdicts: list[tuple[str, str]] = field(default_factory=list)  # (tone, words)
    bar: Bar | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What stands at the top of a report."""

    verdict: list[str]
    label: str
    cards: list[Card]
    warnings: list[str]


def summarise(results: Results) -> Summary:
    """Return the headline cards, the sentence computed from their intervals, and the warnings."""
    rows = headline_rows(results)
    cards = [make_card(results, title, meaning, row) for title, meaning, row in rows]
    return Summary(
        verdict=verdict(results),
        label="Simulated study: model recovery, not performance" if results.simulated else "",
        cards=cards,
        warnings=warnings_of(results),
    )


def headline_rows(results: Results) -> list[tuple[str, str, pd.Series]]:
    """Return title, meaning and score row of every headline that was computed.

    SSIM is a headline only where nothing is retrieved: it says little about photographs and scenes.
    """
    model = results.primary
    found: list[tuple[str, str, pd.Series | None]] = []
    retrieval = pick(results, "retrieval_brain_to_image_top1", model=model)
    found.append(("Finds the seen image", "Share of held-out images ranked first in the gallery.", retrieval))
    identification = pick(results, "identification", model=model)
    found.append(
        (
            "Reconstructions tell images apart",
            "How often the reconstruction is more like the seen image than like another one.",
            identification,
        )
    )
    if retrieval is None:
        found.append(
            (
                "Structural similarity",
                "SSIM between reconstruction and seen image.",
                pick(results, "ssim", model=model),
            )
        )
    final = pick(results, "pixcorr", model=model, stage=["final", ""])
    found.append(("Pixel correlation", "PixCorr between reconstruction and seen image.", final))
    low = pick(results, "pixcorr", model=model, stage="low-level")
    found.append(
        ("Layout, low-level branch", "PixCorr between the blurry first guess and the seen image.", low)
    )
    found.append(
        (
            "Names the right class",
            "Share of test examples given their own label.",
            pick(results, "accuracy", model=model),
        )
    )
    found.append(
        (
            "Names the class of new images",
            "The same where the images tested are left out of training.",
            pick(results, "accuracy", model=model, splits=[f"{results.protocol}-new-images"]),
        )
    )
    found += encoding_headlines(results)
    others = [
        name for name in results.scores["split"].unique() if "disjoint" in name and name != results.protocol
    ]
    if retrieval is not None and others:
        for name in (model, results.baseline):
            row = pick(results, "retrieval_brain_to_image_top1", splits=others, model=name) if name else None
            if row is not None:
                words = "The same retrieval where the test images' clusters are absent from training."
                found.append(("Beyond the training clusters", words, row))
                break
    rows = [(title, meaning, row) for title, meaning, row in found if row is not None]
    if rows:
        return rows
    plain = where(results.scores, control="brain", versus="", roi="")
    named = plain[plain["model"] != ""]
    firsts = (named if len(named) else plain).drop_duplicates("metric").head(6)
    return [(metric_title(row["metric"]), "", row) for _, row in firsts.iterrows()]


def make_card(results: Results, title: str, meaning: str, row: pd.Series) -> Card:
    """Return a card: the value, its interval, chance, p, ceiling, n, level, gallery, and what it is compared with."""
    metric = row["metric"]
    facts = [("95\u00a0% interval", interval(row["ci_low"], row["ci_high"], metric))]
    classified = metric in ("accuracy", "balanced_accuracy")
    facts.append(("Chance, by relabelling" if classified else "Chance", quantity(metric, row["chance"])))
    facts.append(("p", p_text(row["p_value"]) + (f", {row['p_correction']}" if row["p_correction"] else "")))
    none = "not worked out for this score" if results.simulated else "none: not known of real recordings"
    ceiling = none if missing(row["ceiling"]) else quantity(metric, row["ceiling"])
    oracle = results.simulated and not metric.startswith("encoding")
    facts.append(("Oracle" if oracle else "Ceiling", ceiling))
    if classified:
        facts.append(("n", f"{integer(row['n'])} test examples"))
        facts.append(("Interval over", plural(row["ci_over"])))
    else:
        facts.append(("n", integer(row["n"]) + (f" {plural(row['ci_over'])}" if row["ci_over"] else "")))
    if row["level"] and not classified:
        facts.append(("Level", level_words(row)))
    if not missing(row["gallery"]):
        facts.append(("Gallery", f"{integer(row['gallery'])} images"))
    if row["candidates"] and (row["candidates"] != "all" or metric == "identification"):
        facts.append(("Against", CANDIDATE_NOTES.get(row["candidates"], row["candidates"])))
    if not classified:
        facts.append(("Judged by", scorer_title(row["scorer"]) if row["scorer"] else "the pixels"))
    seeds = f", seed{'s' if pooled(row['seed']) else ''} {row['seed']}" if row["seed"] else ""
    facts.append(("Model", model_title(row["model"]) + seeds))
    spread = seed_spread(results, row)
    if spread:
        runs = "seeds" if len(sequence(results.facts.get("seeds"))) > 1 else "repetitions"
        ends = f"{quantity(metric, spread[1])} to {quantity(metric, spread[2])}"
        facts.append(("Spread", f"{ends} over {spread[0]} {runs}"))
    if row["split"]:
        facts.append(("Split", row["split"]))
    baseline = versus_row(results, row, results.baseline) if results.baseline else rival_row(results, row)
    verdicts = [] if baseline is None else [compare_words(baseline, model_title(baseline["versus"]))]
    for name in sequence(mapping(results.facts.get("config")).get("beside")):
        beside = versus_row(results, row, str(name))
        if beside is not None:
            verdicts.append(compare_words(beside, model_title(str(name))))
    for versus in ("mean-image", "null-condition"):
        difference = versus_row(results, row, versus)
        if difference is not None:
            verdicts.append(compare_words(difference, control_title(versus).lower()))
            break
    return Card(
        title=title,
        value=quantity(metric, row["value"]),
        meaning=meaning,
        facts=facts,
        verdicts=verdicts,
        bar=make_bar(results, row),
    )


def level_words(row: pd.Series) -> str:
    """Return what was averaged before scoring."""
    words = LEVEL_NOTES.get(row["level"], row["level"])
    if row["level"].startswith("mean") and not missing(row["n_repeats"]):
        once = float(row["n_repeats"]) == 1
        return (
            "one trial an image"
            if once
            else words.replace("over repeats", f"over {count(row['n_repeats'])} repeats")
        )
    return words


def compare_words(difference: pd.Series, name: str) -> tuple[str, str]:
    """Return the tone of a paired difference and the words for it."""
    kind = reading(difference)
    metric = difference["metric"]
    unit = " points" if is_proportion(metric) else ""
    words = f"{points(metric, difference['value'])}{unit} {interval(difference['ci_low'], difference['ci_high'], metric, signed=True)}"
    return kind, f"{TONE_WORDS[kind].capitalize()} {name}: {words}"


def reading(difference: pd.Series) -> str:
    """Return the tone of a difference, turned round where lower is better."""
    kind = tone(difference)
    if difference["metric"] in LOWER_IS_BETTER:
        return {"better": "worse", "worse": "better"}.get(kind, kind)
    return kind


def make_bar(results: Results, row: pd.Series) -> Bar | None:
    """Return positions in percent on an axis from 0 to 1, or None for a metric that leaves it."""
    values = [row[name] for name in ("value", "ci_low", "ci_high", "chance", "ceiling")]
    if any(not missing(value) and not -0.02 <= float(value) <= 1.02 for value in values):
        return None

    def place(value: Any) -> float | None:
        return None if missing(value) else round(100 * min(max(float(value), 0.0), 1.0), 2)

    other = None
    if results.baseline and row["model"] != results.baseline:
        other = pick(
            results,
            row["metric"],
            model=results.baseline,
            **{name: row[name] for name in ("stage", "scorer", "candidates", "split")},
            **({} if missing(row["gallery"]) else {"gallery": row["gallery"]}),
        )
    return Bar(
        low=place(row["ci_low"]),
        high=place(row["ci_high"]),
        value=place(row["value"]) or 0.0,
        chance=place(row["chance"]),
        ceiling=place(row["ceiling"]),
        baseline=None if other is None else place(other["value"]),
    )


def control_differences(results: Results) -> pd.DataFrame:
    """Return the paired differences of identification, brain minus each control, on the strictest distractors."""
    row = pick(results, "identification", model=results.primary)
    if row is None:
        return results.scores.iloc[:0]
    found = [versus_row(results, row, control) for control in controls_of(results)]
    rows = [difference for difference in found if difference is not None]
    return pd.DataFrame(rows) if rows else results.scores.iloc[:0]


def controls_of(results: Results) -> list[str]:
    """Return the controls that may stand against the brain: the first five, then those within class."""
    return [*FIRST_FIVE, "shuffled-within-class"]


def verdict(results: Results) -> list[str]:
    """Return what the intervals say, in plain sentences."""
    found = [
        verdict_sentence(results),
        vectors_sentence(results),
        similarity_sentence(results),
        *encoding_sentences(results),
        _retrieval_sentence(results),
        *_pixel_sentences(results),
        *_control_sentences(results),
    ]
    sentences = [text[:1].upper() + text[1:] for text in found if text]
    return sentences or ["No headline score was computed: see the steps that were skipped or failed."]


def _retrieval_sentence(results: Results) -> str:
    row = pick(results, "retrieval_brain_to_image_top1", model=results.primary)
    if row is None:
        return ""
    gallery = f" among {integer(row['gallery'])}" if not missing(row["gallery"]) else ""
    chance = "" if missing(row["chance"]) else f" (chance {quantity(row['metric'], row['chance'])})"
    low, seen = row["ci_low"], quantity(row["metric"], row["value"])
    sentence = f"{model_title(row['model'])} puts the seen image first{gallery} in {seen} of cases{chance}"
    if not missing(low) and not missing(row["chance"]) and low <= row["chance"]:
        sentence += ", which its interval does not set apart from chance"
    return sentence + _against_baseline(results, row) + "."


def _against_baseline(results: Results, row: pd.Series) -> str:
    difference = versus_row(results, row, results.baseline) if results.baseline else None
    if difference is None:
        return ""
    kind, name, metric = reading(difference), model_title(results.baseline), row["metric"]
    unit = " points" if is_proportion(metric) else ""
    bounds = interval(difference["ci_low"], difference["ci_high"], metric, signed=True)
    amount = quantity(metric, abs(difference["value"])).replace("\u00a0%", "")
    words = {
        "better": f"better than {name} by {amount}{unit} {bounds}",
        "worse": f"worse than {name} by {amount}{unit} {bounds}",
        "unclear": f"not clearly different from {name} ({points(metric, difference['value'])}{unit} {bounds})",
        "unknown": f"{points(metric, difference['value'])}{unit} against {name}, without an interval",
    }
    return ", " + words[kind]


def _control_sentences(results: Results) -> list[str]:
    differences = control_differences(results)
    if differences.empty:
        return []
    sentences = []
    candidates = CANDIDATE_NOTES.get(str(differences["candidates"].iloc[0]), "")
    against = f" (identification, {candidates})" if candidates else " (identification)"
    firsts = differences[differences["versus"].isin(FIRST_FIVE)]
    if len(firsts):
        beaten = [row["versus"] for _, row in firsts.iterrows() if tone(row) == "better"]
        lost = [row["versus"] for _, row in firsts.iterrows() if tone(row) != "better"]
        absent = [name for name in FIRST_FIVE if name not in set(firsts["versus"])]
        sentence = f"The reconstructions beat {len(beaten)} of {len(FIRST_FIVE)} controls{against}"
        sentence += f"; not {listed(lost)}" if lost else ""
        sentence += f"; {listed(absent)} not computed" if absent else ""
        sentences.append(sentence + ".")
    for _, row in differences[~differences["versus"].isin(FIRST_FIVE)].iterrows():
        sentences.append(f"{compare_words(row, control_title(row['versus']).lower())[1]}{against}.")
    return sentences


def _pixel_sentences(results: Results) -> list[str]:
    """Return how reconstructions compare with those of the baseline; pixels are headlines where nothing is retrieved."""
    retrieves = pick(results, "retrieval_brain_to_image_top1", model=results.primary) is not None
    sentences, parts = [], []
    row = pick(results, "identification", model=results.primary)
    if row is not None and retrieves:
        sentences.append(
            f"Its reconstructions tell the seen image from another one in {quantity(row['metric'], row['value'])} of "
            f"pairs{_against_baseline(results, row)}."
        )
    if retrieves:
        return sentences
    if row is not None:
        chance = "" if missing(row["chance"]) else f" (chance {quantity(row['metric'], row['chance'])})"
        seen = quantity(row["metric"], row["value"])
        sentences.append(
            f"{model_title(row['model'])} tells the seen image from another one in {seen} of pairs{chance}"
            f"{_against_baseline(results, row)}."
        )
    for metric in ("ssim", "pixcorr"):
        row = pick(results, metric, model=results.primary)
        if row is not None:
            parts.append(
                f"{metric_title(metric)} {quantity(metric, row['value'])}{_against_baseline(results, row)}"
            )
    return [*sentences, f"{'; '.join(parts)}."] if parts else sentences


def warnings_of(results: Results) -> list[str]:
    """Return what a reader must know before believing a number, each once."""
    found = [str(warning) for warning in sequence(results.study.get("warnings"))]
    found += [str(note) for note in sequence(mapping(results.study.get("provenance")).get("warnings"))]
    for step in map(mapping, sequence(results.facts.get("steps"))):
        if step.get("status") == "failed":
            found.append(f"Step '{step.get('name')}' failed: {step.get('detail') or 'no detail recorded'}")
    for name, members in mapping(results.study.get("rois")).items():
        if not members:
            found.append(f"ROI {name} is empty.")
    circular = results.scores[results.scores["scorer"].str.contains("circular", case=False)]
    if len(circular):
        names = listed(sorted(set(circular["scorer"])))
        found.append(
            f"{len(circular)} scores are circular (the scoring network also made or chose the image): {names}."
        )
    similar = near_duplicates_of(results)
    if similar:
        apart = (results.scores["candidates"] == "no-near-duplicates").any()
        found.append(
            f"{similar} test image{' has' if similar == 1 else 's have'} a near-duplicate among the training images"
            + ("; scores without them are in the table." if apart else "; no scores without them were made.")
        )
    if results.scores.empty:
        found.append("No scores were written.")
    return list(dict.fromkeys(found))


def near_duplicates_of(results: Results) -> int:
    """Return how many test images of the headline's protocol look like a training image, over all of its splits."""
    images: set[str] = set()
    for split in map(mapping, sequence(results.facts.get("splits"))):
        if str(split.get("protocol", "")) == results.protocol:
            images |= {
                str(name) for name in sequence(mapping(split.get("near_duplicates")).get("test_images"))
            }
    return len(images)
