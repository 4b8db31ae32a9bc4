"""Configuration of a run: frozen pydantic models, read from TOML, hashed into fingerprints.

A leaf beside `schema`: the engines read its attributes and never change them. Defaults are the `lsst` set-up of the
forward model, so a preset lists only what differs.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    model_serializer,
    model_validator,
)

from cigars.schema import FIDUCIAL, Globals, Marginal

__all__ = [
    "Config",
    "ConfigError",
    "ErrorModel",
    "HostConfig",
    "ObservationConfig",
    "Prior",
    "PriorConfig",
    "Region",
    "SelectionConfig",
    "SizeConfig",
    "SupernovaConfig",
    "TrainingConfig",
    "fingerprint",
    "load_config",
    "presets",
    "to_toml",
]

LATER = {("anchored", False)}  # settings of the training that came later, with what all had before
HOSTS_END = 1.5  # redshift up to which there are hosts
LEAST_EXPANSION = 1e-3  # of (H/H0)^2
FAR = 5.0  # standard deviations beyond which a normal prior has nothing
TAIL = 8.0  # standard deviations beyond which single precision does not tell a tail from its edge


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for people."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Prior(_Frozen):
    """Prior of one parameter: `uniform = [low, high]`, `normal = [mean, sd]` (optionally `within = [low, high]`) or `fixed = value`."""

    uniform: tuple[float, float] | None = None
    normal: tuple[float, float] | None = None
    within: tuple[float, float] | None = None
    fixed: float | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Prior:
        given = [k for k in ("uniform", "normal", "fixed") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of uniform, normal, fixed, got {given or 'none'}")
        if self.uniform and not self.uniform[0] < self.uniform[1]:
            raise ValueError(f"uniform: expected low < high, got {list(self.uniform)}")
        if self.normal and not self.normal[1] > 0:
            raise ValueError(f"normal: expected sd > 0, got {self.normal[1]}")
        if self.within and (not self.normal or not self.within[0] < self.within[1]):
            raise ValueError("within: expected [low, high] with low < high beside normal; for a box use uniform")
        if self.normal and self.within and (off := self._beyond(*self.normal, *self.within)) > TAIL:
            raise ValueError(f"within: expected an edge within {TAIL:g} sd of the mean, got {off:.3g} sd; for a tail that thin use uniform")
        return self

    @staticmethod
    def _beyond(mean: float, sd: float, low: float, high: float) -> float:
        """How many standard deviations from the mean the limits begin, below zero where it is between them."""
        return max(low - mean, mean - high) / sd

    @property
    def marginal(self) -> Marginal:
        """The same as plain numbers, for the engines."""
        if self.uniform:
            return Marginal("uniform", 0.0, 1.0, *self.uniform)
        if self.normal:
            return Marginal("normal", *self.normal, *(self.within or (-math.inf, math.inf)))
        return Marginal("fixed", self.fixed or 0.0, 0.0, -math.inf, math.inf)


class Region(_Frozen):
    """A part of the prior where parameters depend on each other: low < direction · (Θ − centre) < high for each direction.

    Surveys are drawn inside. It is what `cigars.rounds` leaves for one target, whose posterior has nothing outside, so that what evaluates
    a prior density has no need of it.
    """

    names: tuple[str, ...] = Field(min_length=1)
    centre: tuple[float, ...]
    directions: tuple[tuple[float, ...], ...]
    limits: tuple[tuple[float, float], ...]

    @model_validator(mode="after")
    def _one_shape(self) -> Region:
        size = len(self.names)
        if len(self.centre) != size or any(len(row) != size for row in self.directions) or len(self.limits) != len(self.directions):
            raise ValueError(f"expected a centre and directions of {size} numbers, one a name, and as many limits as directions")
        if unknown := sorted(set(self.names) - set(Globals._fields)):
            raise ValueError(f"names: expected parameters of {list(Globals._fields)}, got {unknown}")
        if not all(low < high for low, high in self.limits):
            raise ValueError(f"limits: expected low < high, got {[list(limit) for limit in self.limits]}")
        return self


class PriorConfig(_Frozen):
    """Priors of Θ (forward model §1), independent of each other but for a `region` that they are cut to."""

    Om0: Prior = Prior(uniform=(0.0, 1.0))
    Ode0: Prior = Prior(uniform=(0.0, 1.0))
    w0: Prior = Prior(uniform=(-2.0, 0.0))
    wa: Prior = Prior(uniform=(-3.0, 2.0))
    dtd_logA: Prior = Prior(normal=(-12.15, 0.1))
    dtd_slope: Prior = Prior(normal=(-1.34, 0.2))
    M0: Prior = Prior(uniform=(-20.0, -19.0))
    sigma_int: Prior = Prior(uniform=(0.01, 0.2))
    alpha: Prior = Prior(uniform=(-0.55, 0.25))
    beta: Prior = Prior(uniform=(0.0, 4.0))
    alpha_c: Prior = Prior(uniform=(-0.03, 0.03))
    mass_step: Prior = Prior(uniform=(-0.2, 0.2))
    mass_step_loc: Prior = Prior(uniform=(9.0, 11.0))
    gamma_Z: Prior = Prior(uniform=(-2.0, 2.0))
    gamma_age: Prior = Prior(uniform=(-0.1, 0.1))
    region: Region | None = None

    @model_serializer(mode="wrap")
    def _without_no_region(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A prior without a region has the fingerprint that it had before there were regions."""
        tree: dict[str, Any] = plain(self)
        return {key: value for key, value in tree.items() if key != "region" or value is not None}


