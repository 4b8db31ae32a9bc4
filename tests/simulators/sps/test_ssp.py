"""Magnitudes of the direct sum against brute force on the library's own grids, the FSPS engine, limits, symmetries and derivatives."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.table import Table
from scipy.integrate import quad

from cigars.config import HostConfig
from cigars.schema import Galaxies
from simulators.sps.library import read_table
from simulators.sps.photometry import galaxy_magnitudes, load_photometry, template_magnitudes
from simulators.sps.ssp import age_hat_integrals, hat_weights, ssp_model
from simulators.sps.tables import galaxies_from_table
from tests.shared import needs_shared, shared_data
from tests.simulators.sps.galaxies import random_galaxies, reference

BANDS = ("lsst2023-u", "lsst2023-r", "lsst2023-y")


@pytest.fixture(scope="module")
def native():
    return load_photometry(HostConfig(bands=BANDS))


@pytest.fixture(scope="module")
def stars():
    return load_photometry(HostConfig(bands=BANDS, nebular=False))


def mags(photometry, **fixed):
    return template_magnitudes(random_galaxies(64, **fixed), photometry)


# -- against other codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "rms", "worst"), [("native_stars", 3e-4, 2e-3), ("fsps_stars", 3e-4, 2e-3), ("native_nebular", 1.5e-3, 8e-3)]
)
def test_agrees_with_brute_force(case, rms, worst):
    """References of `make_sps.py`. Stars: the grid of 0.004; nebular: also the templates' linear interpolation in log Z_gas."""
    galaxies, expected, bands = reference()
    convention, light = case.split("_")
    photometry = load_photometry(HostConfig(bands=bands, convention=convention, nebular=light == "nebular"))
    difference = template_magnitudes(galaxies, photometry) - expected[case]
    assert np.sqrt(np.mean(difference**2)) < rms
    assert np.abs(difference).max() < worst


def test_conventions_are_told_apart():
    """Native ages under the FSPS reference: the node rule for young stars alone is worth tens of mmag in u."""
    galaxies, expected, bands = reference()
    photometry = load_photometry(HostConfig(bands=bands, nebular=False))
    difference = np.abs(template_magnitudes(galaxies, photometry) - expected["fsps_stars"])
    assert difference.max() > 0.01


@needs_shared
@pytest.mark.parametrize("bands", ["lsst2023", "lsst_v1"])
@pytest.mark.parametrize("nebular", [False, True])
def test_agrees_with_the_fsps_engine(bands, nebular):
    """Stars: 5 mmag at worst, 1 mmag rms. Nebular lines there come from another Cloudy table: 30 mmag rms."""
    table = Table.read(shared_data("golden_sps.csv"), format="ascii.csv", comment="#")
    galaxies = galaxies_from_table(table)
    file = None if bands == "lsst2023" else str(shared_data("bands_lsst_v1.npz"))
    names = tuple(b if file else f"lsst2023-{b}" for b in "ugrizy")
    photometry = load_photometry(HostConfig(bands=names, bands_file=file, convention="fsps", nebular=nebular))
    columns = [f"M_{b}_{bands}{'' if nebular else '_stars'}" for b in "ugrizy"]
    difference = template_magnitudes(galaxies, photometry) - np.stack([table[c] for c in columns], -1)
    assert np.sqrt(np.mean(difference**2)) < (0.03 if nebular else 1e-3)
    assert np.abs(difference).max() < (0.1 if nebular else 5e-3)


# -- limits and symmetries ---------------------------------------------------------------------------------------------


def test_magnitude_falls_by_two_and_a_half_per_dex_of_mass(native):
    faint, bright = mags(native, mass_log10_msun=9.0), mags(native, mass_log10_msun=11.0)
    np.testing.assert_allclose(bright - faint, -5.0, atol=1e-5)


