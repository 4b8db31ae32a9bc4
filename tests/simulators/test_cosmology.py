"""Distances against astropy, analytic universes and finite differences of astropy."""

import astropy.units as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.cosmology import Flatw0waCDM, LambdaCDM

from cigars.schema import FIDUCIAL, HUBBLE_DISTANCE_MPC, Globals
from simulators.cosmology import (
    comoving_volume_element,
    curvature_factor,
    distance_modulus,
    distance_modulus_transverse,
    expansion_squared,
    fiducial_distance_table,
    interpolate_uniform,
    transverse_distance_table,
)

Z_MAX = 2.0
Z = np.concatenate([np.geomspace(0.01, 2.0, 60), [0.0103, 0.4999, 1.9999]]).astype(np.float32)
ACCURACY = 1e-5  # asked of d_M by the forward model, §2

_RANDOM = np.random.default_rng(0).uniform(size=(40, 4))
LCDM = [
    *((a, b) for a in (0.0, 1.0) for b in (0.0, 1.0)),
    *((0.3, 0.7 + ok) for ok in (0.0, 1e-6, -1e-6, 1e-4, -1e-4, 1e-2, -1e-2)),
    *((float(a), float(b)) for a, b in _RANDOM[:, :2]),
]
CPL = [
    *((a, b, c) for a in (0.0, 0.5, 1.0) for b in (-2.0, 0.0) for c in (-3.0, 2.0)),
    *((float(a), float(2 * b - 2), float(5 * c - 3)) for a, b, c in _RANDOM[:20, :3]),
]


def _cosmology(om: float, ode: float, w0: float = -1.0, wa: float = 0.0) -> Globals:
    values = (jnp.float32(v) for v in (om, ode, w0, wa))
    return FIDUCIAL._replace(**dict(zip(("Om0", "Ode0", "w0", "wa"), values, strict=True)))


@jax.jit
def _transverse(cosmology: Globals, z: jax.Array) -> jax.Array:
    return interpolate_uniform(transverse_distance_table(cosmology, Z_MAX), z, Z_MAX)


def _relative_error(cosmology: Globals, reference) -> float:
    exact = reference.comoving_transverse_distance(Z.astype(float)).to_value(u.Mpc)
    return float(np.abs(np.asarray(_transverse(cosmology, jnp.asarray(Z))) / exact - 1).max())


def test_curved_distances_equal_astropy_over_the_whole_prior():
    errors = [_relative_error(_cosmology(a, b), LambdaCDM(H0=70, Om0=a, Ode0=b, Tcmb0=0)) for a, b in LCDM]
    assert max(errors) < ACCURACY


def test_flat_w0wa_distances_equal_astropy_over_the_whole_prior():
    errors = [_relative_error(_cosmology(a, 1 - a, b, c), Flatw0waCDM(H0=70, Om0=a, w0=b, wa=c, Tcmb0=0)) for a, b, c in CPL]
    assert max(errors) < ACCURACY


@pytest.mark.parametrize(
    "wrong",
    [
        LambdaCDM(H0=70, Om0=0.3, Ode0=0.6, Tcmb0=2.725),  # radiation
        LambdaCDM(H0=70, Om0=0.3, Ode0=0.7, Tcmb0=0),  # curvature forgotten
        LambdaCDM(H0=70.01, Om0=0.3, Ode0=0.6, Tcmb0=0),
    ],
)
def test_the_comparison_rejects_a_slightly_different_universe(wrong):
    assert _relative_error(_cosmology(0.3, 0.6), wrong) > ACCURACY


def test_universes_with_closed_forms():
    z = Z.astype(float)
    forms = {(1.0, 0.0): 2 - 2 / np.sqrt(1 + z), (0.0, 0.0): np.sinh(np.log1p(z)), (0.0, 1.0): z}  # Einstein-de Sitter, Milne, de Sitter
    for (om, ode), exact in forms.items():
        np.testing.assert_allclose(_transverse(_cosmology(om, ode), jnp.asarray(Z)), HUBBLE_DISTANCE_MPC * exact, rtol=1e-6)  # float32


def test_curvature_factor_joins_sinh_and_sin():
    x = np.array([-9.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 20.0])
    root = np.sqrt(np.abs(x)) + 1e-30
    exact = np.where(x < 0, np.sin(root), np.sinh(root)) / root
    # absolute: near x = -pi^2 the sine cancels to the rounding of its largest term, 1
    np.testing.assert_allclose(curvature_factor(jnp.asarray(x, jnp.float32)), exact, rtol=1e-6, atol=5e-7)
    slope = jax.vmap(jax.grad(curvature_factor))(jnp.array([-1e-8, 0.0, 1e-8]))
    np.testing.assert_allclose(slope, 1 / 6, rtol=1e-6)


