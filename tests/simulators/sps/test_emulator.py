"""The network in float32 on its resampled grid against plain float64 numpy at its own wavelengths, to 1e-4 mag."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cigars.config import HostConfig
from cigars.schema import Galaxies
from simulators.sps.bandpass import load_bands
from simulators.sps.emulator import EMULATOR_PARAMETERS, network_inputs
from simulators.sps.photometry import galaxy_magnitudes, load_photometry, template_magnitudes
from tests.shared import needs_shared, shared_data
from tests.simulators.sps.galaxies import random_galaxies

BANDS = ("lsst2023-u", "lsst2023-i", "lsst2023-y")


def write_network(path, **changes):
    """A small random network of two segments with smooth spectra, in the Speculator format."""
    rng = np.random.default_rng(5)
    arrays = {"param_names": np.array(EMULATOR_PARAMETERS), "n_subs": np.array(2)}
    sizes = [14, 16, 16, 6]  # the same layers in both segments, so that spectra are continuous
    layers = {f"W{n}": rng.normal(size=(a, b)) / np.sqrt(a) for n, (a, b) in enumerate(pairwise(sizes))}
    layers |= {f"b{n}": rng.normal(size=b) * 0.1 for n, b in enumerate(sizes[1:])}
    layers |= {f"{s}{n}": rng.normal(size=16) for s in ("alpha", "beta") for n in range(2)} | {"pca_shift": rng.normal(size=6)}
    for k, wave in enumerate((np.arange(1000.0, 4000.0, 5.0), np.arange(4001.0, 11600.0, 3.0))):
        x = np.log(wave / 4000)
        basis = np.stack([np.cos((n + 1) * x + n) for n in range(6)]) * 0.1
        segment = {"parameters_shift": np.zeros(14), "parameters_scale": np.full(14, 3.0), "n_layers": np.array(3), "wavelengths": wave}
        segment |= layers
        segment |= {"pca_scale": np.ones(6), "pca_transform_matrix": basis}
        segment |= {"log_spectrum_shift": -20.0 + x, "log_spectrum_scale": np.full(len(wave), 1.5)}
        arrays |= {f"sub{k}_{n}": v for n, v in segment.items()}
    np.savez(path, **(arrays | changes))
    return str(path)


def brute_force(file, galaxies, bands):
    """Float64 network and trapezoidal band integrals on four times the union of both samplings."""
    raw = np.load(file)
    x = np.asarray(network_inputs(Galaxies(*(np.asarray(v, np.float32) for v in galaxies))), float)
    x[:, 7] = np.sqrt(np.asarray(galaxies.dust_tau2, float))
    waves, ln = [], []
    for k in range(2):
        p = {n.removeprefix(f"sub{k}_"): raw[n].astype(float) for n in raw.files if n.startswith(f"sub{k}_")}
        h = (x - p["parameters_shift"]) / p["parameters_scale"]
        for n in range(int(p["n_layers"])):
            h = h @ p[f"W{n}"] + p[f"b{n}"]
            if f"alpha{n}" in p:
                h = h * (p[f"beta{n}"] + (1 - p[f"beta{n}"]) / (1 + np.exp(-p[f"alpha{n}"] * h)))
        ln.append((h * p["pca_scale"] + p["pca_shift"]) @ p["pca_transform_matrix"] * p["log_spectrum_scale"] + p["log_spectrum_shift"])
        waves.append(p["wavelengths"])
    ln_wave, ln_light = np.log(np.concatenate(waves)), np.concatenate(ln, axis=1)
    out = np.empty((len(x), len(bands)))
    for i, z in enumerate(np.asarray(galaxies.z, float)):
        for j, band in enumerate(bands):
            seen = np.exp(ln_wave) * (1 + z)
            w = np.unique(np.concatenate([band.wavelength, seen[(seen > band.wavelength[0]) & (seen < band.wavelength[-1])]]))
            w = np.unique(np.concatenate([w[:-1] + np.diff(w) * f for f in (0, 0.25, 0.5, 0.75)] + [w[-1:]]))
            t = np.interp(w, band.wavelength, band.transmission) / w
            light = np.exp(np.interp(np.log(w / (1 + z)), ln_wave, ln_light[i]))
            out[i, j] = -2.5 * np.log10(np.trapezoid(t * light, w) / np.trapezoid(t, w) / (1 + z))
    return out - 2.5 * np.asarray(galaxies.mass_log10_msun, float)[:, None]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("emulator") / "network.npz")


def config(file, **more):
    return HostConfig(**({"backend": "emulator", "emulator_file": file, "bands": BANDS} | more))


def test_agrees_with_float64(network):
    galaxies = random_galaxies(24)
    got = template_magnitudes(galaxies, load_photometry(config(network)))
    np.testing.assert_allclose(got, brute_force(network, galaxies, load_bands(BANDS)), rtol=0, atol=1e-4)


@needs_shared
def test_published_network_agrees_with_float64():
    file, bands = str(shared_data("speculator_alpha.npz")), str(shared_data("bands_lsst_v1.npz"))
    galaxies = random_galaxies(24, seed=1)
    photometry = load_photometry(config(file, bands=tuple("ugrizy"), bands_file=bands))
    expected = brute_force(file, galaxies, load_bands("ugrizy", bands))
    np.testing.assert_allclose(template_magnitudes(galaxies, photometry), expected, rtol=0, atol=1e-4)


def test_order_of_parameters_matters(network):
    """Exchanging two parameters is far outside the tolerance: the test above would see it."""
    galaxies = random_galaxies(8)
    wrong = galaxies._replace(dust_index=galaxies.dust_ratio, dust_ratio=galaxies.dust_index)
    photometry = load_photometry(config(network))
    assert np.abs(template_magnitudes(galaxies, photometry) - template_magnitudes(wrong, photometry)).max() > 0.01


def test_gradients_equal_central_differences(network):
    with jax.enable_x64(True):
        engine = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), load_photometry(config(network)).engine)
        galaxies = Galaxies(*(jnp.asarray(np.asarray(v, np.float64)) for v in random_galaxies(4)))
        total = jax.jit(lambda g: jnp.sum(galaxy_magnitudes(g, engine), axis=1))
        gradient = jax.jit(jax.grad(lambda g: jnp.sum(total(g))))(galaxies)
        for name in ("z", "metallicity_log10_zsun", "dust_tau2", "dust_index", "agn_tau_ln", "mass_log10_msun"):
            up, down = (galaxies._replace(**{name: getattr(galaxies, name) + s}) for s in (1e-6, -1e-6))
            np.testing.assert_allclose(getattr(gradient, name), (total(up) - total(down)) / 2e-6, rtol=1e-4, atol=1e-5)


def test_gradient_without_dust_is_finite(network):
    engine = load_photometry(config(network)).engine
    galaxies = Galaxies(*map(jnp.asarray, random_galaxies(4, dust_tau2=0.0)))
    gradient = jax.jit(jax.grad(lambda g: jnp.sum(galaxy_magnitudes(g, engine))))(galaxies)
    assert all(np.isfinite(np.asarray(v)).all() for v in gradient)


def test_errors_name_the_file_and_what_it_lacks(tmp_path, network):
    with pytest.raises(ValueError, match=r"none\.npz"):
        load_photometry(config(str(tmp_path / "none.npz")))
    swapped = list(EMULATOR_PARAMETERS)[::-1]
    with pytest.raises(ValueError, match=r"in this order, got \['zred'"):
        load_photometry(config(write_network(tmp_path / "swapped.npz", param_names=np.array(swapped))))
    with np.load(network) as arrays:
        np.savez(tmp_path / "short.npz", **{k: arrays[k] for k in arrays.files if k != "sub1_W2"})
    with pytest.raises(ValueError, match=r"expected arrays \['sub1_W2'\]"):
        load_photometry(config(str(tmp_path / "short.npz")))
    with pytest.raises(ValueError, match="band wise2010-W2"):
        load_photometry(config(network, bands=("wise2010-W2",)))