def test_without_diffuse_dust_nothing_else_of_dust_matters(native):
    """tau_1 is tau_2 times the ratio, so tau_2 = 0 removes both components, whatever slope and ratio."""
    bare = mags(native, dust_tau2=0.0, dust_ratio=0.0, dust_index=0.0)
    np.testing.assert_array_equal(mags(native, dust_tau2=0.0, dust_ratio=2.0, dust_index=-1.0), bare)
    assert (mags(native, dust_tau2=0.5) > bare).all()


def test_grey_limit_of_dust(stars):
    """In a narrow band at 5500 A and z ~ 0, old stars are dimmed by 1.086 tau_2 exactly."""
    old = dict(sfr_ratios_log10=-5.0, z=0.02, metallicity_log10_zsun=0.0)
    with_dust, without = (template_magnitudes(random_galaxies(4, dust_tau2=t, dust_index=0.0, **old), stars) for t in (1.0, 0.0))
    r_rest = 6200 / 1.02
    k = 2.659 * (-2.156 + 1.509e4 / r_rest - 0.198e8 / r_rest**2 + 0.011e12 / r_rest**3) + 4.05
    np.testing.assert_allclose((with_dust - without)[:, 1], 1.0857 * k / 4.048, rtol=0.03)  # the band is 1400 A wide


def test_no_nebular_light_without_young_stars(native, stars):
    """The light of a galaxy whose youngest bin forms 1e-10 of its stars has no lines."""
    quiet = dict(sfr_ratios_log10=-5.0)
    np.testing.assert_allclose(mags(native, **quiet), mags(stars, **quiet), atol=1e-5)
    assert np.abs(mags(native, sfr_ratios_log10=1.0) - mags(stars, sfr_ratios_log10=1.0)).max() > 0.05


def test_flux_is_linear_in_log_metallicity_between_nodes(stars):
    """The choice of interpolation, pinned: half-way across the library's gap of 1 dex the flux is the mean of the ends' (FSPS)."""
    z = np.log10([0.02, 0.2])
    dusty = dict(dust_tau2=0.3, dust_index=0.0, dust_ratio=1.0)
    ends = [10 ** (-0.4 * mags(stars, metallicity_log10_zsun=v, **dusty)) for v in z]
    middle = 10 ** (-0.4 * mags(stars, metallicity_log10_zsun=z.mean(), **dusty))
    np.testing.assert_allclose(middle, (ends[0] + ends[1]) / 2, rtol=1e-5)
    geometric = np.sqrt(ends[0] * ends[1])
    assert np.abs(2.5 * np.log10(geometric / middle)).max() > 0.01  # linear in log flux is rejected


def test_light_of_an_ssp_is_recovered():
    """Weights at a node of the metallicity grid are that node alone."""
    nodes = jnp.asarray(read_table().metallicity_log10_zsun, jnp.float32)
    np.testing.assert_allclose(np.asarray(hat_weights(nodes, nodes)), np.eye(7), atol=1e-6)
    between = np.asarray(hat_weights(jnp.linspace(-2.3, 0.69, 57), nodes))
    np.testing.assert_allclose(between.sum(1), 1.0, atol=1e-6)
    np.testing.assert_allclose(between @ np.asarray(nodes), np.linspace(-2.3, 0.69, 57), atol=1e-6)


def test_age_integrals_equal_quadrature():
    """Integral of the hat linear in ln t over t, by scipy, for float32 at ages from 0.1 to 10 Gyr."""
    nodes = np.log(np.array([1.0, 1.3, 3.0, 20.0, 60.0]))
    for edge in (0.5, 1.1, 2.0, 30.0, 100.0):
        got = np.asarray(age_hat_integrals(jnp.asarray([np.log(edge)], jnp.float32), jnp.asarray(nodes, jnp.float32)))[0]
        for k in range(5):

            def hat(t, k=k):
                return np.interp(np.log(t), nodes, np.eye(5)[k])

            cuts = [0.0, *np.exp(nodes[np.exp(nodes) < edge]), edge]
            exact = sum(quad(hat, a or 1e-9, b)[0] for a, b in pairwise(cuts))
            assert got[k] == pytest.approx(exact, rel=3e-6, abs=3e-6)
    assert np.sum(got) == pytest.approx(100.0, rel=1e-6)  # hats sum to one: mass is conserved


