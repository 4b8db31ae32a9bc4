"""A catalogue is known by its rows, and asked about as a survey of one, whatever their order."""

import numpy as np
import pytest

from cigars.catalogue import select
from cigars.schema import Observations
from cigars.targets import as_survey, survey_of, target_hash

from .catalogues import make_catalogue


@pytest.fixture
def catalogue():
    return make_catalogue()


def test_the_hash_is_of_the_rows_whatever_their_order(catalogue):
    known = target_hash(catalogue)
    assert target_hash(select(catalogue, np.random.default_rng(0).permutation(len(catalogue.id)))) == known
    assert target_hash(catalogue._replace(id=catalogue.id.astype("<U40"))) == known
    assert target_hash(catalogue._replace(p_ia=None)) == known  # not used
    assert target_hash(select(catalogue, np.arange(1, len(catalogue.id)))) != known
    assert target_hash(catalogue._replace(id=catalogue.id[::-1])) != known
    for name in Observations._fields:
        leaf = getattr(catalogue.observations, name).copy()
        leaf[:1] = np.nextafter(leaf[0], np.float32(9e9))
        assert target_hash(catalogue._replace(observations=catalogue.observations._replace(**{name: leaf}))) != known, name


def test_a_catalogue_is_a_survey_of_one(catalogue):
    survey = as_survey(catalogue.observations)
    assert survey.number.tolist() == [len(catalogue.id)]
    assert survey.observed.shape == survey.observations.m.shape == (1, len(catalogue.id))
    assert np.isnan(survey.theta.Om0).all()
    assert survey.exposure.tolist() == [1.0]
    some = as_survey(catalogue.observations, 2.0, 900)
    assert (some.exposure.tolist(), some.number.tolist()) == ([2.0], [900])


def test_the_survey_of_a_catalogue_is_the_same_whatever_the_order_of_its_rows(catalogue):
    mixed = select(catalogue, np.random.default_rng(0).permutation(len(catalogue.id)))
    one, other = (survey_of(each, 2.0, 500) for each in (catalogue, mixed))
    assert (one.exposure.tolist(), one.number.tolist()) == ([2.0], [500])
    assert not np.array_equal(mixed.observations.m, catalogue.observations.m)
    for a, b in zip(one.observations, other.observations, strict=True):
        np.testing.assert_array_equal(a, b)
