"""A posterior has names and objects, repeats under its seed, survives its file, and knows what it was not given."""

import arviz
import numpy as np
import pytest
import torch
from astropy.table import Table
from scipy import stats

from cigars.catalogue import CatalogueError, select
from cigars.catalogue_checks import TargetWarning
from cigars.config import ConfigError, load_config
from cigars.files import FileError
from cigars.infer import draw_hosts, gathered, hide, infer
from cigars.posterior import Posterior
from cigars.posterior_file import read_posterior, save_posterior
from cigars.runs import run_config
from cigars.schema import LOCALS, Observations
from inference.model import load_run

BANDS = tuple("ugrizy")


def values(data, name):
    return data["posterior"][name].values


def test_parameters_are_named_and_objects_have_their_dimension(posterior, catalogue, workplace):
    config = load_config(workplace.config)
    data = posterior["posterior"]
    for name in config.marginals:
        assert data[name].dims == ("chain", "draw")
    for name in LOCALS:
        assert data[name].dims == ("chain", "draw", "object")
    assert set(data.data_vars) == set(config.marginals) | set(LOCALS)
    assert dict(data.sizes) == {"chain": 1, "draw": 40, "object": len(catalogue.id)}
    assert list(data["object"].values) == list(catalogue.id)
    observed = posterior["observed_data"]
    assert observed["mag"].dims == ("object", "band")
    assert tuple(observed["band"].values) == BANDS
    np.testing.assert_array_equal(observed["m"], catalogue.observations.m)


def test_draws_are_inside_the_prior(posterior, workplace):
    for name, marginal in load_config(workplace.config).marginals.items():
        draws = values(posterior, name)
        assert np.isfinite(draws).all()
        assert marginal.low <= draws.min()
        assert draws.max() <= marginal.high
    assert (values(posterior, "z") > 0).all()


def test_it_is_read_back_by_arviz_and_by_us(posterior, tmp_path):
    path = save_posterior(tmp_path / "p.nc", posterior)
    for data in (arviz.from_netcdf(str(path)), read_posterior(path)):
        for name in posterior["posterior"].data_vars:
            np.testing.assert_array_equal(values(data, name), values(posterior, name))
        assert data["posterior"].attrs["command"] == "a test"
        assert data["posterior"].attrs["fingerprint"] == posterior["posterior"].attrs["fingerprint"]
        assert float(arviz.summary(data, var_names=["Om0"], kind="stats")["mean"].iloc[0]) == pytest.approx(
            float(values(posterior, "Om0").mean()), abs=1e-3
        )
    with pytest.raises(FileError, match="exists already"):
        save_posterior(path, posterior)


def test_the_seed_decides_the_draws(posterior, workplace, catalogue):
    again = infer(workplace.run, catalogue, draws=40, seed=3)
    other = infer(workplace.run, catalogue, draws=40, seed=4)
    for name in ("Om0", "z"):
        np.testing.assert_array_equal(values(again, name), values(posterior, name))
        assert not np.array_equal(values(other, name), values(posterior, name))


def test_ids_and_files_that_cannot_be_written_are_refused_before_anything_is_drawn(workplace, catalogue, tmp_path, monkeypatch):
    odd = catalogue._replace(id=np.array(["é", *catalogue.id[1:]]))
    options = {"draws": 5, "output": tmp_path / "p.nc"}
    infer(workplace.run, odd, hosts=tmp_path / "hosts.ecsv", **options)
    assert Table.read(tmp_path / "hosts.ecsv")["id"][0] == "é"
    monkeypatch.delattr("inference.posterior.GlobalPosterior.sample")
    with pytest.raises(CatalogueError, match=r"hosts\.fits: expected ASCII text"):
        infer(workplace.run, odd, hosts=tmp_path / "hosts.fits", overwrite=True, **options)
    with pytest.raises(CatalogueError, match=r"hosts\.txt: expected an extension of"):
        infer(workplace.run, catalogue, draws=5, hosts=tmp_path / "hosts.txt")
    with pytest.raises(FileError, match="does not exist; make it first"):
        infer(workplace.run, catalogue, draws=5, output=tmp_path / "absent" / "p.nc")


def test_inference_leaves_the_random_state_of_torch_alone(workplace, catalogue):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    infer(workplace.run, catalogue, draws=2)
    assert torch.equal(torch.rand(3), expected)


