"""The main job over a grid of noise and structure: where the deep model wins, where the linear one does, with the oracle."""

from pathlib import Path

import pandas as pd
import pytest

from braindecode_suite.cli import main
from braindecode_suite.core.score import FIRST_FIVE, read_scores
from braindecode_suite.workflows.results import result_path

pytestmark = pytest.mark.slow

SETTINGS = ("generator=''", "second_protocols=[]", "n_relabellings=0", "shuffled_train=false")


def headline(out: Path, versus: str = "") -> pd.DataFrame:
    """Return centred top-1 at gallery size 200, by model."""
    table = read_scores(result_path(out, "01", "mindeye", "scores.tsv"))
    rows = table[
        (table["metric"] == "retrieval_brain_to_image_top1")
        & (table["gallery"] == 200)
        & (table["scorer"] == "cosine-centred")
        & (table["level"] == "mean-prediction")
        & (table["candidates"] == "all")
        & (table["control"] == "brain")
        & (table["versus"] == versus)
    ]
    return rows.drop_duplicates("model").set_index("model")  # the row over seeds stands before those of each


@pytest.mark.parametrize("structure", ["linear", "mixed", "routed"])
@pytest.mark.parametrize("ncsnr", [0.26, 0.40])
def test_every_cell_of_the_grid_is_above_chance_and_below_the_oracle(
    ncsnr: float, structure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = f"simulation={{size: demo, subjects: 1, ncsnr: {ncsnr}, structure: {structure}}}"
    words = ["run", "simulated-nsd", str(tmp_path), "participant", "--device", "cpu", "--set", simulation]
    assert main([*words, *(word for setting in SETTINGS for word in ("--set", setting))]) == 0
    rows, difference = headline(tmp_path), headline(tmp_path, versus="ridge").loc["mindeye"]
    with capsys.disabled():
        cells = [f"{m} {r['value']:.3f} [{r['ci_low']:.3f}, {r['ci_high']:.3f}]" for m, r in rows.iterrows()]
        against = f"difference {difference['value']:+.3f} [{difference['ci_low']:+.3f}, {difference['ci_high']:+.3f}]"
        print(
            f"\nncsnr {ncsnr}, {structure}: {', '.join(cells)}, {against}, oracle {rows['ceiling'].iloc[0]:.3f}"
        )
    assert set(rows.index) == {"mindeye", "ridge"}
    assert (rows["ci_low"] > rows["chance"]).all()
    assert (rows["value"] <= rows["ceiling"]).all()
    assert difference["ci_low"] >= -0.05


def test_the_harder_preset_is_reported_like_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path), "--device", "cpu", "--set", "simulation.ncsnr=0.26"]) == 0
    table = read_scores(result_path(tmp_path, "01", "mindeye", "scores.tsv"))
    with capsys.disabled():
        print(f"\n{capsys.readouterr().out}")
    assert headline(tmp_path).loc["mindeye", "ci_low"] > 0.005
    assert headline(tmp_path, versus="ridge").loc["mindeye", "ci_low"] >= -0.05
    ours = table[(table["model"] == "mindeye") & (table["control"] == "brain")]
    matched = ours[(ours["metric"] == "identification") & (ours["candidates"] == "matched")]
    differences = matched[matched["versus"].isin(FIRST_FIVE)].set_index("versus")
    with capsys.disabled():
        print(differences[["value", "ci_low", "ci_high"]].to_string())
    assert set(differences.index) == set(FIRST_FIVE)
    assert (
        differences.drop("nearest-train")["ci_low"] > 0
    ).all()  # the look-up is level with it at this noise
    pixels = ours[(ours["metric"] == "pixcorr") & (ours["versus"] == "mean-image")]
    assert set(pixels["stage"]) == {"low-level", "final"}
    assert (pixels["ci_low"] > 0).all()
