"""The sections of a configuration, frozen pydantic models. Defaults are the `lsst` set-up of the forward model."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from cigars.schema import Globals, Marginal

__all__ = [
    "ErrorModel", "Frozen", "HostConfig", "ObservationConfig", "Prior", "PriorConfig", "Region", "SelectionConfig", "SizeConfig",
    "SupernovaConfig", "TrainingConfig",
]  # fmt: skip

TAIL = 8.0  # standard deviations beyond which single precision does not tell a tail from its edge


class Frozen(BaseModel):
    """A section of the configuration: nothing of it changes, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Prior(Frozen):
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


class Region(Frozen):
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


class PriorConfig(Frozen):
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


class HostConfig(Frozen):
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


class SupernovaConfig(Frozen):
    """Supernova population (forward model §6)."""

    cosmology: Literal["LCDM", "flat-LCDM", "flat-w0waCDM"] = "LCDM"
    dust: Literal["independent", "host", "local"] = "independent"


Probability = Annotated[float, Field(ge=0, lt=1)]


class ErrorModel(Frozen):
    """ln W ~ Normal(offset + slope (mag - pivot), scatter): a log-normal variance that grows with magnitude; W += floor^2."""

    offset: float = 0.0
    slope: float = 0.0
    pivot: float = 23.0
    scatter: float = Field(1.0, ge=0)
    floor: float = Field(0.0, ge=0)


class ObservationConfig(Frozen):
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

    @field_validator("sn_m", "sn_x", "sn_c", mode="before")
    @classmethod
    def _on_its_default(cls, given: Any, info: ValidationInfo) -> Any:
        """A table of some keys changes these alone: the others are those of this law, not of any."""
        return {**cls.model_fields[info.field_name].default.model_dump(), **given} if isinstance(given, dict) else given  # type: ignore[index]

    @model_validator(mode="after")
    def _positive_definite(self) -> ObservationConfig:
        mx, mc, xc = self.sn_correlation
        if max(abs(mx), abs(mc), abs(xc)) >= 1 or 1 + 2 * mx * mc * xc - mx**2 - mc**2 - xc**2 <= 0:
            raise ValueError(f"sn_correlation: expected a positive definite matrix, got (mx, mc, xc) = {[mx, mc, xc]}")
        return self


class SelectionConfig(Frozen):
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


class SizeConfig(Frozen):
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


class TrainingConfig(Frozen):
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
