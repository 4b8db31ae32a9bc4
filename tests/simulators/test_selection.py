"""Selection against scipy: the smooth detection form, the bilinear table, host thresholds."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.interpolate import RegularGridInterpolator

from cigars.config import SelectionConfig
from simulators.selection import detection_probability, faintest_modulus, host_efficiency, read_detection_table
from tests.shared import needs_shared, shared_data

SMOOTH = SelectionConfig()
TABLE = SelectionConfig(detection="table", detection_file="set in the test")
NO_TABLE = read_detection_table(None)


def _f32(values):
    return jnp.asarray(values, jnp.float32)


def _smooth(z, m):
    """Forward model §8 in float64."""
    m50 = -4.822 * z**4 + 11.504 * z**3 - 10.370 * z**2 + 2.249 * z + 24.138
    return stats.norm.cdf((m50 - m) / np.exp(-0.247 * z**2 + 0.164 * z - 0.947)) * (z < 1.2)


@pytest.fixture
def points():
    rng = np.random.default_rng(1)
    return rng.uniform(0.02, 1.5, 2000), rng.uniform(16, 28, 2000)


def test_smooth_form_is_that_of_the_specification(points):
    z, m = points
    ours = np.asarray(detection_probability(_f32(z), _f32(m), SMOOTH, NO_TABLE))
    np.testing.assert_allclose(ours, _smooth(z, m), atol=2e-5)  # float32 magnitudes, 2e-6, over a width of 0.3
    assert np.abs(ours - _smooth(z, m + 0.01)).max() > 1e-3
    assert np.all(ours[z >= 1.2] == 0)
    assert ours[z < 1.2].max() == 1


def test_fainter_is_never_easier():
    m = _f32(np.linspace(15, 30, 400))
    for z in (0.02, 0.5, 1.1):
        p = np.asarray(detection_probability(jnp.full_like(m, z), m, SMOOTH, NO_TABLE))
        assert np.all(np.diff(p) <= 0)
        assert p[0] == pytest.approx(1, abs=1e-6)
        assert p[-1] == pytest.approx(0, abs=1e-6)


@needs_shared
def test_smooth_form_fits_the_lsst_table():
    """The rms that forward model §8 states, .013 for z < 1.05, wherever the table is neither sure of detection nor of loss."""
    with np.load(shared_data("detection_lsst.npz")) as raw:
        z, m, p = raw["z"], raw["m"], raw["probability"]
    grid = np.meshgrid(z[z < 1.05], m, indexing="ij")
    ours = np.asarray(detection_probability(_f32(grid[0].ravel()), _f32(grid[1].ravel()), SMOOTH, NO_TABLE)).reshape(grid[0].shape)
    assert np.sqrt(np.mean((ours - p[z < 1.05]) ** 2)) < 0.0135
    shifted = _smooth(grid[0], grid[1] + 0.1)
    assert np.sqrt(np.mean((shifted - p[z < 1.05]) ** 2)) > 0.0135


def _write(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_table_is_bilinear_inside_and_constant_outside(tmp_path, points):
    rng = np.random.default_rng(2)
    z, m = np.linspace(0.05, 1.3, 26), np.linspace(17, 27, 41)
    p = rng.uniform(size=(26, 41))
    table = read_detection_table(_write(tmp_path / "t.npz", z=z, m=m, probability=p))
    deep = TABLE.model_copy(update={"z_max": 2.0})
    ours = np.asarray(detection_probability(_f32(points[0]), _f32(points[1]), deep, table))
    inside = np.stack([points[0].clip(z[0], z[-1]), points[1].clip(m[0], m[-1])], -1)
    exact = RegularGridInterpolator((z, m), p)(inside)
    np.testing.assert_allclose(ours, exact, atol=3e-5)  # float32 positions of size 40: 4e-6 of a cell
    assert np.abs(ours - RegularGridInterpolator((z, m), p, "nearest")(inside)).max() > 0.1
    shallow = TABLE.model_copy(update={"z_max": 0.6})
    cut = np.asarray(detection_probability(_f32(points[0]), _f32(points[1]), shallow, table))
    np.testing.assert_array_equal(cut, np.where(_f32(points[0]) < np.float32(0.6), ours, 0.0))  # as of the smooth form


def test_unusable_tables_are_refused(tmp_path):
    z, m, p = np.linspace(0, 1, 3), np.linspace(20, 24, 5), np.full((3, 5), 0.5)
    with pytest.raises(ValueError, match="found nothing at"):
        read_detection_table(str(tmp_path / "absent.npz"))
    with pytest.raises(ValueError, match=r"missing \['m'\]"):
        read_detection_table(_write(tmp_path / "a.npz", z=z, probability=p))
    with pytest.raises(ValueError, match="uniform increasing grids"):
        read_detection_table(_write(tmp_path / "b.npz", z=z**2, m=m, probability=p))
    for wrong in (p.T, p + 0.6, p * np.nan):
        with pytest.raises(ValueError, match=r"probability\[3, 5\] within"):
            read_detection_table(_write(tmp_path / "c.npz", z=z, m=m, probability=wrong))


def test_one_modulus_says_what_six_comparisons_say():
    rng = np.random.default_rng(3)
    magnitude, modulus = rng.normal(-18, 2, (5000, 6)), rng.uniform(38, 45, 5000)
    thresholds = np.array(SMOOTH.host_thresholds)
    allowed = modulus < np.asarray(faintest_modulus(_f32(magnitude), SMOOTH.host_thresholds))
    np.testing.assert_array_equal(allowed, (magnitude + modulus[:, None] < thresholds).all(1))
    assert 0.1 < allowed.mean() < 0.9
    assert not np.array_equal(allowed, (magnitude + modulus[:, None] < thresholds).any(1))


def test_host_efficiency_is_a_normal_distribution_in_one_band():
    magnitude = np.random.default_rng(4).normal(22, 2, (100, 6))
    config = SelectionConfig(host_efficiency=("r", 22.5, 0.8))
    ours = host_efficiency(_f32(magnitude), config, tuple("ugrizy"))
    np.testing.assert_allclose(ours, stats.norm.cdf((22.5 - magnitude[:, 2]) / 0.8), atol=2e-6)
    assert not np.allclose(ours, stats.norm.cdf((22.5 - magnitude[:, 1]) / 0.8), atol=1e-3)
    assert np.all(np.asarray(host_efficiency(_f32(magnitude), SMOOTH, tuple("ugrizy"))) == 1)
