"""The report: well-formed, self-contained, escaped, complete, and honest about what is missing."""

from __future__ import annotations

import json
import re
from collections import Counter
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import read_scores
from braindecode_suite.report.examples import PICKED_SHOWN, RANDOM_SHOWN, reconstructions
from braindecode_suite.report.figures import WIDEST, identification_forest, learning_curves
from braindecode_suite.report.group import write_group_report
from braindecode_suite.report.pictures import LARGEST, load_picture
from braindecode_suite.report.render import environment, links
from braindecode_suite.report.results import Results, read_results
from braindecode_suite.report.selection import pick, versus_row
from braindecode_suite.report.subject import write_subject_report
from braindecode_suite.report.summary import headline_rows, make_card, summarise
from braindecode_suite.report.tables import ceiling_note, retrieval_tables
from braindecode_suite.report.wording import number
from tests.report_fixture import facts, write_digit_results, write_scene_results

HOSTILE = "<script>alert('x')</script>\"&"
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
STEM = "sub-01/decoding/sub-01_desc-mindeye"


class Page(HTMLParser):
    """Collects tags and attributes of a page, and checks that every tag is closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.faults.append(f"<{tag}> repeats an attribute")
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="module")
def scene_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scene_results(folder, "01")
    write_subject_report(folder, "01", "mindeye")
    return folder


@pytest.fixture(scope="module")
def digit_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digit_results(folder, "01")
    write_subject_report(folder, "01", "image-prior")
    return folder


@pytest.fixture(scope="module")
def group_dir(tmp_path_factory: pytest.TempPathFactory, scene_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("group")
    rng = np.random.default_rng(3)
    for subject in ("01", "02", "03", "04"):
        scores = read_scores(scene_dir / f"{STEM}_scores.tsv")
        scores = scores[scores["metric"].isin(["retrieval_brain_to_image_top1", "identification", "pixcorr"])]
        moved = scores.assign(subject=subject, value=scores["value"] + rng.normal(0, 0.02, len(scores)))
        warned = {"study": facts(subject)["study"] | {"warnings": ["its third session is missing"]}}
        told = facts(subject, **(warned if subject == "03" else {}))
        base = folder / f"sub-{subject}" / "decoding"
        base.mkdir(parents=True)
        moved.to_csv(base / f"sub-{subject}_desc-mindeye_scores.tsv", sep="\t", index=False)
        (base / f"sub-{subject}_desc-mindeye_facts.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "sub-05").mkdir()
    (folder / "sub-01.html").write_text("a report", encoding="utf-8")
    from braindecode_suite.workflows.group import subject_tables, summarise

    table, _ = summarise(subject_tables(folder, "mindeye"))
    table.to_csv(folder / "desc-mindeye_scores.tsv", sep="\t", index=False)
    write_group_report(folder, "mindeye")
    return folder


@pytest.fixture(scope="module")
def pages(scene_dir: Path, digit_dir: Path, group_dir: Path) -> dict[str, str]:
    files = {
        "scenes": scene_dir / "sub-01.html",
        "digits": digit_dir / "sub-01.html",
        "group": group_dir / "group.html",
    }
    return {name: file.read_text(encoding="utf-8") for name, file in files.items()}


@pytest.fixture(scope="module")
def scene_results(scene_dir: Path) -> Results:
    return read_results(scene_dir, "01", "mindeye")


def changed(results: Results, **parts: Any) -> Results:
    """Return results with other parts."""
    return Results(**({name: getattr(results, name) for name in Results.__dataclass_fields__} | parts))


def write_facts(folder: Path, told: Any, workflow: str = "mindeye") -> Path:
    path = folder / "sub-01" / "decoding" / f"sub-01_desc-{workflow}_facts.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(told if isinstance(told, str) else json.dumps(told), encoding="utf-8")
    return path


def report_of(folder: Path, told: Any) -> str:
    write_facts(folder, told)
    return write_subject_report(folder, "01", "mindeye").read_text(encoding="utf-8")


PAGES = ("scenes", "digits", "group")


@pytest.mark.parametrize("name", PAGES)
def test_every_tag_is_closed_in_order(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert page.faults == []
    assert page.open == []


@pytest.mark.parametrize("name", PAGES)
def test_an_html5_parser_finds_no_fault(pages: dict[str, str], name: str) -> None:
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed")
    parser = html5lib.HTMLParser()
    parser.parse(pages[name])
    assert parser.errors == []


@pytest.mark.parametrize("name", PAGES)
def test_ids_are_unique_and_every_inner_link_lands(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert [key for key, times in ids.items() if times > 1] == []
    wanted = {a["href"][1:] for a in page.all("a") if a.get("href", "").startswith("#")}
    wanted |= {
        attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes
    }
    wanted |= set(re.findall(r"url\(#([^)]+)\)", pages[name]))
    wanted |= {a["xlink:href"][1:] for a in page.all("use")}
    assert wanted <= set(ids)
    assert "main" in wanted


@pytest.mark.parametrize("name", PAGES)
def test_images_tables_and_headings_speak_to_screen_readers(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert all(image.get("alt", "").strip() for image in page.all("img"))
    drawings = page.all("svg")
    assert drawings
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in drawings)
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 0
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    assert all("tabindex" in box for box in page.all("div") if box.get("class") == "scroll")
    assert pages[name].count("What to look for:") >= pages[name].count("<figure")
    assert '<html lang="en">' in pages[name]


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_outside(pages: dict[str, str], name: str) -> None:
    text = pages[name]
    for tag, attributes in Page(text).tags:
        for key in ("src", "srcset", "poster", "data", "action", "background", "href", "xlink:href"):
            if key in attributes and not (tag == "a" and key == "href"):
                assert attributes[key].startswith(("#", "data:")), (tag, key, attributes[key][:60])
    assert re.findall(r"url\((?![#)]|['\"]?data:)[^)]*\)", text) == []
    assert "@import" not in text
    assert not Page(text).all("script", "iframe", "object", "embed", "base", "form")
    assert not [key for _, attributes in Page(text).tags for key in attributes if key.startswith("on")]


@pytest.mark.parametrize("name", PAGES)
def test_a_report_is_one_file_under_twenty_megabytes(pages: dict[str, str], name: str) -> None:
    assert 20_000 < len(pages[name].encode()) < 20_000_000


def test_two_renders_of_the_same_results_are_the_same_bytes(scene_dir: Path, pages: dict[str, str]) -> None:
    assert write_subject_report(scene_dir, "01", "mindeye").read_text(encoding="utf-8") == pages["scenes"]


def test_every_score_row_appears_with_its_value(scene_dir: Path, pages: dict[str, str]) -> None:
    scores = read_scores(scene_dir / f"{STEM}_scores.tsv")
    rows = re.findall(r'<tr class="score-row">.*?</tr>', pages["scenes"])
    assert len(rows) == len(scores)
    in_order = [row for _, group in scores.groupby("metric", sort=False) for row in group.to_dict("records")]
    for found, row in zip(rows, in_order, strict=True):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", found)
        assert number(row["value"]) in cells
        assert {escape(row["control"]), escape(row["split"])} <= set(cells)


def test_every_group_row_appears(group_dir: Path, pages: dict[str, str]) -> None:
    table = read_scores(group_dir / "desc-mindeye_scores.tsv")
    assert pages["group"].count('<tr class="score-row">') == len(table)


def test_hostile_names_are_shown_and_never_run(tmp_path: Path) -> None:
    study = facts("01")["study"] | {"rois": {HOSTILE: 3}, "warnings": [HOSTILE], "unit": HOSTILE}
    told = facts(
        "01",
        study=study,
        config={HOSTILE: HOSTILE},
        command=["bds", HOSTILE],
        models=[{"name": HOSTILE, "seed": 0}],
        methods=[f"{HOSTILE} https://example.org/'onclick='x"],
        citations=[{"text": HOSTILE, "url": "javascript:alert(1)"}],
        notes=[HOSTILE],
        splits=[facts("01")["splits"][0] | {"protocol": HOSTILE, "label": HOSTILE, "notes": [HOSTILE]}],
        steps=[{"name": HOSTILE, "status": HOSTILE, "seconds": 1.0, "detail": HOSTILE}],
        hub_skewness={HOSTILE: {HOSTILE: 1.0}},
        random_examples=[HOSTILE],
    )
    text = report_of(tmp_path, told)
    page = Page(text)
    assert page.faults == []
    assert not page.all("script")
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert "javascript:" not in "".join(link.get("href", "") for link in page.all("a"))
    assert text.count("&lt;script&gt;") >= 10


def test_stimulus_ids_with_markup_stay_text(tmp_path: Path, scene_dir: Path) -> None:
    for suffix in ("scores.tsv", "facts.json", "images.tsv", "retrieval.tsv"):
        source = scene_dir / f"{STEM}_{suffix}"
        place = tmp_path / f"{STEM}_{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_text(encoding="utf-8")
        place.write_text(re.sub(r"\b1005\b", "<b onload=1>&1005", content), encoding="utf-8")
    text = write_subject_report(tmp_path, "01", "mindeye").read_text(encoding="utf-8")
    assert "&lt;b onload=1&gt;&amp;1005" in text
    assert "<b onload" not in text
    assert "not saved" in text  # the image files were not copied: their absence is said


def test_links_are_made_of_web_addresses_only() -> None:
    assert 'href="https://a.org/x"' in links("see https://a.org/x.")
    assert "<a" not in links("javascript:alert(1) and <a href=x>")


def test_random_examples_keep_the_order_in_which_they_were_drawn(scene_results: Results) -> None:
    found = reconstructions(scene_results)
    assert found.random is not None
    shown = [stimulus for stimulus, _, _ in found.random.rows]
    assert shown == scene_results.facts["random_examples"][:RANDOM_SHOWN]
    assert scene_results.images is not None
    own = scene_results.images[
        (scene_results.images["control"] == "brain") & (scene_results.images["stage"] == "final")
    ]
    score = own[own["model"] == "mindeye"].set_index("stimulus_id")["identification"].astype(float)
    values = [score[name] for name in shown]
    assert values != sorted(values)
    assert values != sorted(values, reverse=True)


def test_best_median_and_worst_are_sorted_and_called_picked(
    scene_results: Results, pages: dict[str, str]
) -> None:
    found = reconstructions(scene_results)
    assert [grid.slug for grid in found.picked] == ["best", "median", "worst"]
    assert all("Picked" in grid.caption and "Identification" in grid.caption for grid in found.picked)
    shares = [float(tag.split("\u00a0")[0]) for grid in found.picked for _, tag, _ in grid.rows]
    assert len(shares) == 3 * PICKED_SHOWN
    assert shares == sorted(shares, reverse=True)
    page = pages["scenes"]
    assert page.index('id="grid-random"') < page.index("Picked, not random") < page.index('id="grid-best"')


def test_the_truth_stands_first_and_every_control_has_its_column(scene_results: Results) -> None:
    found = reconstructions(scene_results)
    assert found.random is not None
    headings = found.random.headings
    assert headings[:3] == ["Seen image", "Reconstruction", "Low-level branch"]
    for words in ("Nearest training image", "No brain", "Trained on shuffled pairs", "Category only"):
        assert words in headings
    assert headings[-1] == "By ridge"
    nearest = headings.index("Nearest training image")
    assert all(cells[nearest].scores[0] == "study" for _, _, cells in found.random.rows)
    assert all(cell.picture.uri for _, _, cells in found.random.rows for cell in cells)


def with_difference(results: Results, low: float, high: float, **wanted: str) -> Results:
    """Return results in which the differences named have this interval."""
    scores = results.scores.copy()
    rows = pd.Series(True, index=scores.index)
    for column, value in wanted.items():
        rows &= scores[column] == value
    assert rows.any()
    scores.loc[rows, ["value", "ci_low", "ci_high"]] = [(low + high) / 2, low, high]
    return changed(results, scores=scores)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.02, 0.08, "better than ridge by 5.0 points"),
        (-0.02, 0.08, "not clearly different from ridge"),
        (-0.08, -0.02, "worse than ridge by 5.0 points"),
    ],
)
def test_the_verdict_follows_the_paired_interval(
    scene_results: Results, low: float, high: float, words: str
) -> None:
    results = with_difference(
        scene_results, low, high, metric="retrieval_brain_to_image_top1", versus="ridge"
    )
    assert words in summarise(results).verdict[0]
    images = with_difference(scene_results, low, high, metric="identification", versus="ridge")
    assert words in summarise(images).verdict[1]


def test_beaten_controls_are_counted_by_their_intervals(scene_results: Results) -> None:
    results = scene_results
    for control in ("shuffled-test", "shuffled-train", "null-condition", "nearest-train"):
        results = with_difference(results, 0.1, 0.3, metric="identification", versus=control)
    results = with_difference(results, -0.1, 0.3, metric="identification", versus="category-only")
    sentence = " ".join(summarise(results).verdict)
    assert "beat 4 of 5 controls" in sentence
    assert "not category-only" in sentence
    scores = results.scores[results.scores["versus"] != "category-only"]
    assert "category-only not computed" in " ".join(summarise(changed(results, scores=scores)).verdict)


def test_a_score_within_chance_is_called_so(scene_results: Results) -> None:
    scores = scene_results.scores.assign(ci_low=0.0)
    assert "does not set apart from chance" in summarise(changed(scene_results, scores=scores)).verdict[0]


def test_cards_carry_everything_that_makes_a_number_trustworthy(scene_results: Results) -> None:
    title, meaning, row = headline_rows(scene_results)[0]
    card = make_card(scene_results, title, meaning, row)
    told = dict(card.facts)
    assert row["metric"] == "retrieval_brain_to_image_top1"
    assert row["scorer"] == "cosine-centred"
    assert row["seed"] == "0,1,2"
    assert {"95\u00a0% interval", "Chance", "p", "Oracle", "n", "Level", "Gallery", "Split", "Spread"} <= set(
        told
    )
    assert told["Spread"].endswith("over 3 seeds")
    assert card.bar is not None
    assert card.bar.low is not None
    assert card.bar.high is not None
    assert card.bar.low <= card.bar.value <= card.bar.high


def test_a_missing_ceiling_has_its_reason_where_ceilings_stand(
    pages: dict[str, str], scene_results: Results
) -> None:
    known = (
        "Ceiling: what the oracle reaches, worked out for Retrieval, brain \u2192 image, top 1. It is empty"
    )
    for name, places in (("scenes", 3), ("group", 1)):  # both retrieval tables, and all scores
        assert pages[name].count(known) == places
    assert pages["digits"].count("Ceiling: none. The model that generated real recordings is not known") == 1
    retrieval = retrieval_tables(scene_results)
    assert any("ceiling" in table.headings for table in retrieval)
    assert all(table.note.startswith("Ceiling: what the oracle reaches") for table in retrieval)
    without = changed(
        scene_results,
        scores=scene_results.scores.assign(ceiling=np.nan),
        facts={
            **scene_results.facts,
            "steps": [{"name": "oracle", "status": "failed", "detail": "out of memory"}],
        },
    )
    for table in retrieval_tables(without):
        assert "ceiling" not in table.headings
        assert table.note == "Ceiling: none; step 'oracle' failed: out of memory."
    card = make_card(without, *headline_rows(without)[0])
    assert dict(card.facts)["Oracle"] == "not worked out for this score"
    encoding = scene_results.scores.assign(metric="encoding_r", ceiling=0.6)
    assert ceiling_note(encoding, simulated=False).startswith(
        "Ceiling: the noise ceiling, worked out for Encoding correlation."
    )


def test_a_paired_difference_is_never_taken_from_another_stage(scene_results: Results) -> None:
    low = pick(scene_results, "pixcorr", model="mindeye", stage="low-level")
    assert low is not None
    assert versus_row(scene_results, low, "ridge") is None  # only the final images were compared with ridge
    mean = versus_row(scene_results, low, "mean-image")
    assert mean is not None
    assert mean["stage"] == "low-level"


def test_simulated_studies_are_labelled_and_real_ones_are_not(pages: dict[str, str]) -> None:
    assert "model recovery, not performance" in pages["scenes"]
    assert "model recovery, not performance" in pages["group"]
    assert "model recovery" not in pages["digits"]


def test_near_duplicates_empty_rois_and_failed_steps_are_warned_of(scene_results: Results) -> None:
    steps = [{"name": "draw images", "status": "failed", "seconds": 1.0, "detail": "out of memory"}]
    found = summarise(changed(scene_results, facts={**scene_results.facts, "steps": steps})).warnings
    assert "ROI PPA is empty." in found
    assert any("2 test images have a near-duplicate" in warning for warning in found)
    assert any("out of memory" in warning for warning in found)


def test_a_circular_score_is_called_circular(scene_results: Results) -> None:
    scores = scene_results.scores.replace({"scorer": {"tiny-eval": "tiny-eval (circular)"}})
    results = changed(scene_results, scores=scores)
    assert any("circular" in warning for warning in summarise(results).warnings)
    row = pick(results, "identification", model="mindeye")
    assert row is not None
    assert row["scorer"] == "tiny-eval (circular)"


def test_facts_alone_give_a_report_with_reasons(tmp_path: Path) -> None:
    steps = [
        {"name": "reconstruct", "status": "skipped", "seconds": 0.0, "detail": "no generator was asked for"}
    ]
    text = report_of(tmp_path, facts("01", steps=steps, oracle=None, hub_skewness={}, recipe=[]))
    for reason in (
        "No headline score was computed",
        "no generator was asked for",
        "No signal-to-noise map",
        "No learning curves",
        "No oracle",
        "No scores were written",
    ):
        assert reason in text
    assert Page(text).faults == []


@pytest.mark.parametrize("told", [{}, {"study": None, "splits": None, "models": None, "steps": None}])
def test_empty_facts_give_a_report_and_not_an_error(tmp_path: Path, told: dict[str, Any]) -> None:
    page = Page(report_of(tmp_path, told))
    assert page.faults == []
    assert len(page.all("section")) == 9


def test_scores_alone_give_a_report(tmp_path: Path, scene_dir: Path) -> None:
    place = tmp_path / f"{STEM}_scores.tsv"
    place.parent.mkdir(parents=True)
    place.write_bytes((scene_dir / f"{STEM}_scores.tsv").read_bytes())
    text = write_subject_report(tmp_path, "01", "mindeye").read_text(encoding="utf-8")
    assert "MindEye puts the seen image first" in text
    assert "No steps were recorded" in text


def test_a_subject_without_results_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the participant level first"):
        write_subject_report(tmp_path, "01", "mindeye")
    with pytest.raises(InputError, match="at least one sub-XX/decoding"):
        write_group_report(tmp_path, "mindeye")


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = write_facts(tmp_path, "{not json")
    with pytest.raises(InputError, match=r"facts\.json: expected JSON"):
        write_subject_report(tmp_path, "01", "mindeye")
    write_facts(tmp_path, "[]")
    with pytest.raises(InputError, match="expected a JSON object; found list"):
        write_subject_report(tmp_path, "01", "mindeye")
    write_facts(tmp_path, {})
    path.with_name("sub-01_desc-mindeye_images.tsv").write_text(
        "stimulus_id\tcontrol\n1\ttruth\n", encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"images\.tsv: expected columns .*; found no path"):
        write_subject_report(tmp_path, "01", "mindeye")


def test_an_earlier_report_survives_results_that_cannot_be_read(tmp_path: Path) -> None:
    before = report_of(tmp_path, facts("01"))
    write_facts(tmp_path, "{")
    with pytest.raises(InputError, match="expected JSON"):
        write_subject_report(tmp_path, "01", "mindeye")
    assert (tmp_path / "sub-01.html").read_text(encoding="utf-8") == before


def test_digits_are_enlarged_by_whole_pixels_and_all_folds_are_listed(
    digit_dir: Path, pages: dict[str, str]
) -> None:
    page = Page(pages["digits"])
    images = page.all("img")
    assert images
    assert all(image["class"] == "pixel" and image["width"] == image["height"] == "28" for image in images)
    random = re.findall(
        r'<table class="pictures many" id="grid-random">.*?</table>', pages["digits"], re.DOTALL
    )[0]
    assert random.count("<tr data-stimulus") == RANDOM_SHOWN
    folds = re.findall(r'<table id="table-folds">.*?</table>', pages["digits"], re.DOTALL)[0]
    assert folds.count("<tr") == 1 + 100
    cards = re.findall(r'class="card".*?<h3>(.*?)</h3>', pages["digits"], re.DOTALL)
    assert "Structural similarity" in cards
    assert "no retrieval was run" in pages["digits"]


def test_ssim_is_no_headline_where_scenes_are_retrieved(scene_results: Results) -> None:
    assert "ssim" not in [row["metric"] for _, _, row in headline_rows(scene_results)]


def test_every_subject_is_listed_also_without_results(pages: dict[str, str]) -> None:
    table = re.findall(r'<table id="table-subjects".*?</table>', pages["group"], re.DOTALL)[0]
    for subject in ("01", "02", "03", "04", "05"):
        assert f"sub-{subject}" in table
    assert '<a href="sub-01.html">' in table
    assert '<a href="sub-02.html">' not in table  # its report was not written
    assert "its third session is missing" in table
    assert "no results of this workflow" in table


def test_the_group_shows_the_t_interval_of_four_subjects_and_the_prevalence(
    group_dir: Path, pages: dict[str, str]
) -> None:
    from scipy.stats import t

    values = []
    for subject in ("01", "02", "03", "04"):
        row = pick(
            read_results(group_dir, subject, "mindeye"), "retrieval_brain_to_image_top1", model="mindeye"
        )
        assert row is not None
        values.append(row["value"])
    half = t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    low, high = (f"{100 * (np.mean(values) + sign * half):.1f}" for sign in (-1, 1))
    assert f"interval [{low}\u00a0%, {high}\u00a0%]" in pages["group"]
    assert "4 of 4 significant at 0.05" in pages["group"]
    assert "(1 without this score)" in pages["group"]


def test_fewer_than_four_subjects_get_no_interval_over_subjects(tmp_path: Path) -> None:
    write_facts(tmp_path, facts("01"))
    text = write_group_report(tmp_path, "mindeye").read_text(encoding="utf-8")
    assert "Fewer than four subjects: no interval over subjects is given." in text
    assert "No group table" in text


def test_large_photographs_become_thumbnails_and_small_images_keep_their_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (512, 512, 3), np.uint8)).save(tmp_path / "large.png")
    small = rng.integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(small).save(tmp_path / "small.png")
    thumbnail, kept = (
        load_picture(tmp_path / "large.png", "large"),
        load_picture(tmp_path / "small.png", "small"),
    )
    assert (thumbnail.width, thumbnail.small) == (LARGEST, False)
    assert thumbnail.uri is not None
    assert thumbnail.uri.startswith("data:image/jpeg;base64,")
    assert kept.uri is not None
    import base64
    import io

    data = base64.b64decode(kept.uri.split(",")[1])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), small)


def test_a_broken_image_is_said_and_not_raised(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    assert load_picture(tmp_path / "broken.png", "truth").alt == "truth: cannot be read"
    assert load_picture(tmp_path / "absent.png", "truth").alt == "truth: not saved"


def test_paths_that_leave_the_results_folder_are_not_followed(scene_results: Results, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere.png")
    assert scene_results.images is not None
    images = scene_results.images.assign(path=str(tmp_path / "elsewhere.png"))
    found = reconstructions(changed(scene_results, images=images)).random
    assert found is not None
    assert all(cell.picture.uri is None for _, _, cells in found.rows for cell in cells)


def test_figures_are_at_most_850_pixels_wide_and_take_the_pages_colours(pages: dict[str, str]) -> None:
    assert WIDEST * 100 <= 850
    for text in pages.values():
        widths = [int(width) for width in re.findall(r'role="img"[^>]*max-width:(\d+)px', text)]
        assert widths
        assert max(widths) <= 850
        assert "var(--ink)" in text
        assert re.findall(r"#0102\d\d", text) == []


def test_scores_far_below_zero_do_not_flatten_the_others() -> None:
    rows = pd.DataFrame({"epoch": [0, 1, 2], "validation_r2": [-20.0, -0.1, 0.3]})
    block, whole = learning_curves(rows), learning_curves(rows.assign(validation_r2=[-0.2, 0.1, 0.3]))
    assert block is not None
    assert whole is not None
    assert "Scores below -0.5 are not shown" in block.caption
    assert "not shown" not in whole.caption
    assert ">−20<" not in str(block.svg)


def test_learning_curves_need_a_loss_or_a_validation_score() -> None:
    assert learning_curves(pd.DataFrame({"epoch": [0, 1], "note": ["a", "b"]})) is None
    block = learning_curves(pd.DataFrame({"epoch": [0, 1], "train_loss": [2.0, 1.0]}))
    assert block is not None
    assert "1 runs" in block.alt


def test_the_forest_counts_beaten_controls_for_those_who_cannot_see_it(scene_results: Results) -> None:
    rows = scene_results.scores[scene_results.scores["versus"] != ""]
    rows = rows[
        (rows["metric"] == "identification") & (rows["candidates"] == "matched") & (rows["versus"] != "ridge")
    ]
    rows = rows.assign(ci_low=[0.1] * (len(rows) - 1) + [-0.1], ci_high=0.5)
    block = identification_forest(rows.iloc[:0], rows, "others")
    assert block is not None
    assert f"{len(rows) - 1} of them with an interval above zero" in block.alt


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_a_contrast_of_at_least_four_and_a_half(scheme: str) -> None:
    assert environment().autoescape is True
    style = (Path(__file__).parents[1] / "braindecode_suite/report/templates/style.css").read_text(
        encoding="utf-8"
    )
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
        for part in style.split("@media (prefers-color-scheme: dark)")
    )
    colours = light if scheme == "light" else light | dark
    pairs = [
        (ink, paper)
        for ink in ("ink", "muted", "accent", "good", "bad", "unclear")
        for paper in ("panel", "page", "shade")
    ]
    pairs += [("warn-ink", "warn"), ("recovery-ink", "recovery"), ("ink", "accent-soft")]
    for ink, paper in pairs:
        bright, dim = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (scheme, ink, paper)
