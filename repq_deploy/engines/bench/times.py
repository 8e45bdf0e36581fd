"""What an engine and the float model take, and from which ratio on the engine is called faster."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FASTER", "FloatTimes"]

#: An engine is called faster from this ratio on: below it the difference is what two measurements of one file have.
FASTER = 1.05


@dataclass(frozen=True)
class FloatTimes:
    """Milliseconds of one batch of ``batch`` images: the engine's, and its float twin's."""

    batch: int
    engine_ms: float
    float_ms: float

    @property
    def ratio(self) -> float:
        """How many times as fast as the float model the engine is."""
        return self.float_ms / self.engine_ms

    @property
    def faster(self) -> bool:
        return self.ratio >= FASTER