def test_what_is_hidden_cannot_be_seen(workplace, catalogue):
    """With sn hidden the light may be anything; without, it matters. So with redshifts."""
    o = catalogue.observations
    brighter = catalogue._replace(observations=o._replace(m=o.m - np.float32(0.1)))
    a, b = (infer(workplace.run, c, draws=5) for c in (catalogue, brighter))
    assert not np.array_equal(values(a, "Om0"), values(b, "Om0"))
    with pytest.warns(TargetWarning, match="saw no survey without sn"):
        a, b = (infer(workplace.run, c, draws=5, hidden=["sn"]) for c in (catalogue, brighter))
    np.testing.assert_array_equal(values(a, "z"), values(b, "z"))
    assert np.isnan(a["observed_data"]["m"]).all()
    assert a["posterior"].attrs["hidden"] == "sn"
    assert np.isfinite(o.z_spec).any()
    nothing = catalogue._replace(observations=o._replace(z_spec=o.z_spec * np.nan, z_spec_err=o.z_spec * np.nan))
    with pytest.warns(TargetWarning, match="saw no survey without z_spec"):
        without, of_nothing = (infer(workplace.run, c, draws=5, hidden=["z_spec"]) for c in (catalogue, nothing))
    np.testing.assert_array_equal(values(without, "z"), values(of_nothing, "z"))
    with pytest.warns(TargetWarning, match="0% of the objects have a spectroscopic redshift"):
        infer(workplace.run, nothing, draws=5)


def test_parameters_are_those_of_the_prior_where_their_networks_would_not_know(workplace, catalogue):
    """A network of Θ that never saw surveys without supernova light gives a narrow and wrong answer for one."""
    with pytest.warns(TargetWarning, match="Θ is drawn from its prior"):
        found = infer(workplace.run, catalogue, draws=400, hidden=["sn"])
    prior = run_config(workplace.run).marginals["Om0"]
    assert stats.kstest(values(found, "Om0").ravel(), "uniform", (prior.low, prior.high - prior.low)).pvalue > 1e-3
    seen = infer(workplace.run, catalogue, draws=400)
    assert stats.kstest(values(seen, "Om0").ravel(), "uniform", (prior.low, prior.high - prior.low)).pvalue < 1e-3
    with pytest.raises(ValueError, match="got its prior, as sn was hidden"):
        Posterior(found).log_prob(Posterior(found).marginal())
    assert np.isfinite(Posterior(found).reweight({"Om0": {"normal": [0.4, 0.3], "within": [0, 0.8]}}).marginal()).all()


def test_objects_that_lack_what_none_lacked_in_the_training_are_refused(workplace, catalogue):
    """One without its u band, one without a stretch: the networks of Θ never saw either."""
    o = catalogue.observations
    mag, mag_err, x = np.array(o.mag), np.array(o.mag_err), np.array(o.x)
    mag[1, 0] = mag_err[1, 0] = x[2] = np.nan
    lacking = catalogue._replace(observations=o._replace(mag=mag, mag_err=mag_err, x=x))
    with pytest.raises(CatalogueError, match=r"got 1 without mag_u, 1 without x; leave .* --drop-outside"):
        infer(workplace.run, lacking)
    with pytest.warns(TargetWarning, match="2 of 58 objects are left out"):
        left = infer(workplace.run, lacking, draws=5, drop_outside=True)
    assert list(left["posterior"]["object"].values) == [name for k, name in enumerate(catalogue.id) if k not in (1, 2)]
    mag[:, 0] = mag_err[:, 0] = np.nan
    with pytest.raises(CatalogueError, match="got none of 58"):
        infer(workplace.run, catalogue._replace(observations=o._replace(mag=mag, mag_err=mag_err)), drop_outside=True)
    with pytest.warns(TargetWarning):  # each object on its own is known without bands
        assert len(infer(workplace.run, lacking, draws=5, hidden=["sn"])["posterior"]["object"]) == len(catalogue.id)


def test_objects_left_out_count_in_their_number(workplace, catalogue):
    """The number carries the rates: that of the catalogue, not that of what is left."""
    mag = np.array(catalogue.observations.mag)
    mag[:3, 0] = 45
    with pytest.warns(TargetWarning, match="3 of 58"):
        left = infer(workplace.run, catalogue._replace(observations=catalogue.observations._replace(mag=mag)), draws=5, drop_outside=True)
    assert int(Posterior(left, workplace.run)._survey().number[0]) == len(catalogue.id)
    few = infer(workplace.run, select(catalogue, np.arange(3, len(catalogue.id))), draws=5)
    assert not np.array_equal(values(left, "dtd_logA"), values(few, "dtd_logA"))


