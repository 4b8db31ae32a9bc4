r"""What the learned score of a survey is on average at its own Θ, and its ln N, as polynomials of Θ.

The score has mean zero at the truth: $E[\sum_i g(d_i, \Theta) \mid \Theta] = 0$. A network g that is off by a hundredth of its spread an
object is off by N hundredths a survey, more than the spread $\sqrt N$ of the sum, and the weak directions of the information enlarge that.
The mean over an object is a smooth function $b(\Theta)$ with few coefficients, which the sums of n surveys fix to $\sqrt{P/n}$ of their own
spread, P the number of coefficients, in every direction alike. Numbers are Poisson: $\ln N$ follows $\lambda(\Theta)$ in the same way.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Polynomial"]

DEGREE = 3
REACH = 3.0  # beyond, in units of the prior, a polynomial goes on as at its edge
FOLDS = 5
PENALTY = 1.0  # of a squared coefficient, in units of one survey's squared error


class Polynomial(nn.Module):
    """Polynomials of y up to the third degree, zero until they are fitted.

    Args:
        inputs, outputs: length of y, and number of polynomials.
    """

    pairs: Tensor
    triples: Tensor
    coefficients: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        for degree, name in ((2, "pairs"), (3, "triples")):
            index = torch.tensor(list(combinations_with_replacement(range(inputs), degree))).T
            self.register_buffer(name, index, persistent=False)
        self.sizes = [1, inputs, self.pairs.shape[1], self.triples.shape[1]]
        self.register_buffer("coefficients", torch.zeros(sum(self.sizes), outputs))

    def terms(self, y: Float[Tensor, "row input"]) -> Float[Tensor, "row term"]:
        """Every product of up to three entries of y."""
        y = y.clamp(-REACH, REACH)
        second, third = (y[:, index].prod(1) for index in (self.pairs, self.triples))
        return torch.cat([torch.ones_like(y[:, :1]), y, second, third], 1)

    def fit(self, y: Float[Tensor, "row input"], values: Float[Tensor, "row output"], weight: Float[Tensor, "row"]) -> Polynomial:
        """Least squares of the degree that does best on rows left out in turn; returns itself."""
        terms, values, weight = self.terms(y).double(), values.double(), weight.double() / weight.double().mean()
        scale, fold = values.var(0).clamp(min=1e-12), torch.arange(len(y), device=y.device) % FOLDS

        def solved(size: int, rows: Tensor) -> Tensor:
            t, w = terms[rows, :size], weight[rows, None]
            normal = (t * w).T @ t + PENALTY * torch.eye(size, dtype=t.dtype, device=t.device)
            return torch.linalg.solve(normal, (t * w).T @ values[rows])

        def error(size: int) -> float:
            residual = torch.cat([values[fold == k] - terms[fold == k, :size] @ solved(size, fold != k) for k in range(FOLDS)])
            order = torch.cat([weight[fold == k] for k in range(FOLDS)])
            return float((order[:, None] * residual**2 / scale).mean())

        size = min((sum(self.sizes[: degree + 1]) for degree in range(DEGREE + 1)), key=error)
        self.coefficients.zero_()
        self.coefficients[:size] = solved(size, fold >= 0).to(self.coefficients)
        return self

    def forward(self, y: Float[Tensor, "row input"]) -> Float[Tensor, "row output"]:
        """The polynomials at each y."""
        return self.terms(y) @ self.coefficients

    def slope(self, y: Float[Tensor, "row input"], output: int) -> Float[Tensor, "row input"]:
        """Gradient of one of them at each y."""
        return torch.func.vmap(torch.func.grad(lambda one: self(one[None])[0, output]))(y)
