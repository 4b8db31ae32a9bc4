"""Whether an exact posterior can be believed: split R̂ and effective numbers (Gelman+13, chapter 11), divergences, hosts in the bank."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from simulators.exact import ExactPosterior

__all__ = ["R_HAT", "Convergence", "convergence"]

R_HAT = 1.05
FEWEST_HOSTS = 20.0  # likely ones of the median object, below which a bank is no population


class Convergence(NamedTuple):
    """What a posterior is judged by."""

    r_hat: dict[str, float]  # split R̂ by parameter
    n_eff: dict[str, float]  # effective number of draws
    divergences: int
    hosts_per_object: float = math.inf  # that share the probability of the median object

    @classmethod
    def of(cls, posterior: ExactPosterior, hosts_per_object: float = math.inf) -> Convergence:
        """Of draws as the sampler gives them."""
        r_hat, n_eff = (dict(zip(posterior.names, map(float, values), strict=True)) for values in (posterior.r_hat, posterior.n_eff))
        return cls(r_hat, n_eff, posterior.divergences, hosts_per_object)

    @property
    def caveats(self) -> list[str]:
        """What a reader must know, each with its remedy."""
        said = [f"the chains have not converged ({self.apart}); raise --warmup and --draws"] if self.apart else []
        if self.divergences:
            said.append(
                f"{self._diverged} of the sampler, whose steps were too long where the posterior is sharply bent, often at an edge of the "
                "prior: draws may be missing there; give --target-accept 0.95, raise --warmup, as more --draws are no cure, and see "
                "whether another --seed agrees"
            )
        if self.hosts_per_object < FEWEST_HOSTS:
            said.append(
                f"half of the objects have at most {self.hosts_per_object:.1f} likely hosts in the bank, which recognises single ones: the "
                "posterior holds for this bank alone and is too narrow for the population; raise hosts.effective_hosts"
            )
        return said

    @property
    def said(self) -> str:
        """In one line."""
        largest, fewest = max(self.r_hat.values()), min(self.n_eff.values())
        return f"R̂ at most {largest:.3f}, at least {fewest:.0f} effective draws, {self._diverged}"

    @property
    def apart(self) -> str:
        """In which parameters the chains disagree; empty if in none."""
        apart = [f"{name} {value:.2f}" for name, value in self.r_hat.items() if not value <= R_HAT]
        return f"R̂ above {R_HAT}: {', '.join(apart)}" if apart else ""

    @property
    def _diverged(self) -> str:
        return f"{self.divergences} divergence{'' if self.divergences == 1 else 's'}"


def convergence(attributes: Mapping[str, Any]) -> Convergence | None:
    """What the attributes of an exact posterior record of its chains; None for a posterior of networks."""
    if attributes.get("method") != "exact":
        return None
    r_hat, n_eff = (json.loads(attributes[name]) for name in ("r_hat", "n_eff"))
    return Convergence(r_hat, n_eff, int(attributes["divergences"]), float(attributes["hosts_per_object"]))
