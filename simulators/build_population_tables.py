"""Builds `data/prospector_beta.npz`, the three small tables behind the host population, from astro-prospector and astropy.

Run: `python -m simulators.build_population_tables` (needs astro-prospector, astro-sedpy and astropy; the simulator itself does not).

Contents:
    redshift_z, redshift_density: p(z) of Leja+20 galaxies as tabulated in astro-prospector (`pdf_of_z_l20.txt`), for z <= 1.56.
    ratio_age_log10_gyr, ratio_log10: expected log10(SFR_i / SFR_{i+1}) [age, 6] of Prospector-beta (Wang+23) from the cosmic star
        formation of Behroozi+19, against the shifted age of the universe; constant beyond either end.
    age_polynomial: log10 t_U [Gyr] of WMAP9 (Hinshaw+13) as an ascending polynomial in ln(1+z), 0 <= z <= 2, good to 2e-6.
    attribution: sources and licence.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

__all__ = ["build", "main"]

DESTINATION = Path(__file__).resolve().parent / "data" / "prospector_beta.npz"
ATTRIBUTION = (
    "p(z) and expected SFR ratios from astro-prospector {version} (MIT licence, (c) 2014-2017 Benjamin D. Johnson & contributors): "
    "Wang+23 (ApJL 944 L58), Leja+20 (ApJ 893 111), Behroozi+19 (MNRAS 488 3143). Age of the universe: astropy WMAP9 (Hinshaw+13)."
)
AGE_RANGE_GYR = (2.0, 12.2)  # shifted ages; the expectation is constant above the age at z = 0.15, 11.9 Gyr
AGE_NODES = 768


def _age_polynomial(degree: int = 7) -> np.ndarray:
    from astropy.cosmology import WMAP9

    z = np.linspace(0.0, 2.0, 800)
    return np.polynomial.polynomial.polyfit(np.log1p(z), np.log10(WMAP9.age(z).value), degree)


def _expected_ratios(prior: ModuleType, age_gyr: float) -> np.ndarray:
    """Prospector's own function asked at the mass log M = 9.6, whose shift of log age is zero, and the redshift of that age."""
    z = float(prior.f_age_z(age_gyr)) if age_gyr < prior.age[0] else 0.0
    return prior.expe_logsfr_ratios(this_z=z, this_m=9.6, logsfr_ratio_mini=-5.0, logsfr_ratio_maxi=5.0)


def build() -> dict[str, np.ndarray]:
    """All arrays of the table."""
    from importlib.metadata import version

    from prospect.models import priors_beta

    z, density = np.loadtxt(priors_beta.file_pdf_of_z_l20, unpack=True)
    ages = np.geomspace(*AGE_RANGE_GYR, AGE_NODES)
    return {
        "redshift_z": z[z < 1.57],
        "redshift_density": density[z < 1.57],
        "ratio_age_log10_gyr": np.log10(ages),
        "ratio_log10": np.array([_expected_ratios(priors_beta, a) for a in ages], dtype=np.float32),
        "age_polynomial": _age_polynomial(),
        "attribution": np.array(ATTRIBUTION.format(version=version("astro-prospector"))),
    }


def main() -> None:
    """Write the table."""
    DESTINATION.parent.mkdir(exist_ok=True)
    np.savez_compressed(DESTINATION, **build())  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
