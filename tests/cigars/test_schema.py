"""The table of names: complete, without repeats, in units that astropy knows."""

import numpy as np
import pytest
from astropy import units

from cigars.config import Config
from cigars.schema import CATALOGUE, FIDUCIAL, GLOBALS, LATENTS, LOCALS, OPTIONAL, Galaxies, Globals, Latents, Observations, column


def names(table):
    return [c.name for c in table]


def test_every_field_has_one_entry_in_the_order_of_its_tuple():
    assert names(GLOBALS) == list(Globals._fields)
    assert names(LATENTS) == list(Latents._fields)
    assert [n.removesuffix("_{band}") for n in names(CATALOGUE)] == ["id", *Observations._fields, "p_ia"]


def test_no_name_has_two_meanings():
    """Redshift and the rest of a host are the same quantity in `Galaxies` and `Latents`; all else differs."""
    every = names(GLOBALS) + names(LATENTS) + names(CATALOGUE)
    assert len(set(every)) == len(every)
    assert set(LOCALS) <= set(Latents._fields)
    assert set(Galaxies._fields) & set(Latents._fields) == set(Latents._fields[:7])
    assert set(OPTIONAL) <= set(names(CATALOGUE))


@pytest.mark.parametrize("entry", GLOBALS + LATENTS + CATALOGUE, ids=lambda c: c.name)
def test_units_are_astropy_units_and_meanings_are_given(entry):
    units.Unit(entry.unit, parse_strict="raise")
    assert entry.meaning
    assert entry.label
    assert column(entry.name) is entry


def test_an_unknown_name_is_named():
    with pytest.raises(KeyError, match="Omega"):
        column("Omega")


def test_the_fiducial_universe_is_inside_the_default_prior_and_outside_of_a_wrong_one():
    def inside(config):
        return [m.low <= getattr(FIDUCIAL, k) <= m.high for k, m in config.marginals.items()]

    assert all(inside(Config()))
    assert not all(inside(Config().updated(**{"prior.Om0": {"uniform": [0.4, 0.5]}})))
    assert np.isclose(FIDUCIAL.Om0 + FIDUCIAL.Ode0, 1)
