"""Inputs by name: what each hides, what goes with it, and one line for a name that is none."""

import jax
import numpy as np
import pytest

from cigars.config import Config, ConfigError, load_config
from cigars.inputs import default_inputs, hidden, inputs
from simulators.observation import observe_supernovae

SOME_REDSHIFTS = load_config("demo", **{"observation.spectroscopic_fraction": 0.3})


def test_every_input_has_a_name_and_redshifts_only_where_there_are_some():
    assert default_inputs(SOME_REDSHIFTS) == [
        "host photometry", "supernova light", "supernova magnitude", "supernova stretch", "supernova colour", "spectroscopic redshift",
    ]  # fmt: skip
    assert set(inputs(Config())) - set(default_inputs(Config())) == {f"band {b}" for b in "ugrizy"}
    assert "spectroscopic redshift" not in inputs(Config())


@pytest.mark.parametrize(
    ("drop", "name", "bands"),
    [
        ("host photometry", "host photometry", (0, 1, 2, 3, 4, 5)),
        (" band  u ", "band u", (0,)),
        ("band r + band u", "band u + band r", (0, 2)),
        ("band u, host photometry", "host photometry", (0, 1, 2, 3, 4, 5)),
        ("stretch, host photometry", "host photometry + supernova stretch", (0, 1, 2, 3, 4, 5)),
        ("+".join(f"band {b}" for b in "ugrizy"), "host photometry", (0, 1, 2, 3, 4, 5)),
        ("magnitude + stretch + colour", "supernova light", ()),
        ("colour + supernova light", "supernova light", ()),
    ],
)
def test_names_may_be_short_and_combined(drop, name, bands):
    found = hidden(drop, Config())
    assert (found.name, found.bands) == (name, bands)
    assert all(np.isnan(v) for v in found.columns.values()) == ("stretch" not in found.name)


@pytest.mark.parametrize(("drop", "near"), [("host fotometry", "host photometry"), ("color", "colour"), ("bnd i", "band i")])
def test_an_unknown_name_is_answered_by_all_there_are_and_the_nearest(drop, near):
    with pytest.raises(ConfigError, match=r"--drop: expected inputs of \['host photometry', .*; the nearest is") as refused:
        hidden(drop, Config())
    assert "\n" not in str(refused.value)
    assert f"nearest is {near!r}" in str(refused.value)
    with pytest.raises(ConfigError, match="got ''"):
        hidden("stretch +", Config())


@pytest.mark.parametrize(("preset", "telling"), [("demo", ["var_m"]), ("des5yr", ["var_x", "var_c"])])
def test_nothing_that_follows_the_magnitude_is_left_when_it_is_hidden(preset, telling):
    """Objects alike but for their magnitudes: no column that stays tells which is which, also where variances follow it (des5yr)."""
    config, key = load_config(preset, **{"observation.sn_correlation": (0.3, 0.2, 0.1)}), jax.random.key(4)
    m, normals = jax.random.uniform(key, (4000,), minval=20.0, maxval=26.0), jax.random.normal(key, (6, 4000))
    seen = observe_supernovae(normals[:2], normals[2:], m, 0 * m, 0 * m, config.observation)
    hides = inputs(config)["supernova magnitude"].columns

    def told(names):
        values = np.stack([np.log(seen[n]) if "_" in n else seen[n] for n in names])
        return max(abs(np.corrcoef(values, m)[:-1, -1]))

    assert told(seen.keys() - hides.keys()) < 5 / 4000**0.5  # of independent columns, five standard errors
    assert all(told([name]) > 0.4 for name in telling)
