"""How often to look at runs while watching them: rarely enough to take less than 1 % of a core."""

from __future__ import annotations

import time

SHARE = 0.008
"""Share of a core that looking may take."""
LONGEST_S = 180.0
"""Maximum seconds between two looks."""


def pause(begun: float | None, least: float = 0.0) -> float:
    """Seconds to wait until the next look, at least `least`. begun: time.thread_time() at the
    beginning of the look that ends now; None if that was the first, since later ones take much
    less: they skip finished runs."""
    if begun is None:
        return least
    return max(least, min(LONGEST_S, (time.thread_time() - begun) / SHARE))