class HostConfig(_Frozen):
    """The host population, its photometry, and the bank of hosts drawn from it (forward model §§3-5)."""

    backend: Literal["ssp", "emulator", "table"] = "ssp"
    bands: tuple[str, ...] = tuple(f"lsst2023-{b}" for b in "ugrizy")  # speclite names; or {b} of `bands_file`
    bands_file: str | None = None  # .npz with {b}_wavelength [A] and {b}_transmission
    ssp_file: str | None = None  # another SSP table in place of the packaged one
    emulator_file: str | None = None  # Speculator-format network, for backend = "emulator"
    table_file: str | None = None  # hosts with magnitudes computed elsewhere, for backend = "table"
    convention: Literal["native", "fsps"] = "native"
    nebular: bool = True
    redshift_density: Literal["tabulated", "volume"] = "tabulated"  # "volume" for sizes by area, whose hosts it counts
    z_max: float = Field(1.2, gt=0.02, le=1.5)  # there are none beyond, so that nothing may be detected there
    effective_hosts: float = Field(1e6, ge=100)  # effective number of the importance bank
    bank_seed: int = 0

    @model_validator(mode="after")
    def _different_bands(self) -> HostConfig:
        if not self.bands or len(set(self.bands)) < len(self.bands):
            raise ValueError(f"bands: expected at least one band and none twice, got {list(self.bands)}")
        return self

    @property
    def band_names(self) -> tuple[str, ...]:
        """Short band names, the last part of each configured band: `lsst2023-g` is `g`; the whole names where that is ambiguous."""
        short = tuple(b.rsplit("-", 1)[-1] for b in self.bands)
        return short if len(set(short)) == len(short) else tuple(self.bands)


class SupernovaConfig(_Frozen):
    """Supernova population (forward model §6)."""

    cosmology: Literal["LCDM", "flat-LCDM", "flat-w0waCDM"] = "LCDM"
    dust: Literal["independent", "host", "local"] = "independent"


Probability = Annotated[float, Field(ge=0, lt=1)]


class ErrorModel(_Frozen):
    """ln W ~ Normal(offset + slope (mag - pivot), scatter): a log-normal variance that grows with magnitude; W += floor^2."""

    offset: float = 0.0
    slope: float = 0.0
    pivot: float = 23.0
    scatter: float = Field(1.0, ge=0)
    floor: float = Field(0.0, ge=0)


class ObservationConfig(_Frozen):
    """What is observed, with which errors (forward model §7)."""

    host_errors: Literal["constant", "lsst", "fitted"] = "constant"
    host_sigma: float = Field(0.01, gt=0)  # mag, for "constant"
    host_depths: tuple[float, ...] = (25.73, 26.86, 26.88, 26.34, 25.63, 25.87)  # coadded 5 sigma depths, for "lsst"
    host_gamma: tuple[Annotated[float, Field(ge=0, le=0.04)], ...] = (0.038, 0.039, 0.039, 0.039, 0.039, 0.039)  # beyond, variances below 0
    host_sigma_sys: float = Field(0.005, ge=0)
    host_fitted: tuple[ErrorModel, ...] = ()  # one a band, for "fitted"
    missing_probability: Probability | tuple[Probability, ...] = 0.0  # chance that a band is not observed, of all or one a band
    sn_m: ErrorModel = ErrorModel(slope=0.2, pivot=56.0, scatter=1.2)
    sn_x: ErrorModel = ErrorModel(offset=-3.0, scatter=1.0)
    sn_c: ErrorModel = ErrorModel(offset=-7.0, scatter=0.6)
    sn_correlation: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the errors of (m, x), (m, c), (x, c)
    spectroscopic_fraction: float = Field(0.0, ge=0, le=1)  # chance that an object has a spectroscopic redshift
    z_spec_err: float = Field(5e-4, gt=0)
    z_spec_err_scatter: float = Field(0.0, ge=0)  # of its natural logarithm across objects

    @model_validator(mode="after")
    def _positive_definite(self) -> ObservationConfig:
        mx, mc, xc = self.sn_correlation
        if max(abs(mx), abs(mc), abs(xc)) >= 1 or 1 + 2 * mx * mc * xc - mx**2 - mc**2 - xc**2 <= 0:
            raise ValueError(f"sn_correlation: expected a positive definite matrix, got (mx, mc, xc) = {[mx, mc, xc]}")
        return self


