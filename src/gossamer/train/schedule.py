"""How density and learning rate move over a run (Gao et al. 2025, sections 2.1 and A.1; the public train.py)."""

from __future__ import annotations

import math


def density_at(
    progress: float, final: float, start: float, anneal_fraction: float, anneal_start: float = 0.0
) -> float:  # fmt: skip
    """`start` until `anneal_start` of the run, then linear to `final` at `anneal_fraction`. progress: 0 to 1."""
    if final >= 1 or progress >= anneal_fraction:
        return final
    done = (progress - anneal_start) / (anneal_fraction - anneal_start)
    return start + (final - start) * max(0.0, done)


def lr_multiplier(progress: float, warmup_fraction: float) -> float:
    """Linear warm-up over `warmup_fraction`, then linear decay to 0 at progress 1."""
    if progress < warmup_fraction:
        return progress / warmup_fraction
    return max(0.0, (1 - progress) / (1 - warmup_fraction))


def sharkfin(density: float, final: float) -> float:
    """sqrt(final density / density now): sqrt(final) while dense, 1 once sparse. Multiplies the learning rate."""
    return math.sqrt(final / density)
