"""Inputs of the networks: unit scale, colours that survive a missing band, whitening."""

import pytest
import torch

from inference.batches import hide
from inference.standardise import Standardiser, Whitening, feature_count

from .conftest import observations


@pytest.mark.parametrize("bands", [1, 2, 4, 6])
def test_training_inputs_have_mean_zero_and_unit_scale(bands):
    o = observations(2000, bands, cov_mx=0.001 * torch.randn(2000, generator=torch.Generator().manual_seed(3)))
    inputs = Standardiser(bands).fit(o)(o)
    assert inputs.shape == (2000, feature_count(bands))
    scaled = inputs[:, : 2 * bands + 11]
    torch.testing.assert_close(scaled.mean(0), torch.zeros(scaled.shape[1]), atol=2e-3, rtol=0)
    spread = scaled.std(0)
    assert bool((((spread - 1).abs() < 0.03) | (spread == 0)).all())  # clipping at 10 sd; a constant column stays zero
    assert bool((inputs[:, -1] == 1).all())  # every redshift is known
    assert bool((inputs[:, -2 - bands : -1] == 0).all())  # nothing is missing


def test_what_the_training_never_saw_move_is_no_input():
    """Weights that never learned would make anything of covariances in a catalogue."""
    o = observations(200, 3)
    given = o._replace(cov_mx=0.6 * (o.var_m * o.var_x).sqrt())
    standardiser = Standardiser(3).fit(o)
    plain = standardiser(o)
    assert torch.equal(standardiser(given), plain)
    with torch.no_grad():  # not left out
        standardiser.sd.masked_fill_(torch.isinf(standardiser.sd), 1.0)
    assert not torch.allclose(standardiser(given), plain, atol=0.1)


def test_a_missing_band_is_filled_by_the_typical_colour_and_flagged():
    """The expectation is written out: typical magnitude of the band plus the mean offset of the others."""
    o = observations(500, 3)
    standardiser = Standardiser(3).fit(o)
    mask = torch.zeros(500, 3, dtype=torch.bool)
    mask[:, 2] = True
    inputs = standardiser(hide(o, mask))
    typical = o.mag.mean(0)
    filled = typical[2] + (o.mag[:, :2] - typical[:2]).mean(1)
    colour = (o.mag[:, 1] - filled - (o.mag[:, 1] - o.mag[:, 2]).mean()) / (o.mag[:, 1] - o.mag[:, 2]).std(unbiased=False)
    torch.testing.assert_close(inputs[:, 2], colour, atol=1e-3, rtol=1e-3)
    assert torch.equal(inputs[:, 17:20], mask.float())


def test_nothing_observed_gives_finite_inputs_at_the_mean():
    o = observations(50, 4)
    standardiser = Standardiser(4).fit(o)
    every = torch.ones(50, dtype=torch.bool)
    inputs = standardiser(hide(o, every[:, None].expand(-1, 4), every, every))
    assert bool((inputs[:, :15].abs() < 1e-4).all())
    assert bool((inputs[:, 19:24] == 1).all())
    assert bool((inputs[:, 24] == 0).all())


def test_wrong_bands_and_empty_training_are_refused():
    with pytest.raises(ValueError, match="bands: expected"):
        Standardiser(0)
    with pytest.raises(ValueError, match="magnitudes: expected 3 bands, got 4"):
        Standardiser(3).fit(observations(5, 4))
    with pytest.raises(ValueError, match="training objects"):
        Standardiser(3).fit(observations(0, 3))


def test_whitening_gives_uncorrelated_components_and_drops_the_degenerate():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4000, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    summary = torch.cat([base, base[:, :2] @ torch.randn(2, 2, generator=generator), torch.ones(4000, 1)], 1)
    whitening = Whitening.fit(summary)
    assert whitening.projection.shape == (8, 5)
    components = whitening(summary)
    torch.testing.assert_close(torch.cov(components.T), torch.eye(5), atol=0.02, rtol=0)  # clipping at 6 sd takes a little
