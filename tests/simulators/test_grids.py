"""Linear interpolation by cells is that of numpy, and stays in the table beyond its ends."""

import jax.numpy as jnp
import numpy as np

from simulators.grids import cell_at


def test_interpolation_by_cells_is_that_of_numpy():
    table, position = np.array([3.0, -1.0, 4.0, 1.0], np.float32), np.linspace(-2, 5, 701, dtype=np.float32)
    cell, place = (np.asarray(v) for v in cell_at(jnp.asarray(position), len(table)))
    found = table[cell] * (1 - place) + table[cell + 1] * place
    np.testing.assert_allclose(found, np.interp(position, np.arange(4), table), atol=2e-6)  # float32
    assert cell.min() == 0
    assert cell.max() == 2  # the last node is the end of the last cell