class SelectionConfig(_Frozen):
    """Which objects enter the catalogue (forward model §8)."""

    host_thresholds: tuple[float, ...] = (25.73, 26.86, 26.88, 26.34, 25.63, 25.87)  # on noiseless magnitudes
    host_efficiency: tuple[str, float, Annotated[float, Field(gt=0)]] | None = (
        None  # band, m_50, width: kept with Phi((m_50 - mag) / width)
    )
    detection: Literal["smooth", "table"] = "smooth"
    detection_file: str | None = None  # .npz with z, m, probability[z, m], for "table"
    m50: tuple[float, ...] = (24.138, 2.249, -10.370, 11.504, -4.822)  # ascending powers of z
    ln_width: tuple[float, ...] = (-0.947, 0.164, -0.247)
    z_max: float = Field(1.2, gt=0)  # detection probability is zero above


class SizeConfig(_Frozen):
    """Size of a survey: by the expected catalogue at the fiducial Θ, or by area and duration."""

    expected_supernovae: float | None = Field(1600.0, gt=0)
    area_deg2: float | None = Field(None, gt=0, le=41_253)  # of the whole sky
    duration_yr: float | None = Field(None, gt=0)
    capacity: int = Field(8192, ge=1)  # objects that a survey has room for; one of more, up to eight times as many, is drawn again
    exposure: tuple[float, float] = (1.0, 1.0)  # of training surveys, relative to the size: drawn log-uniformly, and known to the network

    @model_validator(mode="after")
    def _positive_exposure(self) -> SizeConfig:
        if not 0 < self.exposure[0] <= self.exposure[1]:
            raise ValueError(f"exposure: expected 0 < low <= high, got {list(self.exposure)}")
        return self

    @model_validator(mode="after")
    def _one_form(self) -> SizeConfig:
        by_area = self.area_deg2 is not None and self.duration_yr is not None
        if (self.area_deg2 is None) != (self.duration_yr is None):
            raise ValueError("area_deg2 and duration_yr: expected both or neither")
        if by_area == (self.expected_supernovae is not None):
            raise ValueError(
                'size: expected either expected_supernovae or area_deg2 with duration_yr (set expected_supernovae = "none" to drop it)'
            )
        return self

    @field_serializer("expected_supernovae", when_used="json")
    def _say_none(self, value: float | None) -> float | str:
        return "none" if value is None else value  # TOML has no null, and leaving the key out means its default

    @model_validator(mode="before")
    @classmethod
    def _none(cls, data: Any) -> Any:
        return {k: (None if v == "none" else v) for k, v in data.items()} if isinstance(data, dict) else data


