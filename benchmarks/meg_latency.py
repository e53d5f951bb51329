"""How long does a live decoder take, from the last sample of a window to ranked pictures, at the size of the paper?

272 sensors at 1200 Hz in chunks of 25 ms pass the causal filters; the MEG module in the paper's sizes (one pass over a few trials: its
weights say nothing, and cost what trained ones cost) is asked about every growing window of every picture; its answer is
compared with a gallery. The hop is chosen as `bds stream` chooses it, from a rehearsal before the first sample. The bound of a window is the
sum of its network's matrix products in their own shapes, each timed alone, right after the window was decoded.

    python benchmarks/meg_latency.py [--json FILE] [--threads N] [--seconds 30] [--gallery 2400] [--soak MINUTES] [--whiten]

``mean_over_hop``: mean processing of a hop (its samples and its window) over the hop. ``p95_over_bound``: 95th percentile of what
windows take over that of their bounds. ``p95_ms``: the former alone. With ``--soak`` the same stream runs at 1x for so many minutes:
``soak_missing`` samples that were lost, ``soak_skipped`` windows, ``soak_rss_mb_per_min`` slope of the memory (0 is flat). ``--whiten`` puts
multivariate noise normalisation between scaling and baseline; the paper has none.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from braindecode_suite.core.epoch_steps import Baseline, Clip, RobustScale
from braindecode_suite.core.files import write_json
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.signal import Filter, Resample, SignalRecipe
from braindecode_suite.core.stream import Marker, StreamFacts
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.core.whitening import Whiten
from braindecode_suite.datasets.stream_file import FileSource
from braindecode_suite.encoders.meg_module import MegModule
from braindecode_suite.learning.synthetic import NumberedStimuli, TableTarget
from braindecode_suite.workflows.stream_bundle import read_stream_bundle, save_stream_bundle
from braindecode_suite.workflows.stream_engine import EngineOptions, StreamEngine, choose_multiple
from braindecode_suite.workflows.stream_run import run_stream

N_SENSORS, SFREQ, EVERY, N_TRIALS = 272, 1200.0, 1.5, 24
SCALE = 1e-13
Product = tuple[tuple[int, ...], tuple[int, ...]]


class Products(TorchDispatchMode):
    """Collect the shapes of all matrix products; a convolution is one over its unfolded input."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.shapes.append((tuple(args[0].shape), tuple(args[1].shape)))
        elif name == "addmm":
            self.shapes.append((tuple(args[1].shape), tuple(args[2].shape)))
        elif name == "mv":
            self.shapes.append((tuple(args[0].shape), (args[1].shape[0], 1)))
        elif name in ("convolution", "mkldnn_convolution", "_convolution"):
            n_out, n_in, width = args[1].shape
            self.shapes.append(((n_out, n_in * width), (n_in * width, out.shape[-1])))
        return out


def make_bundle(folder: Path, n_gallery: int, width: int, whiten: bool = False) -> None:
    """Fit the paper's module for one short pass to noise, and save it with all that live decoding needs."""
    rng = np.random.default_rng(0)
    times = np.arange(-60, 121) / 120
    places = rng.uniform(0, 1, (N_SENSORS, 2))
    trials = pd.DataFrame({"stimulus_id": [str(k % N_TRIALS) for k in range(2 * N_TRIALS)]})
    trials["session"], trials["run"], trials["repeat"] = "01", 1, 1
    trials["onset"] = EVERY * np.arange(1, len(trials) + 1)
    study = Study(
        dataset="noise",
        subject="01",
        responses=(SCALE * rng.standard_normal((len(trials), N_SENSORS, len(times)))).astype(np.float32),
        trials=trials,
        stimuli=NumberedStimuli(n_gallery),
        space=SensorSpace(
            tuple(f"M{k:03d}" for k in range(N_SENSORS)), ("mag",) * N_SENSORS, {"01": places}, 120.0, times
        ),
        unit="tesla",
        signal=SignalRecipe((Filter(0.1, phase="causal"), Resample(120.0, phase="causal")), SFREQ),
    )
    rows = np.arange(len(trials))
    whitening = (Whiten(times),) if whiten else ()
    recipe = Recipe((RobustScale(), *whitening, Baseline(times, None, 0.0), Clip(20.0)))
    study = study.prepared(recipe, rows[:N_TRIALS])
    latents = rng.standard_normal((n_gallery, 1, width)).astype(np.float32)
    target = TableTarget("random", latents)
    config = MegModule.preset("paper")
    training = config.training.model_copy(update={"epochs": 1, "batch_size": 12, "patience": 0})
    config = config.model_copy(update={"window": "growing", "training": training})
    encoder = MegModule(config, FitContext(work_dir=folder / "fit"))
    encoder.fit(Cohort.of(study, rows[:N_TRIALS]), Cohort.of(study, rows[N_TRIALS:]), {"retrieval": target})
    encoder.save(folder / "model")
    ids = np.array([str(k) for k in range(n_gallery)], dtype=object)
    gallery = Latents(latents, ids, target.name, "true")
    save_stream_bundle(
        folder / "model", encoder, Cohort.of(study, rows[N_TRIALS:]), gallery, target, model="meg-module"
    )


