"""A joint posterior to ask: draws, marginals, single hosts, densities, fixed or other cosmologies, other priors, other experiments.

What only needs the draws uses them; what needs the networks (`log_prob`, `conditional`, draws at other Θ) loads the run folder that
made the posterior, and says so where it is gone. Nothing is changed in place: each method returns a new `Posterior`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import logsumexp

from cigars.catalogue import Catalogue
from cigars.config import Config, Prior
from cigars.files import FileError
from cigars.importance import (
    FEWEST,
    RELIABLE,
    Chain,
    Constraint,
    Gaussian,
    effective_number,
    ln_prior_ratio,
    old_priors,
    pareto_tail,
    proposals,
    resample,
    smoothed,
)
from cigars.posterior_file import check_memory, read_posterior, save_posterior
from cigars.priors import prior_text
from cigars.schema import GLOBALS, LOCALS, Marginal, Observations, column

if TYPE_CHECKING:
    import arviz
    import xarray
    from astropy.table import Table

__all__ = ["Posterior", "load_posterior"]

POOL = 20_000  # draws of Θ that a reweighting starts from, where the run is at hand
QUANTILES = (0.16, 0.5, 0.84)
SINGLY = 100  # draws that are read from a file without the others: each takes milliseconds


def load_posterior(path: str | Path | arviz.InferenceData, run: str | Path | None = None) -> Posterior:
    """The posterior in a file that `cigars infer` wrote, or one that `cigars.infer` returned.

    Args:
        path: NetCDF file, or ArviZ InferenceData.
        run: folder of the run that made it, where it is no longer where it was.

    Raises:
        FileError: for a file that is not a posterior.
    """
    return Posterior(read_posterior(path) if isinstance(path, str | Path) else path, run)


class Posterior:
    """Draws of Θ and of every object's unknowns at the same Θ.

    Args:
        data: ArviZ InferenceData in the layout of `cigars.infer`.
        run: folder of the run that made it; by default the one that the data name.
    """

    def __init__(self, data: arviz.InferenceData, run: str | Path | None = None) -> None:
        self._data, self._run = data, run

    def __repr__(self) -> str:
        return f"Posterior({self.draws} draws of {len(self.names)} parameters and {len(self.ids)} objects)"

    @property
    def _group(self) -> xarray.Dataset:
        return self._data["posterior"]

    @cached_property
    def config(self) -> Config:
        """Configuration of the run that made it; raises FileError where the posterior holds none that can be read."""
        try:
            return Config.model_validate_json(self.attributes["config"])
        except (KeyError, ValueError) as error:
            raise FileError(
                f"posterior: expected the configuration of its run, got none that can be read ({type(error).__name__})"
            ) from None

    @cached_property
    def priors(self) -> dict[str, Marginal]:
        """Prior of each free parameter: that of the configuration, or what it was reweighted to."""
        return self.config.marginals | self._since

    @property
    def _since(self) -> dict[str, Marginal]:
        """Priors that it was reweighted to."""
        since = json.loads(self.attributes.get("reweighted", "{}"))
        return {name: Prior.model_validate(prior).marginal for name, prior in since.items()}

    @property
    def attributes(self) -> dict[str, Any]:
        """How it came about: command, seed, versions, fingerprint, what was weighted."""
        return {**self._data.attrs, **self._group.attrs}

    @property
    def names(self) -> tuple[str, ...]:
        """Free global parameters, in schema order."""
        return tuple(c.name for c in GLOBALS if c.name in self._group)

    @property
    def chains(self) -> int:
        """Number of chains that the draws are of, which follow one another in them; 1 for networks."""
        return int(self._group.sizes["chain"])

    @property
    def draws(self) -> int:
        """Number of joint draws."""
        return self.chains * int(self._group.sizes["draw"])

    @cached_property
    def ids(self) -> list[str]:
        """Identifiers of the objects."""
        return [str(v) for v in self._data["observed_data"]["object"].values]

    @cached_property
    def observations(self) -> Observations:
        """What was observed of the objects; a column that the file lacks is zero if a covariance, and NaN otherwise."""
        group = self._data["observed_data"]
        blank = np.full(len(self.ids), np.nan, np.float32)
        absent = {n: np.zeros_like(blank) if n.startswith("cov_") else blank for n in Observations._fields}
        return Observations(*(group[n].values if n in group else absent[n] for n in Observations._fields))

    def __getitem__(self, name: str) -> ndarray:
        """Draws of a global parameter, [draw], or of a per-object unknown, [draw, object].

        Raises KeyError with the names that there are.
        """
        if name not in self._group:
            raise KeyError(f"expected one of {', '.join(map(str, self._group.data_vars))}, got {name!r}")
        values = self._group[name]
        rest = [d for d in values.dims if d not in ("chain", "draw")]
        array = values.transpose("chain", "draw", *rest).values
        return array.reshape(-1, *array.shape[2:])

    def __contains__(self, name: object) -> bool:
        return name in self._group

    def parameters(self) -> dict[str, Float[ndarray, "draw"]]:
        """Draws of every global parameter of the model by name: those that are free, fixed, or implied by a flat cosmology."""
        return self._complete(self.marginal())

    def marginal(self, *names: str) -> Float[ndarray, "draw parameter"]:
        """Draws of some global parameters, all by default, in the order given: their joint marginal posterior."""
        wanted = names or self.names
        if unknown := [n for n in wanted if n not in self.names]:
            raise KeyError(f"expected free parameters of {', '.join(self.names)}, got {', '.join(unknown)}")
        return np.column_stack([self[n] for n in wanted]).astype(np.float64)

    def summary(self) -> Table:
        """Mean, standard deviation and 16, 50 and 84 % quantiles of each global parameter, as an astropy table with units."""
        from astropy.table import Table

        theta = self.marginal()
        low, middle, high = np.quantile(theta, QUANTILES, axis=0)
        table = Table(
            {"name": list(self.names), "mean": theta.mean(0), "sd": theta.std(0, ddof=1), "q16": low, "q50": middle, "q84": high,
             "unit": [column(n).unit for n in self.names], "meaning": [column(n).meaning for n in self.names]}
        )  # fmt: skip
        table.meta.update({k: v for k, v in self.attributes.items() if k in ("fingerprint", "seed", "effective_draws", "weighted_by")})
        return table

    def host(self, name: str) -> xarray.Dataset:
        """Draws of one object's unknowns beside those of Θ, with which they are correlated: variables of dimension `draw`.

        Raises KeyError for an identifier that is not in the catalogue.
        """
        import xarray

        try:
            row = self.ids.index(str(name))
        except ValueError:
            import difflib

            near = difflib.get_close_matches(str(name), self.ids, n=1, cutoff=0.0)
            raise KeyError(f"expected an identifier of the {len(self.ids)} objects, got {name!r}; the nearest is {near[0]!r}") from None
        local = {n: self._group[n].isel(object=row).values.reshape(-1) for n in LOCALS if n in self._group}
        return xarray.Dataset(
            {n: ("draw", v) for n, v in {**{g: self[g] for g in self.names}, **local}.items()}, attrs={"object": str(name)}
        )

    def sample(self, n: int, seed: int = 0) -> Posterior:
        """`n` joint draws: of those stored, each at most once, or where more are asked for new ones of the run."""
        if n < 1:
            raise ValueError(f"sample: expected at least one draw, got {n}")
        rng = np.random.default_rng(seed)
        if n <= self.draws:
            record = {"effective_draws": min(self.attributes["effective_draws"], n)} if "effective_draws" in self.attributes else {}
            return self._rows(np.sort(rng.choice(self.draws, n, replace=False)), record)
        self._refuse_weighted(f"sample: {n:,} draws")
        return self._at(self._fresh(n, seed), seed, {"seed": seed})

    def log_prob(self, theta: Mapping[str, Any] | Float[ndarray, "draw parameter"]) -> Float[ndarray, "draw"]:
        """ln q(Θ | D) of the networks, -inf outside the prior.

        Args:
            theta: values of every free parameter by name, scalars or arrays, or an array in the order of `names`.

        Raises:
            ValueError: for a posterior that was weighted, of which only draws are known, or other parameters.
        """
        import torch

        from inference.posterior import GlobalPosterior

        self._refuse_weighted("log_prob")
        values = self._values(theta)
        found = GlobalPosterior(self._trained).log_prob(torch.as_tensor(values, dtype=torch.float32)[:, None], self._survey())
        return found[:, 0].double().numpy()

    def conditional(self, draws: int | None = None, seed: int = 0, **fixed: float) -> Posterior:
        r"""The posterior at given values of some parameters, such as `conditional(Om0=0.3, Ode0=0.7)`: the others and the objects at these.

        The rest of Θ is drawn from a Student-t around the regression of the posterior draws on the fixed parameters, then weighted
        by q(Θ | D), the largest weights smoothed: exact but for the finite number of draws, whose effective number is kept as
        `effective_draws`.

        Raises:
            ValueError: for a parameter that is not free, values that the prior excludes, or where fewer than 50 draws are effective.
        """
        theta, ln_weight = self._at_fixed("conditional", fixed, seed)
        said = ", ".join(f"{k}={v:g}" for k, v in fixed.items())
        return self._weighted(theta, smoothed(ln_weight), f"conditional on {said}", draws or self.draws, seed)

    def ln_marginal(self, fixed: Mapping[str, float], seed: int = 0) -> tuple[float, float]:
        """ln of the marginal density q(fixed | D) of some parameters, and its standard error, each scaled to a standard normal prior.

        The integral over the others of the density of the networks, by the importance sampling of `conditional`; raises as that does.
        """
        _, ln_weight = self._at_fixed("marginal density", fixed, seed, scaled=True)
        effective = effective_number(ln_weight)
        if effective < FEWEST:
            raise ValueError(
                f"marginal density: expected at least {FEWEST:.0f} effective draws, got {effective:.1f}; the value is too far out"
            )
        return float(logsumexp(ln_weight) - np.log(len(ln_weight))), max(1 / effective - 1 / len(ln_weight), 0.0) ** 0.5

    def _at_fixed(
        self, what: str, fixed: Mapping[str, float], seed: int, scaled: bool = False
    ) -> tuple[Float[ndarray, "draw parameter"], Float[ndarray, "draw"]]:
        """Proposals of Θ with some parameters fixed, and ln of q(Θ | D) over the proposal; `scaled` counts the fixed ones in η too."""
        import torch

        self._refuse_weighted(what)
        if unknown := [n for n in fixed if n not in self.names] or not fixed:
            raise ValueError(f"{what}: expected values of {', '.join(self.names)}, got {unknown if fixed else 'none'}")
        prior = self._trained.prior
        pool = torch.as_tensor(self._fresh(POOL, seed), dtype=torch.float32)
        eta = prior.transform.inv(pool).double().numpy()
        at = [self.names.index(n) for n in fixed]
        rest = [k for k in range(len(self.names)) if k not in at]
        row = pool.mean(0)
        row[at] = torch.tensor(list(fixed.values()), dtype=torch.float32)
        if not bool(torch.isfinite(prior.log_prob(row))):
            raise ValueError(f"{what}: expected values within the prior, got {dict(fixed)}")
        target = prior.transform.inv(row).double().numpy()[at]
        proposed, ln_proposal = proposals(eta, at, rest, target, seed)
        theta = prior.transform(torch.as_tensor(proposed, dtype=torch.float32))
        jacobian = prior.transform.log_abs_det_jacobian(torch.as_tensor(proposed, dtype=torch.float32), theta)
        counted = jacobian if scaled else jacobian[:, rest]
        return theta.numpy(), self.log_prob(theta.numpy()) + counted.sum(-1).double().numpy() - ln_proposal

    def reweight(self, prior: Mapping[str, Prior | Mapping[str, Any]], seed: int = 0) -> Posterior:
        """The posterior under another prior of some parameters, such as `reweight({"Om0": {"normal": [0.3, 0.02]}})`, in place of
        theirs, whether configured or reweighted to.

        Raises:
            ValueError: for a parameter that is not free, a prior with more than a thousandth of its mass outside the one before, one that
                is wider than a normal one before by more than the draws reach, or where fewer than 50 draws are effective. Rounds for a
                target do not count as a prior before, if their run folder is at hand.
        """
        new = {name: p if isinstance(p, Prior) else Prior.model_validate(p) for name, p in prior.items()}
        pool = self._pool(seed)
        run = (self._run or self.attributes.get("run")) if self.attributes.get("truncated_for") else None
        old = old_priors(self.config, run, self._since)
        ratio = ln_prior_ratio(dict(zip(self.names, pool.T, strict=True)), old, new)
        # over a normal prior the ratio can grow without end, which the effective number of the draws there are does not see
        if any(old[name].kind == "normal" for name in new) and (k := pareto_tail(ratio)) > RELIABLE:
            raise ValueError(
                f"prior of {', '.join(new)}: expected one that the draws reach, got weights with a Pareto shape of {k:.2f}, "
                f"above {RELIABLE}; train with the wider prior"
            )
        dumped = {name: p.model_dump(exclude_none=True) for name, p in new.items()}
        said = ", ".join(f"{name} ~ {prior_text(p.marginal)}" for name, p in new.items())
        since = json.dumps(json.loads(self.attributes.get("reweighted", "{}")) | dumped)
        return self._weighted(pool, ratio, f"prior {said}", self.draws, seed, {"reweighted": since})

    def combine(self, *constraints: Gaussian | Chain | Constraint, seed: int = 0) -> Posterior:
        """The posterior times other experiments' constraints on cosmology.

        Raises:
            ValueError: where fewer than 50 draws are effective, as for experiments that contradict each other.
        """
        pool = self._pool(seed)
        total, named = np.zeros(len(pool)), self._complete(pool)
        for constraint in constraints:
            if missing := [n for n in constraint.names if n not in named]:
                raise ValueError(f"combine: expected constraints on {', '.join(named)}, got {', '.join(missing)}")
            total = total + constraint.ln_density(np.column_stack([named[n] for n in constraint.names]))
        said = "; ".join(f"{type(c).__name__.lower()} on {', '.join(c.names)}" for c in constraints)
        return self._weighted(pool, total, said, self.draws, seed)

    def to_arviz(self) -> arviz.InferenceData:
        """As ArviZ InferenceData."""
        return self._data

    def to_getdist(self) -> Any:
        """Draws of Θ as GetDist MCSamples, with labels and the ranges of the prior."""
        from getdist import MCSamples

        ranges = {n: [v if np.isfinite(v) else None for v in (self.priors[n].low, self.priors[n].high)] for n in self.names}
        labels = [column(n).label.strip("$") for n in self.names]
        return MCSamples(samples=self.marginal(), names=list(self.names), labels=labels, ranges=ranges, label=self.config.name)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it as NetCDF; raises FileError if the file exists and `overwrite` is false."""
        return save_posterior(path, self._data, overwrite=overwrite)

    @cached_property
    def _trained(self) -> Any:
        from inference.model import load_run

        if self.attributes.get("method") == "exact":
            raise FileError("posterior: expected one of networks, got one by the exact likelihood, of which only the draws are known")
        where = self._run or self.attributes.get("run")
        if where is None or not Path(where).is_dir():
            raise FileError(
                f"run folder {where}: expected the folder that made this posterior, found none; name it by load_posterior(path, run=...)"
            )
        try:
            return load_run(Path(where), fingerprint=self.attributes["fingerprint"])
        except ValueError as error:
            if self._run is not None:
                raise
            raise FileError(str(error)) from None  # trained anew since, or by another version: as good as gone

    def _refuse_weighted(self, what: str) -> None:
        """The networks give the posterior of the run, not one that was weighted since."""
        if said := self.attributes.get("weighted_by"):
            raise ValueError(f"{what}: expected the posterior of a run, got one weighted since ({said}); ask the posterior before that")
        if said := self.attributes.get("theta_from_prior"):
            raise ValueError(f"{what}: expected a posterior of Θ, got its prior, as {said} was hidden; infer without hiding it")

    def _survey(self) -> Any:
        from cigars.targets import survey_of

        number = len(self.ids) + int(self.attributes.get("dropped", 0))
        return survey_of(Catalogue(np.asarray(self.ids), self.observations), float(self.attributes.get("exposure", 1.0)), number)

    def _fresh(self, draws: int, seed: int) -> Float[ndarray, "draw parameter"]:
        """New draws of Θ from the networks."""
        from inference.posterior import GlobalPosterior

        return GlobalPosterior(self._trained).sample(draws, self._survey(), seed + 1)[:, 0].numpy()

    def _pool(self, seed: int) -> Float[ndarray, "draw parameter"]:
        """Draws of Θ to be weighted: many new ones where the run is at hand and these are its draws, else those stored."""
        if "weighted_by" in self.attributes or self.attributes.get("theta_from_prior"):
            return self.marginal()
        try:
            return self._fresh(POOL, seed).astype(np.float64)
        except FileError:
            return self.marginal()

    def _complete(self, theta: Float[ndarray, "draw parameter"]) -> dict[str, ndarray]:
        """Draws by name, and what the configuration fixes or the cosmology implies."""
        named = dict(zip(self.names, theta.T, strict=True))
        named |= {name: np.full(len(theta), value) for name, value in self.config.fixed.items() if name not in named}
        if self.config.flat:
            named["Ode0"] = 1 - named["Om0"]
        return named

    def _values(self, theta: Mapping[str, Any] | ndarray) -> Float[ndarray, "draw parameter"]:
        if isinstance(theta, Mapping):
            if set(theta) != set(self.names):
                raise ValueError(f"theta: expected values of {', '.join(self.names)}, got {', '.join(map(str, theta))}")
            columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(theta[n], float)) for n in self.names))
            return np.stack(columns, -1)
        values = np.atleast_2d(np.asarray(theta, float))
        if values.shape[-1] != len(self.names):
            raise ValueError(f"theta: expected the {len(self.names)} parameters {', '.join(self.names)}, got shape {values.shape}")
        return values

    def _weighted(
        self, theta: ndarray, ln_weight: ndarray, said: str, draws: int, seed: int, more: Mapping[str, Any] | None = None
    ) -> Posterior:
        stored = len(theta) == self.draws and np.array_equal(theta, self.marginal())  # draws that repeat if weights have chosen them
        same = np.unique(theta, axis=0, return_inverse=True)[1].reshape(-1) if stored else np.arange(len(theta))
        worth = self.worth
        effective, before = effective_number(ln_weight, same) * worth, self.attributes.get("weighted_by")
        among = f"{len(theta):,} {'stored' if stored else 'new'} draws"
        if not effective >= FEWEST:  # as for one that is not a number
            remedy = f", or give all constraints to one combine, of the posterior before ({before})" if before else ""
            remedy += f"; draws of its chains count {worth:.2g} each" if worth != 1 else ""
            raise ValueError(
                f"{said}: expected at least {FEWEST:.0f} effective draws, got {effective:.1f} of {among}; "
                f"the two hardly overlap: draw more, or doubt one of them{remedy}"
            )
        chosen = resample(ln_weight, draws, np.random.default_rng(seed))
        record = {"weighted_by": f"{before}; {said}" if before else said, "weighted_from": among, **(more or {})}
        record["effective_draws"] = effective_number(np.zeros(draws), same[chosen]) * worth
        if stored:
            return self._rows(chosen, record)
        return self._at(theta[chosen], seed, record)

    @property
    def worth(self) -> float:
        """Share of the draws that those of chains, which follow one another, are worth; 1 for networks, whose draws are independent."""
        n_eff = json.loads(self.attributes.get("n_eff", "{}"))
        return float(np.minimum(np.min(list(n_eff.values())) / self.draws, 1.0)) if n_eff else 1.0

    @property
    def effective_draws(self) -> float:
        """Number of independent draws that these are worth: fewer where chains or weights made them."""
        return min(self.draws * self.worth, float(self.attributes.get("effective_draws", np.inf)))

    def _rows(self, rows: ndarray, record: Mapping[str, Any] | None = None) -> Posterior:
        """The draws of some rows, chains one after another."""
        import arviz

        chain, draw = np.divmod(rows, self._group.sizes["draw"])
        group = self._group if len(rows) <= SINGLY else self._group.compute()
        flat = group.isel(chain=("row", chain), draw=("row", draw)).drop_vars(["chain", "draw"]).load()
        flat = flat.rename(row="draw").assign_coords(draw=np.arange(len(rows))).expand_dims(chain=[0])
        flat = flat.transpose("chain", "draw", ...).assign_attrs({**self._group.attrs, **(record or {})})
        data = arviz.InferenceData(posterior=flat, observed_data=self._data["observed_data"], attrs=dict(flat.attrs))
        return Posterior(data, self._run)

    def _at(self, theta: Float[ndarray, "draw parameter"], seed: int, record: Mapping[str, Any]) -> Posterior:
        """New draws of the objects at given Θ."""
        from cigars.infer import assemble, draw_hosts, gathered

        catalogue = Catalogue(np.asarray(self.ids), self.observations)
        check_memory(len(theta), len(self.ids))
        local = gathered(draw_hosts(self._trained, catalogue, theta, seed + 2), len(theta), len(self.ids))
        return Posterior(assemble(self.names, theta, local, catalogue, self.config, {**self.attributes, **record}), self._run)