def test_hiding_blanks_its_columns_and_no_other(catalogue):
    hidden = hide(catalogue.observations, ["sn"])
    blank = {n for n in Observations._fields if not np.array_equal(getattr(hidden, n), getattr(catalogue.observations, n), equal_nan=True)}
    assert blank == {"m", "x", "c", "var_m", "var_x", "var_c", "cov_mx", "cov_mc", "cov_xc"}
    assert all(np.isnan(getattr(hidden, n)).all() for n in blank)
    with pytest.raises(ConfigError, match="'sn', 'z_spec'"):
        hide(catalogue.observations, ["mag"])


def test_objects_unlike_those_of_the_training_are_counted(workplace, catalogue):
    mag = catalogue.observations.mag.copy()
    mag[:3, 0] = 45
    strange = catalogue._replace(observations=catalogue.observations._replace(mag=mag))
    with pytest.raises(CatalogueError, match=r"mag_u: 3 outside \[.*\], the farthest 45"):
        infer(workplace.run, strange)
    with pytest.raises(CatalogueError, match="number of objects"):
        infer(workplace.run, select(catalogue, np.arange(2)))


def test_strange_objects_are_left_out_on_request_judged_by_what_is_not_hidden(workplace, catalogue):
    o = catalogue.observations
    far = np.arange(len(o.m)) < 3
    z_spec, z_spec_err = (np.where(far, value, given).astype(np.float32) for value, given in ((9.0, o.z_spec), (5e-4, o.z_spec_err)))
    strange = catalogue._replace(observations=o._replace(z_spec=z_spec, z_spec_err=z_spec_err))
    with pytest.warns(TargetWarning, match="are left out"):
        left = infer(workplace.run, strange, draws=2, drop_outside=True)
    assert list(left["posterior"]["object"].values) == list(catalogue.id[3:])
    assert left["posterior"].attrs["dropped"] == 3
    with pytest.warns(TargetWarning, match="drawn from its prior"):
        every = infer(workplace.run, strange, draws=2, drop_outside=True, hidden=["z_spec"])
    assert len(every["posterior"]["object"]) == len(catalogue.id)


def test_other_files_are_no_posterior(workplace, posterior, tmp_path):
    path = save_posterior(tmp_path / "p.nc", posterior)
    (tmp_path / "half.nc").write_bytes(path.read_bytes()[:2000])
    for wrong in (workplace.mock, tmp_path / "half.nc", tmp_path / "absent.nc"):
        with pytest.raises(FileError, match="expected a posterior that `cigars infer` wrote"):
            read_posterior(wrong)


def test_exposure_is_seen_and_recorded(workplace, catalogue):
    short, long = (infer(workplace.run, catalogue, draws=20, exposure=e)["posterior"] for e in (0.9, 1.3))
    assert (short.attrs["exposure"], long.attrs["exposure"]) == (0.9, 1.3)
    assert not np.array_equal(short["dtd_logA"], long["dtd_logA"])


@pytest.mark.parametrize("exposure", [0.0, 0.1, 5.0])
def test_exposures_beyond_the_training_are_refused(workplace, catalogue, exposure):
    with pytest.raises(CatalogueError, match=rf"exposure: expected within \[0.5, 2\], got {exposure:g}"):
        infer(workplace.run, catalogue, exposure=exposure)


def test_a_number_that_its_exposure_does_not_allow_is_refused(workplace, catalogue):
    """Though surveys of other exposures had as many objects: at a wrong exposure rates would be off by the factor."""
    low, high = load_run(workplace.run).meta["number_range"]
    assert low < len(catalogue.id) < high
    for exposure in (0.5, 2.0):
        with pytest.raises(CatalogueError, match=r"number of objects: 1 outside .*; give the exposure of this survey"):
            infer(workplace.run, catalogue, exposure=exposure)


def test_a_rate_far_from_its_prior_asks_for_the_exposure(workplace, catalogue, monkeypatch):
    """Networks are as sure of themselves at a wrong exposure."""

    def far(self, draws, survey, seed=0):
        return self.prior.mean.expand(draws, 1, -1) - 0.4 * (torch.arange(len(self.names)) == self.names.index("dtd_logA"))

    monkeypatch.setattr("inference.posterior.GlobalPosterior.sample", far)
    with pytest.warns(TargetWarning, match=r"dtd_logA = -12\.55 ± .* is 4\.0 sd .* these 58 objects 1\.5, 90 supernovae expected"):
        infer(workplace.run, catalogue, draws=4, exposure=1.5)
    strange = catalogue._replace(observations=hide(catalogue.observations, ["sn"]))
    with pytest.warns(TargetWarning) as said:  # of a prior nothing is asked
        infer(workplace.run, strange, draws=4, hidden=["sn"])
    assert not any("exposure" in str(w.message) for w in said)


