"""How long every stage took: histograms of fixed size, so that a run of hours takes no more memory than one of minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

LEAST, MOST, RATIO = 1e-6, 1e3, 1.01
"""Seconds at both ends of the histogram, and how much wider a bin is than the one before."""


class LatencyHistogram:
    """Counts of durations in bins that grow by one per cent: a quantile is right to half of that.

    Examples
    --------
    >>> histogram = LatencyHistogram()
    >>> for ms in range(1, 101):
    ...     histogram.add(ms / 1000)
    >>> histogram.n, round(histogram.quantile(0.5), 2), 0.094 < histogram.quantile(0.95) < 0.096
    (100, 0.05, True)
    """

    def __init__(self) -> None:
        self.counts = np.zeros(int(np.ceil(np.log(MOST / LEAST) / np.log(RATIO))) + 2, np.int64)
        self.n, self.total, self.largest = 0, 0.0, 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        at = int(np.log(max(seconds, LEAST) / LEAST) / np.log(RATIO))
        self.counts[min(at, len(self.counts) - 1)] += 1
        self.n, self.total, self.largest = self.n + 1, self.total + seconds, max(self.largest, seconds)

    def quantile(self, share: float) -> float:
        """Return the duration that this share of all did not exceed, NaN where there are none."""
        if not self.n:
            return float("nan")
        at = int(np.searchsorted(np.cumsum(self.counts), share * self.n))
        return float(min(LEAST * RATIO ** (at + 0.5), self.largest))

    def bins(self, n: int = 40) -> list[tuple[float, int]]:
        """Return (upper edge in seconds, count) of at most `n` wider bins that hold everything."""
        filled = np.flatnonzero(self.counts)
        if not len(filled):
            return []
        width = -(-(filled[-1] - filled[0] + 1) // n)
        starts = range(int(filled[0]), int(filled[-1]) + 1, int(width))
        return [(float(LEAST * RATIO ** (k + width)), int(self.counts[k : k + width].sum())) for k in starts]


class Latencies:
    """A histogram for every stage."""

    def __init__(self) -> None:
        self.stages: dict[str, LatencyHistogram] = {}

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what each stage of one answer took."""
        for stage, duration in seconds.items():
            self.stages.setdefault(stage, LatencyHistogram()).add(duration)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return mean, median, 95th and 99th percentile and maximum of each stage, in milliseconds."""
        return {
            stage: {
                "n": one.n,
                "mean_ms": 1000 * one.total / one.n,
                **{f"p{round(100 * q)}_ms": 1000 * one.quantile(q) for q in (0.5, 0.95, 0.99)},
                "max_ms": 1000 * one.largest,
            }
            for stage, one in self.stages.items()
        }

    def report(self) -> str:
        """Return a table of all stages, and the histogram of the total in words."""
        lines = [f"{'stage':<10} {'n':>6} {'mean':>8} {'p50':>8} {'p95':>8} {'p99':>8} {'max':>8}  (ms)"]
        for stage, row in self.summary().items():
            numbers = [row[k] for k in ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms")]
            lines.append(f"{stage:<10} {row['n']:>6.0f} " + " ".join(f"{value:8.2f}" for value in numbers))
        bins = self.stages["total"].bins(12) if "total" in self.stages else []
        most = max((count for _, count in bins), default=1)
        for edge, count in bins:
            lines.append(f"  up to {1000 * edge:9.2f} ms {count:>6} {'#' * round(30 * count / most)}")
        return "\n".join(lines)


def facts_of(latencies: Latencies) -> dict[str, Any]:
    """Return summary and histogram of the total, for JSON."""
    total = latencies.stages.get("total", LatencyHistogram())
    return {"stages": latencies.summary(), "histogram": [[1000 * edge, n] for edge, n in total.bins()]}
