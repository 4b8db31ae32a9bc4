"""Surveys as a simulator gives them, drawn by numpy: survey i of a stream is a function of i alone."""

import numpy as np

from cigars.config import load_config
from cigars.schema import Globals, Latents, Observations, Survey

BANDS = 6
VERSIONS = {"numpy": "none"}


def surveys(first: int, count: int, mean: float = 6.0) -> Survey:
    """Surveys first … first + count − 1, of about `mean` objects, some of none, as the live source on a CPU returns them."""
    draws = [np.random.default_rng(i) for i in range(first, first + count)]
    number = np.array([d.poisson(mean) for d in draws], np.int32)
    most = max(int(number.max()), 1)
    observed = np.arange(most) < number[:, None]

    def objects(*trailing: int) -> np.ndarray:
        return np.stack([np.where(row.reshape(-1, *(1,) * len(trailing)), d.normal(size=(most, *trailing)), 0) for d, row in _rows()])

    def _rows():
        # as many numbers are drawn for a survey whatever its neighbours are: the width of the batch must not matter
        return [(_Wide(d), row) for d, row in zip(draws, observed, strict=True)]

    leaf = lambda *trailing: objects(*trailing).astype(np.float32)  # noqa: E731
    observations = Observations(*(leaf(BANDS) if name in ("mag", "mag_err") else leaf() for name in Observations._fields))
    observations = observations._replace(z_spec=np.where(observed & (observations.z_spec > 0), np.float32(np.nan), observations.z_spec))
    latents = Latents(*(leaf() for _ in Latents._fields))
    host = (1000 * leaf()).astype(np.int32)
    theta = Globals(*(np.array([d.normal() for d in draws], np.float32) for _ in Globals._fields))
    return Survey(theta, observations, latents, observed, host, number, np.array([d.uniform(0.5, 2) for d in draws], np.float32))


class _Wide:
    """Draws 64 rows of which the first are used."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def normal(self, size: tuple[int, ...]) -> np.ndarray:
        return self.generator.normal(size=(64, *size[1:]))[: size[0]]


def tiny(**changes):
    """A configuration whose bank is built in seconds."""
    return load_config("demo", **{"hosts.effective_hosts": 2000.0, "size.expected_supernovae": 40.0, "size.capacity": 256, **changes})


def leaves(tree) -> list[np.ndarray]:
    """Arrays of a NamedTuple of NamedTuples, in order."""
    return [leaf for branch in tree for leaf in leaves(branch)] if isinstance(tree, tuple) else [np.asarray(tree)]


def same(one, other) -> bool:
    """Whether two trees agree in shape, type and every bit."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    return all((a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes()) for a, b in pairs)
