"""Writes `prospector_draws.npz`: draws of the host population made by astro-prospector itself (`NzSFH.sample`) and its SFR expectations.

Run: `python tests/references/make_prospector_draws.py` (needs astro-prospector 1.4, astro-sedpy). Masses are drawn on [8.5, 12.5]; they
are low by about 0.04 dex because prospector's cumulative sum starts a cell late, so tests compare what is conditional on them.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from prospect.models import priors_beta

DRAWS = 2000


def main() -> None:
    np.random.seed(20251121)  # noqa: NPY002 - prospector draws from the global generator
    prior = priors_beta.NzSFH(
        zred_mini=0.02,
        zred_maxi=1.5,
        mass_mini=8.5,
        mass_maxi=12.5,
        z_mini=-1.98,
        z_maxi=0.19,
        logsfr_ratio_mini=-5.0,
        logsfr_ratio_maxi=5.0,
        logsfr_ratio_tscale=0.3,
        nbins_sfh=7,
        const_phi=True,
    )
    draws = np.array([np.hstack(prior.sample()) for _ in range(DRAWS)])
    rng = np.random.default_rng(1)
    z, mass = rng.uniform(0.02, 1.5, 300), rng.uniform(8.5, 12.5, 300)
    expected = [priors_beta.expe_logsfr_ratios(a, b, -5.0, 5.0) for a, b in zip(z, mass, strict=True)]
    np.savez_compressed(
        Path(__file__).with_suffix("").with_name("prospector_draws.npz"),
        z=draws[:, 0],
        mass_log10_msun=draws[:, 1],
        metallicity_log10_zsun=draws[:, 2],
        sfr_ratios_log10=draws[:, 3:],
        grid_z=z,
        grid_mass=mass,
        grid_expected=np.array(expected),
        source=np.array(f"astro-prospector {version('astro-prospector')}"),
    )


if __name__ == "__main__":
    main()
