"""The report in a real browser: headless Chromium lays it out on a phone and on a desktop, in the light and the dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from braindecode_suite.report.group import write_group_report
from braindecode_suite.report.subject import write_subject_report
from tests.report_fixture import write_digit_results, write_scene_results

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--virtual-time-budget=3000",
]
MEASURE = """
<script>
window.addEventListener("load", function () {
  var opened = OPENED;
  if (opened) document.querySelectorAll("details").forEach(function (d) { d.open = true; });
  var width = document.documentElement.clientWidth, out = [], broken = 0;
  document.querySelectorAll("body *").forEach(function (e) {
    if (e.closest(".scroll, pre, svg, .skip") && !e.matches(".scroll, pre")) return;
    var box = e.getBoundingClientRect();
    if (box.width && box.right > width + 1) out.push(e.tagName + "." + e.className);
  });
  document.querySelectorAll("img").forEach(function (i) { if (!i.complete || !i.naturalWidth) broken += 1; });
  var focusable = document.querySelectorAll("a[href], summary, [tabindex='0']").length;
  var report = {inner: window.innerWidth, width: width, scroll: document.documentElement.scrollWidth,
                body: document.body.scrollWidth, height: document.documentElement.scrollHeight, outside: out.slice(0, 5),
                broken: broken, images: document.images.length, focusable: focusable};
  parent.postMessage(JSON.stringify(report), "*");
});
</script>
"""

FRAME = """<!DOCTYPE html><title>frame</title><style>body { margin: 0 } iframe { border: 0; height: 1000px }</style>
<script>
window.addEventListener("message", function (m) { document.documentElement.setAttribute("data-report", m.data); });
</script>
<iframe src="measured.html" style="width:WIDTHpx"></iframe>"""
"""A window of headless Chromium is never narrower than 500 pixels; a frame is as narrow as asked."""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH"
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    scenes, digits = tmp_path_factory.mktemp("scenes"), tmp_path_factory.mktemp("digits")
    write_scene_results(scenes, "01")
    write_digit_results(digits, "01")
    return {
        "scenes": write_subject_report(scenes, "01", "mindeye"),
        "group": write_group_report(scenes, "mindeye"),
        "digits": write_subject_report(digits, "01", "image-prior"),
    }


def browse(page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)


def laid_out(page: Path, folder: Path, width: int, opened: bool) -> dict[str, Any]:
    """Return what the browser measures of a page at a width, with all details opened or as they are."""
    script = MEASURE.replace("OPENED", str(opened).lower())
    text = page.read_text(encoding="utf-8").replace("</body>", f"{script}</body>")
    (folder / "measured.html").write_text(text, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    done = browse(frame, folder / "profile", "--window-size=1300,1000", "--dump-dom")
    found = re.search(r'data-report="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    measured: dict[str, Any] = json.loads(unescape(found[1]))
    return measured


@pytest.mark.parametrize("opened", [False, True], ids=["as it is", "all details opened"])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("name", ["scenes", "digits", "group"])
def test_nothing_runs_over_the_edge_and_every_image_shows(
    reports: dict[str, Path], tmp_path: Path, name: str, width: int, opened: bool
) -> None:
    found = laid_out(reports[name], tmp_path, width, opened)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["body"] <= width
    assert found["outside"] == []
    assert found["broken"] == 0
    assert found["height"] > 1000
    assert found["focusable"] > 10
    assert (found["images"] > 50) == (name != "group")


def test_the_page_follows_the_dark_scheme(reports: dict[str, Path], tmp_path: Path) -> None:
    brightness = []
    for scheme in ("1", "0"):  # light, dark
        shot = tmp_path / f"{scheme}.png"
        settings = (
            f"--screenshot={shot}",
            "--window-size=800,900",
            f"--blink-settings=preferredColorScheme={scheme}",
        )
        browse(reports["group"], tmp_path / f"profile-{scheme}", *settings)
        brightness.append(float(np.asarray(Image.open(shot).convert("L"), float).mean()))
    assert brightness[0] > 200
    assert brightness[1] < 80
