"""What came of it."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

SHOWN = 20  # complaints


@dataclass
class Report:
    """Counts, complaints, and what the process held after so many requests (first and last while it was idle)."""

    done: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    jobs: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    restarts: int = 0
    kills: int = 0
    seconds: float = 0.0
    held: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    @property
    def grown(self) -> dict[str, float]:
        """Descriptors, threads and shared memory that the end has and the beginning had not."""
        (_, first), (_, last) = self.held[0], self.held[-1]
        return {name: last[name] - first[name] for name in first if name != "rss_mb"}

    @property
    def slope(self) -> float:
        """Megabytes per thousand requests, least squares."""
        counts, sizes = [count / 1000 for count, _ in self.held], [held["rss_mb"] for _, held in self.held]
        return float(np.polyfit(counts, sizes, 1)[0])

    @property
    def clean(self) -> bool:
        """Nothing was lost, wrong or failed."""
        return not (self.failed or self.wrong or self.lost)

    def lines(self) -> list[str]:
        """For people."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.done.items()))
        first, last = self.held[0][1], self.held[-1][1]
        counts = ", ".join(f"{name} {last[name]:.0f} ({count:+.0f})" for name, count in self.grown.items())
        return [
            f"{self.done.total()} requests in {self.seconds:.0f} s: {kinds}",
            f"restarts: {self.restarts}; processes of Triton killed: {self.kills}",
            f"pictures compared: {self.pictures}, wrong: {len(self.wrong)}; jobs: {self.jobs}, lost: {len(self.lost)}",
            f"failed requests: {len(self.failed)}",
            f"RSS: {first['rss_mb']:.1f} -> {last['rss_mb']:.1f} MB, {self.slope:+.2f} MB per 1000 requests",
            f"at the end (growth): {counts}",
            *(f"  {complaint}" for complaint in [*self.failed, *self.wrong, *self.lost][:SHOWN]),
        ]