class TrainingConfig(_Frozen):
    """Training of the estimators."""

    surveys: int = Field(20_000, ge=16)  # simulated surveys for the global posterior
    validation_surveys: int = Field(1_000, ge=8)  # held out, fixed
    calibration_surveys: int = Field(500, ge=20)  # fresh, for SBC
    objects: int = Field(800_000, ge=64)  # objects for the local estimators
    batch_surveys: int = Field(64, ge=1)  # surveys simulated at a time
    encoder: Literal["score", "moments", "set", "both"] = "score"  # summary of a survey; "both" is moments and a learned set
    pilot_surveys: int = Field(4_000, ge=16)  # for the first estimate of Θ and the score network, and again for each refinement
    refinements: int = Field(1, ge=0, le=4)  # how often the score is evaluated anew at a better estimate
    anchored: bool = False  # the score at the middle of the prior as well, for priors that are narrow against it, as rounds leave
    ensemble: int = Field(4, ge=1)
    local_epochs: int = Field(10, ge=1)  # passes over the objects, for the local regressor and the local flow
    hide_sn: float = Field(0.1, ge=0, lt=1)  # chance that the local flow sees an object without its supernova light
    hide_z_spec: float = Field(0.5, ge=0, le=1)
    patience: int = Field(8, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    flow_epochs: int = Field(20, ge=1)  # the global flow: few, fast and annealed to the end loses least on fresh surveys
    flow_learning_rate: float = Field(2e-3, gt=0)
    flow_batch: int = Field(64, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)  # on the summary, before the small network of the global flow


class Config(_Frozen):
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
        bands = len(self.hosts.bands)
        if len(self.selection.host_thresholds) != bands:
            raise ValueError(f"selection.host_thresholds: expected {bands} values, one a band, got {len(self.selection.host_thresholds)}")
        o = self.observation
        if o.host_errors == "lsst" and not len(o.host_depths) == len(o.host_gamma) == bands:
            raise ValueError(f"observation.host_depths and host_gamma: expected {bands} values, one a band")
        if o.host_errors == "fitted" and len(o.host_fitted) != bands:
            raise ValueError(f"observation.host_fitted: expected {bands} error models, one a band, got {len(o.host_fitted)}")
        if isinstance(o.missing_probability, tuple) and len(o.missing_probability) != bands:
            raise ValueError(
                f"observation.missing_probability: expected one value or {bands}, one a band, got {len(o.missing_probability)}"
            )
        efficiency = self.selection.host_efficiency
        if efficiency and efficiency[0] not in self.band_names:
            raise ValueError(f"selection.host_efficiency: expected a band of {list(self.band_names)}, got {efficiency[0]!r}")
        for kind, attribute, value in (
            ("emulator", "emulator_file", self.hosts.emulator_file),
            ("table", "table_file", self.hosts.table_file),
        ):
            if self.hosts.backend == kind and value is None:
                raise ValueError(f"hosts.{attribute}: expected a file for backend = {kind!r}; set it with --set hosts.{attribute}=PATH")
        if self.selection.detection == "table" and self.selection.detection_file is None:
            raise ValueError(
                "selection.detection_file: expected a file for detection = 'table'; set it with --set selection.detection_file=PATH"
            )
        if self.size.area_deg2 is not None and self.hosts.backend != "table" and self.hosts.redshift_density != "volume":
            raise ValueError(
                f"hosts.redshift_density: expected 'volume' for a size by area, got {self.hosts.redshift_density!r}; "
                "set it, or give size.expected_supernovae"
            )
        if self.hosts.z_max < min(self.selection.z_max, HOSTS_END):
            raise ValueError(
                f"hosts.z_max: expected at least selection.z_max, {self.selection.z_max:g}, got {self.hosts.z_max:g}, beyond which "
                "supernovae would have no hosts; raise it, or lower selection.z_max"
            )
        return self

    @model_validator(mode="after")
    def _all_is_read(self) -> Config:
        """A setting that nothing reads is a mistake: what it was meant to change stays as it was. Of settings that no preset changes."""
        plain, cosmology, backend = Config.model_construct(), self.supernovae.cosmology, self.hosts.backend
        errors = self.observation.host_errors
        readers = {  # setting: whether it is read, and what has to be set so that it is
            **{f"prior.{name}": (cosmology == "flat-w0waCDM", "supernovae.cosmology = 'flat-w0waCDM'") for name in ("w0", "wa")},
            "hosts.emulator_file": (backend == "emulator", "hosts.backend = 'emulator'"),
            "hosts.table_file": (backend == "table", "hosts.backend = 'table'"),
            **{f"hosts.{name}": (backend == "ssp", "hosts.backend = 'ssp'") for name in ("ssp_file", "nebular", "convention")},
            "selection.detection_file": (self.selection.detection == "table", "selection.detection = 'table'"),
            "observation.host_sigma": (errors == "constant", "observation.host_errors = 'constant'"),
            **{f"observation.host_{n}": (errors == "lsst", "observation.host_errors = 'lsst'") for n in ("depths", "gamma", "sigma_sys")},
        }
        for key, (read, remedy) in readers.items():
            section, name = key.split(".")
            value, default = (getattr(getattr(config, section), name) for config in (self, plain))
            anyway = Prior(fixed=getattr(FIDUCIAL, name)) if section == "prior" else default  # what a cosmology without it has
            if not read and value not in (default, anyway):
                usual = list(default) if isinstance(default, tuple) else default
                raise ValueError(f"{key}: expected {remedy}, without which nothing reads it, or no such setting (its default is {usual})")
        if self.flat and self.prior.Ode0.fixed is not None:
            raise ValueError(f"prior.Ode0: expected no fixed value in {cosmology}, where it is 1 - Om0; leave it out")
        return self

    @model_validator(mode="after")
    def _possible(self) -> Config:
        """Nothing negative where that means nothing, and no universe that was not there when the light of a host left it."""
        for name in ("Om0", "sigma_int"):
            if (least := self.reach(name)[0]) < 0:
                raise ValueError(
                    f"prior.{name}: expected nothing below 0, got values from {least:g}; cut it, a normal one with within = [0, ...]"
                )
        if not self.flat:
            matter, dark = self.reach("Om0")[0], self.reach("Ode0")[1]
            scales = (1 + self.hosts.z_max * k / 256 for k in range(257))
            if min(matter * a**3 + (1 - matter - dark) * a**2 + dark for a in scales) < LEAST_EXPANSION:
                raise ValueError(
                    f"prior.Ode0: expected universes that go back to all hosts, got one without a Big Bang at Om0 = {matter:g} and "
                    f"Ode0 = {dark:g}; lower the upper limit of Ode0, or raise the lower one of Om0"
                )
        elif (most := self.reach("Om0")[1]) > 1:
            raise ValueError(f"prior.Om0: expected nothing above 1 in a flat cosmology, where Ode0 is 1 - Om0, got up to {most:g}; cut it")
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
        return _validate(_with(self.model_dump(), changes))


def presets() -> list[str]:
    """Names of the packaged presets."""
    return sorted(p.name.removesuffix(".toml") for p in resources.files("cigars.presets").iterdir() if p.name.endswith(".toml"))


def load_config(source: str | Path, settings: Sequence[str] = (), **changes: Any) -> Config:
    """Read a preset by name or a TOML file by path, then apply `key=value` settings and keyword changes (dotted keys).

    A file may name a preset to start from: `extends = "demo"`. Raises ConfigError with one line that says which key.
    """
    tree = _read(source)
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set: expected key=value, got {setting!r}")
        tree = _with(tree, {key.strip(): _value(value.strip())})
    return _validate(_with(tree, changes))


def to_toml(config: Config) -> str:
    """Every key of a configuration as TOML that `load_config` reads back; keys without a value are left out."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _without_none(v) for k, v in tree.items() if v is not None}
    return [_without_none(v) for v in tree] if isinstance(tree, list | tuple) else tree


def fingerprint(*parts: Any) -> str:
    """Short SHA-256 of configurations, numbers and names, the same on every machine."""
    plain = [_without_later(p.model_dump(mode="json")) if isinstance(p, BaseModel) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _without_later(tree: dict[str, Any]) -> dict[str, Any]:
    """What came later is left out where it has the value that it had before it could be chosen: fingerprints outlive it."""
    training = {k: v for k, v in tree.get("training", {}).items() if (k, v) not in LATER}
    return {**tree, "training": training} if "training" in tree else tree


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    try:
        if str(source) in presets():
            text = (resources.files("cigars.presets") / f"{source}.toml").read_text()
        elif path.suffix == ".toml":
            text = path.read_text()
        else:
            raise ConfigError(f"configuration: expected a preset ({', '.join(presets())}) or a .toml file, got {str(source)!r}")
        tree = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"configuration: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"configuration: {path} is not valid TOML: {error}") from None
    base = tree.pop("extends", None)
    if base is not None and base not in presets():
        raise ConfigError(f"extends: expected a preset ({', '.join(presets())}), got {base!r}")
    return _merge(_read(base), tree) if base else tree


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; a prior (a table of one kind) is replaced whole."""
    out = dict(base)
    for key, value in top.items():
        nested = isinstance(value, Mapping) and isinstance(out.get(key), Mapping) and key not in PriorConfig.model_fields
        out[key] = _merge(out[key], value) if nested else value
    return out


def _with(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        branch: Any = {leaf: value}
        for parent in reversed(parents):
            branch = {parent: branch}
        tree = _merge(tree, branch)
    return dict(tree)


def _value(text: str) -> Any:
    """A command-line value: TOML where it parses, else the text itself."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _validate(tree: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


_EXPECTED = {"tuple_type": "expected a list", "model_type": "expected a table of keys"}


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = _keys_at(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1, cutoff=0.0)
        return f"configuration: unknown key {where!r}; nearest valid key is {'.'.join([*map(str, first['loc'][:-1]), *near])!r}"
    message = _EXPECTED.get(first["type"]) or first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"configuration: {where + ': ' if where else ''}{message}{got}"


def _keys_at(location: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return list(model.model_fields)
