"""Strict JAX types and one numerical environment for every test."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks; more threads lose on a shared machine
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def key():
    """The fixed key that statistical tests start from."""
    return jax.random.key(20251121)