def make_source(names: tuple[str, ...], seconds: float, speed: float | None, chunk: int) -> FileSource:
    """Return noise with a picture every second and a half; ten seconds of it over and over."""
    noise = SCALE * np.random.default_rng(1).standard_normal((N_SENSORS, int(10 * SFREQ)))
    n_samples = int(seconds * SFREQ)

    def read(start: int, stop: int) -> np.ndarray:
        return noise[:, np.arange(start, stop) % noise.shape[1]]

    markers = [Marker(float(at), "") for at in np.arange(1.0, seconds, EVERY)]
    return FileSource(read, StreamFacts("noise", names, SFREQ), n_samples, markers, chunk=chunk, speed=speed)


def time_products(shapes: list[Product]) -> float:
    """Return the seconds that all products take, each run once: whatever disturbs the decoder may disturb them too."""
    total = 0.0
    for left, right in shapes:
        a, b = torch.randn(left), torch.randn(right)
        began = time.perf_counter()
        torch.matmul(a, b)
        total += time.perf_counter() - began
    return total


def measure(engine: StreamEngine, source: FileSource) -> dict[str, float]:
    """Decode everything, and time each window's products right after it."""
    shapes: dict[int, list[Product]] = {}
    own, bounds, signal, n_hops = [], [], [], 0
    before = 0.0
    while (chunk := source.read(0.0)) is not None:
        due = engine.push(chunk)
        signal.append(engine.signal_seconds - before)
        before = engine.signal_seconds
        for one in due:
            if one.window not in shapes:
                with Products() as seen, torch.no_grad():
                    epoch = np.zeros((N_SENSORS, int(engine._lengths[one.window])), np.float32)
                    engine._predict(epoch)
                shapes[one.window] = seen.shapes
                time_products(seen.shapes)
            began = time.perf_counter()
            engine.decode(one)
            own.append(time.perf_counter() - began + signal[-1])
            n_hops += 1
            bounds.append(time_products(shapes[one.window]))
    hop = engine.bundle.stride * engine.options.multiple
    recorded = engine.clock.next / SFREQ
    mean_window = float(np.mean(own)) - float(np.mean(signal))
    flops = {w: sum(2 * float(np.prod(a)) * b[-1] for a, b in one) for w, one in shapes.items()}
    return {
        "hop_ms": 1000 * hop,
        "mean_over_hop": mean_window / hop + engine.signal_seconds / recorded,
        "p95_ms": 1000 * float(np.quantile(own, 0.95)),
        "p50_ms": 1000 * float(np.median(own)),
        "p99_ms": 1000 * float(np.quantile(own, 0.99)),
        "bound_p95_ms": 1000 * float(np.quantile(bounds, 0.95)),
        "p95_over_bound": float(np.quantile(own, 0.95) / np.quantile(bounds, 0.95)),
        "signal_ms_per_hop": 1000 * engine.signal_seconds / recorded * hop,
        "windows": n_hops,
        "gigaflops_whole_window": max(flops.values()) / 1e9,
    }


def soak(engine: StreamEngine, names: tuple[str, ...], minutes: float, chunk: int) -> dict[str, float]:
    """Run at 1x and watch the memory."""
    process, rows, stop = psutil.Process(), [], threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            rows.append((time.perf_counter() / 60, process.memory_info().rss / 2**20))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        summary = run_stream(engine, make_source(names, 60 * minutes, 1.0, chunk))
    finally:
        stop.set()
        watcher.join()
    at, rss = np.array(rows[len(rows) // 5 :]).T  # what is allocated once is there by then
    return {
        "soak_minutes": minutes,
        "soak_samples": summary.n_samples,
        "soak_missing": summary.n_missing + int(60 * minutes * SFREQ) - summary.n_samples,
        "soak_skipped": summary.n_skipped,
        "soak_rss_mb_per_min": float(np.polyfit(at, rss, 1)[0]),
        "soak_rss_mb": float(rss[-1]),
        "soak_p95_ms": summary.latencies.summary()["total"]["p95_ms"],
        "soak_mean_over_hop": summary.mean_over_hop,
    }


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--gallery", type=int, default=2400)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--chunk", type=int, default=30, help="samples")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--whiten", action="store_true", help="whiten epochs too, which the paper does not")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        make_bundle(Path(scratch), arguments.gallery, arguments.width, arguments.whiten)
        bundle, encoder = read_stream_bundle(Path(scratch) / "model")
    facts = StreamFacts("noise", bundle.space.names, SFREQ)

    def make(multiple: int) -> StreamEngine:
        return StreamEngine(bundle, encoder, facts, EngineOptions(multiple=multiple))

    multiple = choose_multiple(make, list(bundle.evidence))
    source = make_source(facts.names, arguments.seconds, None, arguments.chunk)
    figures: dict[str, Any] = measure(make(multiple), source)
    if arguments.soak:
        figures |= soak(make(multiple), facts.names, arguments.soak, arguments.chunk)
    figures |= {"threads": arguments.threads, "gallery": arguments.gallery, "whiten": arguments.whiten}
    for name, value in figures.items():
        print(f"{name:<24} {value:.4g}" if isinstance(value, float) else f"{name:<24} {value}")
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
