"""Fixed numbers of the forward model, in the units the field uses."""

from __future__ import annotations

__all__ = ["AREA_OF_SKY_DEG2", "LN10"]

LN10 = 2.302585092994046
AREA_OF_SKY_DEG2 = 41252.96124941927  # 4 pi (180 / pi)^2
