"""Whether the chains of an exact posterior can be believed: split R̂ and effective numbers (Gelman+13, chapter 11), divergences."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import arviz

__all__ = ["R_HAT", "Convergence", "convergence"]

R_HAT = 1.05


class Convergence(NamedTuple):
    """Whether chains can be believed."""

    r_hat: dict[str, float]  # split R̂ by parameter
    n_eff: dict[str, float]  # effective number of draws
    divergences: int

    @property
    def said(self) -> str:
        """In one line."""
        largest, fewest = max(self.r_hat.values()), min(self.n_eff.values())
        return f"R̂ at most {largest:.3f}, at least {fewest:.0f} effective draws, {self._diverged}"

    @property
    def complaint(self) -> str:
        """What is wrong with them; empty if nothing is."""
        apart = [f"{name} {value:.2f}" for name, value in self.r_hat.items() if not value <= R_HAT]
        parts = [f"R̂ above {R_HAT}: {', '.join(apart)}"] * bool(apart) + [self._diverged] * (self.divergences > 0)
        return "; ".join(parts)

    @property
    def _diverged(self) -> str:
        return f"{self.divergences} divergence{'' if self.divergences == 1 else 's'}"


def convergence(posterior: arviz.InferenceData) -> Convergence | None:
    """What an exact posterior records of its chains; None for a posterior of networks."""
    attributes = posterior["posterior"].attrs
    if attributes.get("method") != "exact":
        return None
    return Convergence(json.loads(attributes["r_hat"]), json.loads(attributes["n_eff"]), int(attributes["divergences"]))
