"""The README's example is short and runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def example() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def test_the_example_is_under_25_lines():
    assert len(example().splitlines()) < 25


def test_the_example_runs_and_writes_a_report(tmp_path):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    code = example() + "\nassert images.shape == (len(gallery), 64, 64, 3) and images.dtype == 'uint8'\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = (tmp_path / "results" / "sub-01.html").read_text(encoding="utf-8")
    assert "retrieval" in report.lower()
    scores = (tmp_path / "results/sub-01/decoding/sub-01_desc-mindeye_scores.tsv").read_text(encoding="utf-8")
    assert "retrieval_brain_to_image_top1" in scores


def test_the_files_the_readme_points_at_are_there():
    prose = re.sub(r"```.*?```", "", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    assert links
    missing = [link for link in links if "://" not in link and not (README.parent / link).exists()]
    assert not missing
