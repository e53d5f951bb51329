"""``bds demo``: the main job on the embedded default, offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from braindecode_suite.core.score import read_scores
from braindecode_suite.datasets import DATASETS
from braindecode_suite.workflows import WORKFLOWS
from braindecode_suite.workflows.configuration import load_config
from braindecode_suite.workflows.results import result_path
from braindecode_suite.workflows.runner import Run, run_participants

DATASET, WORKFLOW, PRESET, SUBJECT = "simulated-nsd", "mindeye", "tiny", "01"
SIMULATION = ("simulation.size=demo", "simulation.ncsnr=0.40", "simulation.subjects=1")


def run_demo(
    output_dir: Path,
    *,
    settings: Sequence[str] = (),
    device: str = "cpu",
    precision: str = "32",
    seed: int = 0,
    fresh: bool = False,
    progress: bool = False,
    command: tuple[str, ...] = (),
) -> int:
    """Simulate a small study, decode one subject, and say where the report is and what it found."""
    workflow = WORKFLOWS[WORKFLOW]
    run = Run(
        dataset=DATASETS[DATASET],
        data_dir=None,
        output_dir=output_dir,
        work_dir=output_dir / "work",
        workflow=workflow,
        config=load_config(workflow, PRESET, None, [*SIMULATION, *settings]),
        subjects=(SUBJECT,),
        device=device,
        precision=precision,
        seed=seed,
        fresh=fresh,
        progress=progress,
        command=command,
    )
    code = run_participants(run)
    if code == 0:
        print(headline(result_path(output_dir, SUBJECT, workflow.label, "scores.tsv")))
        print(f"report: {(output_dir / f'sub-{SUBJECT}.html').resolve()}")
    return code


def headline(scores_path: Path) -> str:
    """Return the headline of a score table: centred top-1 of every model at gallery size 200, or the nearest there is."""
    table = read_scores(scores_path)
    plain = table[
        (table["metric"] == "retrieval_brain_to_image_top1")
        & (table["scorer"] == "cosine-centred")
        & (table["level"] == "mean-prediction")
        & (table["candidates"] == "all")
        & (table["control"] == "brain")
        & (table["versus"] == "")
        & table["minutes"].isna()
    ]
    if plain.empty:
        return "no retrieval scores"
    first = plain[plain["split"] == plain["split"].iloc[0]]
    gallery = 200 if (first["gallery"] == 200).any() else first["gallery"].max()
    lines = []
    for _, row in first[first["gallery"] == gallery].drop_duplicates("model").iterrows():
        ceiling = f", oracle {row['ceiling']:.3f}" if row["ceiling"] == row["ceiling"] else ""
        lines.append(
            f"{row['model']}: the image seen comes first among {int(gallery)} in {row['value']:.3f} "
            f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}] of {int(row['n'])} (chance {row['chance']:.4g}{ceiling})"
        )
    return "\n".join(lines)