def test_birth_cloud_split_differs_from_the_node_rule():
    """FSPS counts every SSP up to 10^7.0 yr as young as a whole; against the exact split that moves u by up to some 0.07 mag."""
    table = read_table()
    young = {c: np.asarray(ssp_model(table, c, nebular=False).young).sum() for c in ("native", "fsps")}
    assert young["native"] != pytest.approx(young["fsps"], rel=1e-3)
    burst = dict(sfr_ratios_log10=1.5, dust_tau2=1.0, dust_ratio=2.0, metallicity_log10_zsun=0.0, z=0.1)
    u = [mags(load_photometry(HostConfig(bands=BANDS, convention=c, nebular=False)), **burst)[:, 0].mean() for c in young]
    assert 0.002 < abs(u[0] - u[1]) < 0.08


def test_errors_say_what_and_where(native):
    with pytest.raises(ValueError, match="convention: expected 'native' or 'fsps', got 'exact'"):
        ssp_model(read_table(), "exact")
    with pytest.raises(ValueError, match=r"galaxies.metallicity_log10_zsun: expected values in \[-2.301, 0.699\], got 1"):
        mags(native, metallicity_log10_zsun=1.0)
    with pytest.raises(ValueError, match=r"galaxies.z: expected values in \[0, "):
        mags(native, z=1.7)
    with pytest.raises(ValueError, match=r"galaxies\.dust_tau2: expected finite values, got 64 others"):
        mags(native, dust_tau2=np.nan)


def test_metallicities_at_the_ends_of_the_table(stars):
    for end in (read_table().metallicity_log10_zsun[0], read_table().metallicity_log10_zsun[-1]):
        assert np.isfinite(mags(stars, metallicity_log10_zsun=end)).all()


# -- derivatives -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def derivative(native):
    """Galaxies in float64, the sum of each one's magnitudes as a function of them, and its gradient."""
    with jax.enable_x64(True):
        engine = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), native.engine)
        galaxies = Galaxies(*(jnp.asarray(np.asarray(v, np.float64)) for v in random_galaxies(32, seed=3)))
        total = jax.jit(lambda g: jnp.sum(galaxy_magnitudes(g, engine), axis=1))
        # magnitudes of a galaxy depend on its own parameters alone, so the gradient of the sum holds every galaxy's
        gradient = jax.jit(jax.grad(lambda g: jnp.sum(galaxy_magnitudes(g, engine))))(galaxies)
    return galaxies, total, gradient


@pytest.mark.parametrize("name", [n for n in Galaxies._fields if not n.startswith("agn")])
def test_gradients_equal_central_differences(derivative, name):
    """In float64, where differences are good to 1e-7; magnitudes are piecewise smooth and the step stays inside a piece."""
    galaxies, total, gradient = derivative
    value, slope = np.asarray(getattr(galaxies, name)), np.asarray(getattr(gradient, name))
    step = 1e-7
    with jax.enable_x64(True):
        for k in range(value.shape[1]) if value.ndim == 2 else (None,):
            shift = np.broadcast_to(step * np.eye(6)[k] if k is not None else step, value.shape)
            up, down = (total(galaxies._replace(**{name: jnp.asarray(value + s)})) for s in (shift, -shift))
            numerical = np.asarray(up - down) / (2 * step)
            np.testing.assert_allclose(slope[:, k] if k is not None else slope, numerical, rtol=1e-4, atol=1e-5)
            assert not np.allclose(-numerical, numerical, rtol=1e-4, atol=1e-5)  # a flipped sign is rejected


def test_gradients_are_finite_at_the_edges(native):
    galaxies = random_galaxies(8, dust_tau2=0.0, dust_ratio=0.0, sfr_ratios_log10=5.0)
    gradient = jax.jit(jax.grad(lambda g: jnp.sum(galaxy_magnitudes(g, native.engine))))(Galaxies(*map(jnp.asarray, galaxies)))
    assert all(np.isfinite(np.asarray(v)).all() for v in gradient)