def test_an_exposure_that_is_not_given_is_said(cigars, workplace, tmp_path):
    words = ["infer", workplace.run, workplace.mock, "--draws", 4, "--device", "cpu", "--overwrite", "-o", tmp_path / "p.nc"]
    said = "exposure 1 is assumed, 60 supernovae expected at the fiducial parameters; give --exposure for another"
    assert said in cigars(*words).err.splitlines()
    assert "assumed" not in cigars(*words, "--exposure", 1.1).err


def test_an_exposure_of_zero_is_not_the_default(refused, workplace, tmp_path):
    said = refused("infer", workplace.run, workplace.mock, "-o", tmp_path / "p.nc", "--exposure", 0)
    assert "exposure: expected within [0.5, 2], got 0" in said


def test_a_file_written_by_blocks_holds_the_same_draws(workplace, catalogue, posterior, tmp_path):
    done, path = [], tmp_path / "p.nc"
    report = lambda stage, n, of: done.append((stage, n, of))  # noqa: E731
    data = infer(workplace.run, catalogue, draws=40, seed=3, command="a test", output=path, report=report)
    size = len(catalogue.id)
    assert done[-1] == ("infer", size, size)
    assert dict(data["posterior"].sizes) == dict(posterior["posterior"].sizes)
    for name in posterior["posterior"].data_vars:
        np.testing.assert_array_equal(values(data, name), values(posterior, name))
    assert data["posterior"].attrs["command"] == "a test"
    np.testing.assert_array_equal(data["observed_data"]["mag"], catalogue.observations.mag)
    with pytest.raises(FileError, match="exists already"):
        infer(workplace.run, catalogue, draws=2, output=path)


def test_objects_are_drawn_at_the_theta_of_the_same_draw(posterior, workplace, catalogue):
    """Drawn again at the Θ that the posterior holds they are the same; at Θ in another order they are not."""
    trained = load_run(workplace.run)
    theta = np.stack([values(posterior, n)[0] for n in trained.names], -1)
    z = values(posterior, "z")[0]
    again, turned = (gathered(draw_hosts(trained, catalogue, t, 4), *z.shape)[..., 0] for t in (theta, theta[::-1]))
    np.testing.assert_array_equal(again, z)
    assert not np.array_equal(turned, z)


def test_the_table_of_hosts_summarises_the_draws_beside_it(workplace, catalogue, posterior, tmp_path):
    infer(workplace.run, catalogue, draws=40, seed=3, hosts=tmp_path / "hosts.fits")
    table = Table.read(tmp_path / "hosts.fits")
    assert list(table["id"]) == list(catalogue.id)
    z, om0 = values(posterior, "z")[0].astype(float), values(posterior, "Om0")[0].astype(float)
    np.testing.assert_allclose(table["z_mean"], z.mean(0), rtol=1e-5)
    expected = [np.cov(z[:, i], om0)[0, 1] for i in range(z.shape[1])]
    np.testing.assert_allclose(table["z_cov_Om0"], expected, rtol=1e-3, atol=1e-7)


def test_results_follow_the_identifiers_whatever_the_order_of_the_rows(workplace, catalogue, posterior):
    order = np.random.default_rng(1).permutation(len(catalogue.id))
    shuffled = infer(workplace.run, select(catalogue, order), draws=40, seed=3)
    assert list(shuffled["posterior"]["object"].values) == list(catalogue.id[order])
    np.testing.assert_array_equal(values(shuffled, "Om0"), values(posterior, "Om0"))
    np.testing.assert_allclose(values(shuffled, "z"), values(posterior, "z")[..., order], atol=1e-4)  # float32 sums in another order
    renamed = infer(workplace.run, catalogue._replace(id=catalogue.id[::-1]), draws=40, seed=3)
    assert float(np.abs(values(renamed, "z") - values(posterior, "z")).max()) > 0.01  # another name has other random numbers


def test_what_does_not_fit_is_refused_with_its_size_before_anything_is_drawn(catalogue, tmp_path):
    """The run does not even exist: nothing was read."""
    with pytest.raises(FileError, match=r"p.nc: 1,000,000,000 draws of \d+ objects need [\d.e+]+ GB, but .* are free; ask for at most"):
        infer("nowhere", catalogue, draws=10**9, output=tmp_path / "p.nc")
    assert not list(tmp_path.iterdir())


def test_ids_that_repeat_are_refused(workplace, catalogue):
    twice = catalogue._replace(id=np.array([*catalogue.id[:-1], catalogue.id[0]]))
    with pytest.raises(CatalogueError, match="expected unique identifiers, got 1 repeated"):
        infer(workplace.run, twice, draws=2)
