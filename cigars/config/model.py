"""Configuration of a run: everything that determines it, in one frozen model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from cigars.config.rules import check_complete, check_possible, check_read
from cigars.config.sections import (
    Frozen,
    HostConfig,
    ObservationConfig,
    Prior,
    PriorConfig,
    SelectionConfig,
    SizeConfig,
    SupernovaConfig,
    TrainingConfig,
)
from cigars.schema import FIDUCIAL, Globals, Marginal

__all__ = ["Config", "ConfigError", "merge", "validated", "with_changes"]

FAR = 5.0  # standard deviations beyond which a normal prior has nothing


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for people."""


class Config(Frozen):
    """Everything that determines a run."""

    name: str = "lsst"
    seed: int = Field(0, ge=0, lt=2**32)
    prior: PriorConfig = PriorConfig()
    hosts: HostConfig = HostConfig()
    supernovae: SupernovaConfig = SupernovaConfig()
    observation: ObservationConfig = ObservationConfig()
    selection: SelectionConfig = SelectionConfig()
    size: SizeConfig = SizeConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _hosts_of_an_area(cls, data: Any) -> Any:
        """Sizes by area count hosts by volume unless told otherwise, which is refused below."""
        size, hosts = (data.get(key, {}) if isinstance(data, dict) else {} for key in ("size", "hosts"))
        if not isinstance(size, dict) or not isinstance(hosts, dict) or size.get("area_deg2") in (None, "none"):
            return data
        return {**data, "hosts": {"redshift_density": "volume", **hosts}}

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        check_complete(self)
        check_read(self)
        check_possible(self)
        return self

    @property
    def flat(self) -> bool:
        """Whether space is, so that `Ode0` is 1 - `Om0` and no parameter."""
        return self.supernovae.cosmology != "LCDM"

    @property
    def band_names(self) -> tuple[str, ...]:
        """Short names of the host bands, in order."""
        return self.hosts.band_names

    @property
    def marginals(self) -> dict[str, Marginal]:
        """Prior of every parameter that the cosmology has and that is not fixed, in schema order."""
        return {k: p.marginal for k in Globals._fields if (p := self._prior(k)).fixed is None}

    @property
    def fixed(self) -> dict[str, float]:
        """Values of the parameters fixed by the prior or the cosmology; `Ode0` of a flat one follows `Om0` and is not listed."""
        return {k: p.fixed for k in Globals._fields if (p := self._prior(k)).fixed is not None and not (self.flat and k == "Ode0")}

    def _prior(self, name: str) -> Prior:
        if name in ("w0", "wa") and self.supernovae.cosmology != "flat-w0waCDM":
            return Prior(fixed=getattr(FIDUCIAL, name))
        if name == "Ode0" and self.flat:
            return Prior(fixed=FIDUCIAL.Ode0)
        return getattr(self.prior, name)

    def limits(self, name: str) -> tuple[float, float]:
        """Least and largest value of a parameter by its prior, equal where it is fixed; of `Ode0` in a flat cosmology they mean nothing."""
        prior = self._prior(name)
        return (prior.fixed, prior.fixed) if prior.fixed is not None else (prior.marginal.low, prior.marginal.high)

    def reach(self, name: str) -> tuple[float, float]:
        """As `limits`, but no farther than 5 standard deviations of a normal prior."""
        (low, high), m = self.limits(name), self._prior(name).marginal
        return (max(low, m.loc - FAR * m.scale), min(high, m.loc + FAR * m.scale)) if m.kind == "normal" else (low, high)

    def globals_of(self, free: Mapping[str, Any]) -> Globals:
        """Θ from some parameters by name, numbers or arrays: the others have the values that are fixed, or the fiducial ones."""
        values = {**FIDUCIAL._asdict(), **self.fixed, **free}
        if self.flat:
            values["Ode0"] = 1 - values["Om0"]
        return Globals(**values)

    def of_exposure(self, exposure: float) -> Config:
        """The same with surveys of one exposure, relative to the configured size."""
        return self.model_copy(update={"size": self.size.model_copy(update={"exposure": (exposure, exposure)})})

    def of_default_prior(self) -> Config:
        """The same with the default prior in ΛCDM."""
        supernovae = self.supernovae.model_copy(update={"cosmology": "LCDM"})
        return self.model_copy(update={"prior": PriorConfig(), "supernovae": supernovae})

    def updated(self, **changes: Any) -> Config:
        """A copy with dotted keys replaced: `config.updated(**{"size.capacity": 100})`; raises ConfigError."""
        return validated(with_changes(self.model_dump(), changes))


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; a prior (a table of one kind) is replaced whole."""
    out = dict(base)
    for key, value in top.items():
        nested = isinstance(value, Mapping) and isinstance(out.get(key), Mapping) and key not in PriorConfig.model_fields
        out[key] = merge(out[key], value) if nested else value
    return out


def with_changes(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with dotted keys replaced."""
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        branch: Any = {leaf: value}
        for parent in reversed(parents):
            branch = {parent: branch}
        tree = merge(tree, branch)
    return dict(tree)


def validated(tree: Mapping[str, Any]) -> Config:
    """The configuration of a tree of tables and values; raises ConfigError with one line that says which key."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


_EXPECTED = {"tuple_type": "expected a list", "model_type": "expected a table of keys"}


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _keys_at(first["loc"][:-1]), n=1, cutoff=0.0)
        said = f"; nearest valid key is {'.'.join([*map(str, first['loc'][:-1]), *near])!r}" if near else ""
        return f"configuration: unknown key {where!r}{said}"
    message = _EXPECTED.get(first["type"]) or first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"configuration: {where + ': ' if where else ''}{message}{got}"


def _keys_at(location: Sequence[int | str]) -> list[str]:
    """Valid keys of the table at a location; none where this leads into a list or a union, whose keys are not one model's."""
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
