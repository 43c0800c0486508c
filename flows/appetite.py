"""How many claims a shift asks for: one for each free hand, and a little work ahead where work is quick."""

import time
from dataclasses import dataclass
from typing import Final

AHEAD_SECONDS: Final = 0.1
"""Work of so long is claimed ahead: nothing where a task takes longer, so that it waits for a hand that is free."""

AHEAD_AT_MOST: Final = 200
"""Claims ahead, however fast the work goes."""


@dataclass(slots=True)
class Appetite:
    """Grows with the proof that work is quick, not with a first guess: what was quick lately may be slow next."""

    goal: int = 0
    """How many claims it likes to have ahead."""
    ended: int = 0
    """Handlers that have ended."""
    asked: tuple[float, int] = (0.0, 0)
    """When it was asked last, and how many handlers had ended then."""

    def is_hungry(self, ahead: int) -> bool:
        """More is to be fetched before none is left."""
        return 2 * ahead <= self.goal

    def wanted(self, free: int, ahead: int) -> int:
        """How many to ask for now."""
        if 2 * ahead > self.goal:
            return 0  # a bell rang, of ourselves perhaps; what is here comes first
        now, (asked_at, before) = time.monotonic(), self.asked
        ended = self.ended - before
        self.asked = now, self.ended
        self.goal = min(AHEAD_AT_MOST, self.goal + ended, int(ended / (now - asked_at) * AHEAD_SECONDS))
        return max(free - ahead, round_number(max(0, free + self.goal - ahead)))


def round_number(number: int) -> int:
    """Rounded down, by less than a third: PostgreSQL compiles and plans a claim anew for each number asked for."""
    return number & -(1 << max(0, number.bit_length() - 2))
