"""Written-out factors and solutions are those of numpy and scipy, in value and derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.sharding import Mesh

from cigars.schema import FIDUCIAL, Globals, Latents, Observations
from simulators.candidates import Matches
from simulators.count_surface import CountSurface, _monomials
from simulators.latents import draw_latents
from simulators.likelihood import ln_likelihood
from simulators.score import joint_score
from simulators.small_matrices import cholesky, cholesky_solve, solve_lower
from simulators.survey import _sharded


def matrices(size, count=50):
    rng = np.random.default_rng(size)
    a = rng.normal(size=(count, size, size))
    return a @ a.transpose(0, 2, 1) + 0.1 * np.eye(size), rng.normal(size=(count, size, 2))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_factors_and_solutions_are_those_of_lapack(size):
    """In float32 relative to the largest entry, times the condition of the matrix, at most some 300 here for the size."""
    matrix, right = matrices(size)
    root = np.linalg.cholesky(matrix)
    found = cholesky(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(found, root, atol=1e-5 * np.abs(root).max())
    assert (np.triu(np.asarray(found), 1) == 0).all()
    condition = np.linalg.cond(matrix)[:, None, None]
    for mine, theirs in (
        (solve_lower, np.stack([scipy.linalg.solve_triangular(r, b, lower=True) for r, b in zip(root, right, strict=True)])),
        (cholesky_solve, np.linalg.solve(matrix, right)),
    ):
        error = np.abs(np.asarray(mine(jnp.asarray(root, jnp.float32), jnp.asarray(right, jnp.float32))) - theirs)
        assert (error <= 3e-6 * condition * (1 + np.abs(theirs).max((1, 2), keepdims=True))).all()
    if size > 1:
        swapped = np.asarray(cholesky_solve(jnp.asarray(root.transpose(0, 2, 1)), jnp.asarray(right)))
        assert np.abs(swapped - np.linalg.solve(matrix, right)).max() > 0.1


def test_the_derivative_is_that_of_the_solution():
    """d(A⁻¹ b) = −A⁻¹ dA A⁻¹ b."""
    (matrix, *_), (right, *_) = matrices(3)
    step = np.array([[0.3, 0.1, 0.0], [0.1, -0.2, 0.4], [0.0, 0.4, 0.1]])
    solve = lambda a: cholesky_solve(cholesky(a), jnp.asarray(right, jnp.float32))  # noqa: E731
    _, found = jax.jvp(solve, (jnp.asarray(matrix, jnp.float32),), (jnp.asarray(step, jnp.float32),))
    expected = -np.linalg.solve(matrix, step @ np.linalg.solve(matrix, right))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_matrix_that_is_not_positive_definite_gives_nan():
    assert np.isnan(np.asarray(cholesky(jnp.array([[1.0, 2.0], [2.0, 1.0]])))[1, 1])


def test_nothing_in_the_likelihood_waits_for_lapack(config, bank, key):
    """Batched LAPACK calls of jaxlib can wait for one another for ever, see the module."""
    from cigars.schema import FIDUCIAL, Observations
    from simulators.candidates import known_hosts
    from simulators.likelihood import ln_rates
    from simulators.score import joint_score
    from simulators.survey import draw_surveys, prepare

    simulator = prepare(config, bank)
    survey = jax.device_get(draw_surveys(key, jnp.arange(1), simulator, config, FIDUCIAL))
    seen = survey.observed[0]
    matches = known_hosts(Observations(*(leaf[0][seen] for leaf in survey.observations)), survey.host[0][seen], simulator, config)
    slope = jax.jit(jax.grad(lambda theta: ln_rates(theta, matches, config).sum()))
    assert "lapack" not in slope.lower(jax.tree.map(jnp.float32, FIDUCIAL)).as_text()
    names = tuple(config.marginals)
    theta = np.tile([getattr(FIDUCIAL, name) for name in names], (int(seen.sum()), 1)).astype(np.float32)
    objects = [type(leaves)(*(leaf[0][seen] for leaf in leaves)) for leaves in (survey.observations, survey.latents)]
    joint = jax.jit(lambda *data: joint_score(*data, config))
    assert "lapack" not in joint.lower(theta, *objects).as_text()
    assert "lapack" in jax.jit(jnp.linalg.cholesky).lower(jnp.eye(3)[None]).as_text()


def test_no_product_is_left_to_the_precision_of_the_device(yearly, config):
    """A GPU's would be 10 bits. To ask for them is an error on a CPU, for every product that does not state its own."""
    zeros, whole = (lambda *shape, dtype=dtype: jnp.zeros(shape, dtype) for dtype in (jnp.float32, jnp.int32))
    light = {"m": zeros(3), "light": zeros(3, 4), "noise": zeros(3, 4, 4), "precision": zeros(3), "hosts": yearly.table[:3]}
    pairs = {"host": whole(3), "owner": whole(3), "ln_fixed": zeros(3), "grey": zeros(3), "place": whole(3, 1), "row": whole(3, 1)}
    matches = Matches(**light, **pairs)
    surface = CountSurface(zeros(15), zeros(15), zeros(len(_monomials(zeros(15)))), 0.0)
    theta, thetas = (Globals(*(jnp.full(shape, value, jnp.float32) for value in FIDUCIAL)) for shape in ((), (2,)))
    mag, column = zeros(3, len(config.hosts.bands)), zeros(3)
    observations = Observations(**dict.fromkeys(Observations._fields, column) | {"mag": mag, "mag_err": mag})
    latents = Latents(*[column] * len(Latents._fields))
    region = {"names": ["Om0", "Ode0"], "centre": [0.3, 0.7], "directions": [[1, 0], [-1, 1]], "limits": [[-0.1, 0.1], [-0.1, 0.1]]}
    inside, mesh = config.updated(**{"prior.region": region}), Mesh(np.array(jax.local_devices()[:1]), ("survey",))
    with jax.default_matmul_precision("TF32_TF32_F32"):
        traced = [
            ln_likelihood.trace(theta, matches, yearly, config, 1.0, 1 << 9, surface),
            draw_latents.trace(jax.random.key(0), thetas, whole(2, 3), matches, yearly, config),
            jax.jit(joint_score, static_argnums=3).trace(zeros(3, len(config.marginals)), observations, latents, config),
            _sharded.trace(jax.random.key(0), whole(2), yearly, None, inside, 64, mesh, True),
        ]
        plain = jax.jit(jnp.matmul).trace(zeros(2, 2), zeros(2, 2))
    for trace in traced:
        trace.lower(lowering_platforms=("cpu",))
    with pytest.raises(ValueError, match="TF32_TF32_F32"):
        plain.lower(lowering_platforms=("cpu",))
