"""Physical constants and the fixed numbers of the forward model, in the units the field uses (CODATA 2018, IAU 2015)."""

from __future__ import annotations

__all__ = ["AREA_OF_SKY_DEG2", "H0_KM_S_MPC", "HUBBLE_DISTANCE_MPC", "LN10", "SPEED_OF_LIGHT_KM_S"]

LN10 = 2.302585092994046
SPEED_OF_LIGHT_KM_S = 299792.458
H0_KM_S_MPC = 70.0
"""Fixed: degenerate with the standard absolute magnitude (forward model §1)."""
HUBBLE_DISTANCE_MPC = SPEED_OF_LIGHT_KM_S / H0_KM_S_MPC
AREA_OF_SKY_DEG2 = 41252.96124941927  # 4 pi (180 / pi)^2
