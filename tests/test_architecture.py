"""Who may import whom, in one dict; and what importing must not do."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import braindecode_suite

ROOT = Path(braindecode_suite.__file__).parent

# cli -> workflows -> {datasets, encoders, decoders, report} -> {learning, metrics} -> core
MAY_IMPORT = {
    "cli": {"workflows", "datasets", "encoders", "decoders", "report", "learning", "metrics", "core"},
    "workflows": {"datasets", "encoders", "decoders", "report", "learning", "metrics", "core"},
    "datasets": {"learning", "metrics", "core"},
    "encoders": {"learning", "metrics", "core"},
    "decoders": {"learning", "metrics", "core"},
    "report": {"learning", "metrics", "core"},
    "learning": {"core"},
    "metrics": {"core"},
    "core": set(),
}
# One owner per heavy library: where it may be imported at all.
OWNERS = {
    "open_clip": {"core/networks"},
    "timm": {"core/networks"},
    "torchvision": {"core/networks"},
    "diffusers": {"decoders/generators.py"},
    "transformers": {"decoders/captions.py"},
    "mne": {"datasets/", "report/", "core/sensors.py"},
    "mne_bids": {"datasets/"},
    "mne_lsl": {"datasets/stream_lsl.py"},
    "aiohttp": {"workflows/stream_page.py"},
    "nibabel": {"datasets/", "report/", "core/spaces.py"},
    "nilearn": {"datasets/", "report/", "core/spaces.py"},
    "himalaya": set(),
    "pickle": set(),
    # nothing but `bds fetch` asks the network for data
    "requests": {"datasets/download.py", "datasets/openneuro.py", "workflows/fetch.py"},
    "urllib3": {"datasets/download.py"},
    "http": set(),
    "ftplib": set(),
}
FILES = sorted(path for path in ROOT.rglob("*.py"))
ROOMS = [room for room in MAY_IMPORT if room not in ("cli", "core")]


def imports(path: Path, *, only_top: bool = False) -> set[str]:
    """Return the absolute module names a file imports; `only_top` leaves out imports inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.AST] = list(tree.body) if only_top else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room not in MAY_IMPORT:
        assert room in ("__init__", "__main__", "assets")
        return
    inside = {room_of(name) for name in imports(path) if name.startswith("braindecode_suite.")}
    wrong = inside - MAY_IMPORT[room] - {room}
    assert not wrong, f"{room} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_have_one_owner(path):
    where = path.relative_to(ROOT).as_posix()
    for name in imports(path):
        owners = OWNERS.get(name.split(".")[0])
        if owners is not None:
            assert any(where.startswith(owner) for owner in owners), f"{where} imports {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_catalogue_holds_only_registries_and_imports_nothing_heavy(room):
    tree = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        assert isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign), f"{room}: line {node.lineno}"
    assert imports(ROOT / room / "__init__.py") <= {"braindecode_suite.core.registry"}


def test_every_catalogue_entry_points_at_something_that_exists():
    from importlib import import_module

    from braindecode_suite.core.registry import Registry

    entries = 0
    for room in ROOMS:
        module = import_module(f"braindecode_suite.{room}")
        for registry in list(vars(module).values()):
            if isinstance(registry, Registry):
                for name in registry:
                    assert registry[name] is not None
                    entries += 1
    assert entries >= 10


def test_nothing_imports_through_the_links_at_the_root():
    links = {"encoders", "decoders", "datasets", "workflows"}
    for path in [*FILES, *Path(__file__).parent.glob("*.py")]:
        assert not {name.split(".")[0] for name in imports(path)} & links, path


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from braindecode_suite.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'lightning', 'numpy', 'mne', 'nibabel', 'pandas', 'open_clip', 'diffusers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_answers_within_half_a_second():
    seconds = []
    for _ in range(5):
        clock = time.perf_counter()
        subprocess.run([sys.executable, "-m", "braindecode_suite", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - clock)
    assert min(seconds) <= 0.5, seconds


def test_importing_a_catalogue_changes_no_warnings_handlers_or_folders(tmp_path):
    code = (
        "import warnings, logging, os\n"
        "before = list(warnings.filters), list(logging.root.handlers), os.listdir('.')\n"
        "import braindecode_suite.datasets, braindecode_suite.encoders, braindecode_suite.decoders, braindecode_suite.workflows\n"
        "import braindecode_suite.core.study, braindecode_suite.core.split, braindecode_suite.core.score\n"
        "assert before[1:] == (list(logging.root.handlers), os.listdir('.'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