@pytest.mark.parametrize("point", [(0.3, 0.7, -1.0, 0.0), (0.3, 0.3, -1.0, 0.0), (0.9, 0.9, -1.0, 0.0), (0.3, 0.7, -0.8, -0.5)])
def test_gradients_equal_finite_differences_of_astropy(point):
    from astropy.cosmology import w0waCDM

    z = np.array([0.05, 0.5, 1.2], np.float32)

    def modulus(om, ode, w0, wa):
        return 5 * jnp.log10(_transverse(_cosmology_of(om, ode, w0, wa), jnp.asarray(z)))

    def exact(values):
        om, ode, w0, wa = values
        cosmology = w0waCDM(H0=70, Om0=om, Ode0=ode, w0=w0, wa=wa, Tcmb0=0)
        return 5 * np.log10(cosmology.comoving_transverse_distance(z.astype(float)).value)

    ours = np.stack(jax.jacfwd(modulus, argnums=(0, 1, 2, 3))(*map(jnp.float32, point)))
    step = 1e-4  # central differences: error of order 1e-8, against a float32 derivative of order 1
    numerical = np.stack([(exact(point + step * e) - exact(point - step * e)) / (2 * step) for e in np.eye(4)])
    np.testing.assert_allclose(ours, numerical, rtol=1e-4, atol=2e-6)
    assert not np.allclose(ours[::-1], numerical, rtol=1e-4, atol=2e-6)  # parameters in the wrong order


def _cosmology_of(om, ode, w0, wa) -> Globals:
    return FIDUCIAL._replace(Om0=om, Ode0=ode, w0=w0, wa=wa)


def test_expansion_is_positive_over_the_prior_and_finite_beyond_it():
    z = jnp.asarray(Z)
    assert min(float(expansion_squared(_cosmology(a, b), z).min()) for a, b in LCDM) >= 1 - 1e-6
    no_big_bang = _cosmology(0.05, 2.5)
    value, slope = jax.jvp(lambda om: _transverse(no_big_bang._replace(Om0=om), z), (jnp.float32(0.05),), (jnp.float32(1.0),))
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()


def test_interpolation_is_exact_for_cubics_and_converges_at_fourth_order():
    nodes = np.linspace(0, 2, 33)
    z = jnp.asarray(np.linspace(0, 2, 401), jnp.float32)
    cubic = np.polynomial.Polynomial([0.3, -1.0, 0.7, 0.2])
    ours = interpolate_uniform(jnp.asarray(cubic(nodes), jnp.float32), z, 2.0)
    np.testing.assert_allclose(ours, cubic(np.asarray(z, float)), atol=1e-6)  # float32
    error = []
    for count in (9, 17):
        table = jnp.asarray(np.exp(np.linspace(0, 2, count)), jnp.float32)
        error.append(np.abs(interpolate_uniform(table, z, 2.0) - np.exp(np.asarray(z, float))).max())
    assert 3.5 < np.log2(error[0] / error[1]) < 4.5


def test_moduli_differ_by_the_redshift_factor():
    z, d_m = jnp.array([0.1, 1.0]), jnp.array([400.0, 3300.0])
    assert float(distance_modulus_transverse(jnp.float32(1e-5))) == pytest.approx(0.0, abs=1e-5)  # 10 pc
    np.testing.assert_allclose(distance_modulus(d_m, z) - distance_modulus_transverse(d_m), 5 * np.log10([1.1, 2.0]), atol=1e-5)


def test_fiducial_table_interpolates_to_the_astropy_modulus():
    table = fiducial_distance_table()
    assert isinstance(table.z, np.ndarray)
    assert (np.diff(table.z) > 0).all()
    exact = LambdaCDM(H0=70, Om0=0.3, Ode0=0.7, Tcmb0=0).distmod(Z[:-1].astype(float)).value
    np.testing.assert_allclose(np.interp(Z[:-1], table.z, table.mu), exact, atol=2e-5)  # mag; float32 at 40 mag is 4e-6


@pytest.mark.parametrize(("om", "ode"), [(0.3, 0.7), (0.3, 0.2), (0.9, 0.8)])
def test_volume_element_equals_astropy(om, ode):
    cosmology, z = _cosmology(om, ode), jnp.asarray(Z)
    ours = comoving_volume_element(cosmology, _transverse(cosmology, z), z)
    exact = LambdaCDM(H0=70, Om0=om, Ode0=ode, Tcmb0=0).differential_comoving_volume(Z.astype(float)).to_value(u.Mpc**3 / u.sr)
    np.testing.assert_allclose(ours, exact, rtol=2e-5)  # twice the error of d_M
