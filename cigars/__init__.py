"""CIGaRS: cosmology from type Ia supernovae and the photometry of their hosts, by simulation-based inference.

The steps are five functions, `simulate`, `train`, `infer`, `report` and `ingest`, on a configuration from `load_config`;
each is what the command of the same name calls; `infer_exact` is `infer --method exact`; `load_posterior` gives a posterior to
ask; `cigars.pretrained` names the runs that come with the package. Nothing is imported before it is asked for (PEP 562).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["infer", "infer_exact", "ingest", "load_config", "load_posterior", "report", "simulate", "train"]
HOMES = {"load_config": "cigars.config", "load_posterior": "cigars.posterior"}  # the others are steps of the pipeline


class _Package(ModuleType):
    """Keeps `cigars.report` and `cigars.ingest` the functions when the modules of the same names are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name in __all__:
        return getattr(import_module(HOMES.get(name, "cigars.pipeline")), name)
    if name == "pretrained":
        return import_module("cigars.pretrained")
    if name == "__version__":
        return metadata.version("cigars-sn")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__", "pretrained"])


sys.modules[__name__].__class__ = _Package
