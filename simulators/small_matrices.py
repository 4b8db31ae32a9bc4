"""Cholesky factors of many small matrices, written out: one fused pass over all of them on any device; and products that keep their digits.

LAPACK's batched triangular solver of jaxlib 0.10 waits, inside a thread of XLA's pool, for work that it hands to the same pool: on two
cores two solvers that run side by side can wait for ever. Matrices here have two to six rows, too few for LAPACK to gain anything.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["cholesky", "cholesky_solve", "product", "solve_lower"]


def product(a: Array, b: Array) -> Array:
    """A b in full single precision: by default a GPU multiplies with 10 bits, which would leave ln λ an error of up to .01."""
    return jnp.matmul(a, b, precision="highest")


def cholesky(matrix: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """Lower factor L of L Lᵀ; of each matrix the lower triangle is read. NaN where it is not positive definite."""
    size = matrix.shape[-1]
    root: list[list[Array]] = [[jnp.zeros_like(matrix[..., 0, 0])] * size for _ in range(size)]
    for j in range(size):
        root[j][j] = jnp.sqrt(matrix[..., j, j] - sum(root[j][k] ** 2 for k in range(j)))
        for i in range(j + 1, size):
            root[i][j] = (matrix[..., i, j] - sum(root[i][k] * root[j][k] for k in range(j))) / root[j][j]
    return jnp.stack([jnp.stack(row, -1) for row in root], -2)


def solve_lower(root: Float[Array, "*batch n n"], right: Float[Array, "*batch n column"]) -> Float[Array, "*batch n column"]:
    """L⁻¹ b of lower triangular L, by forward substitution."""
    x: list[Array] = []
    for i in range(root.shape[-1]):
        x.append((right[..., i, :] - sum(root[..., i, k, None] * x[k] for k in range(i))) / root[..., i, i, None])
    return jnp.stack(x, -2)


def cholesky_solve(root: Float[Array, "*batch n n"], right: Float[Array, "*batch n column"]) -> Float[Array, "*batch n column"]:
    """(L Lᵀ)⁻¹ b of the lower factor L, by forward and backward substitution."""
    x = list(jnp.moveaxis(solve_lower(root, right), -2, 0))
    for i in reversed(range(root.shape[-1])):
        x[i] = (x[i] - sum(root[..., k, i, None] * x[k] for k in range(i + 1, len(x)))) / root[..., i, i, None]
    return jnp.stack(x, -2)
