"""Progress of a training run by wall clock, so that a deadline can be honoured."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass
class Clock:
    """Progress of a run in [0, 1] by wall clock, summed over resumed parts."""

    total: float  # seconds
    before: float = 0.0  # seconds spent in earlier parts
    start: float = 0.0

    @classmethod
    def start_at(cls, before: float, minutes: float, deadline: str | None) -> "Clock":
        """A clock that has run for `before` seconds and ends after the minutes, or at HH:MM today or tomorrow."""
        if deadline is None:
            return cls(minutes * 60, before, time.monotonic())
        now = datetime.now()
        end = datetime.combine(now.date(), datetime.strptime(deadline, "%H:%M").time())
        end += timedelta(days=end < now)
        return cls(before + (end - now).total_seconds(), before, time.monotonic())

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.start

    def progress(self) -> float:
        return min(self.elapsed() / self.total, 1.0) if self.total > 0 else 1.0
