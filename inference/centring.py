r"""What the learned score of a survey is on average at its own Θ, and its ln N, as functions of Θ.

The score has mean zero at the truth: $E[\sum_i g(d_i, \Theta) \mid \Theta] = 0$. A network g that is off by a hundredth of its spread an
object is off by N hundredths a survey, more than the spread $\sqrt N$ of the sum, and the weak directions of the information enlarge that.
The mean over an object is a smooth function $b(\Theta)$, which sums over surveys at their truths fix. A polynomial of P coefficients is
known to $\sqrt{P/n}$ of the spread of a survey's sum from n surveys, in every direction alike, but b is not smooth enough for cubics where
surveys are large, and small networks (`MeanScore`) follow it closer. Numbers are Poisson: $\ln N$ follows $\lambda(\Theta)$ in the same
way, and there polynomials do.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["MeanScore", "Polynomial"]

DEGREE = 3
REACH = 3.0  # beyond, in units of the prior, a polynomial goes on as at its edge
FOLDS = 5
PENALTY = 1.0  # of a squared coefficient, in units of one survey's squared error
WIDTH = 128
FLAT = 1e-5  # a direction in which scores of objects vary less, in units of the most varied, is a constant: the amplitude of the rate


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
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            return torch.autograd.grad(self(y)[:, output].sum(), y)[0]  # torch.func would do, and imports a compiler for seconds


class MeanScore(nn.Module):
    """Networks for the mean of scores given y, trained in units of their noise.

    Outputs are in a frame in which scores of single objects are uncorrelated and of unit spread, so that squared errors see the weak
    directions of the information, which matter most after a Newton step, as well as the strong ones.

    Args:
        size: number of parameters.
        members: networks, each a line and a perceptron beside it; their mean counts.
    """

    whiten: Tensor
    colour: Tensor
    scale: Tensor

    def __init__(self, size: int, members: int) -> None:
        super().__init__()
        for name in ("whiten", "colour"):
            self.register_buffer(name, torch.zeros(size, size))
        self.register_buffer("scale", torch.ones(size))  # of what the perceptrons add to the lines
        self.lines = nn.ModuleList(nn.Linear(size, size) for _ in range(members))
        self.curves = nn.ModuleList(_perceptron(size) for _ in range(members))

    def start(
        self,
        y: Float[Tensor, "row parameter"],
        means: Float[Tensor, "row parameter"],
        weight: Float[Tensor, "row"],
        covariance: Float[Tensor, "parameter parameter"],
    ) -> MeanScore:
        """Fix the frame by the covariance of single scores at the truth, the lines by least squares; returns itself.

        Args:
            y: true parameters of the surveys.
            means: mean scores of their objects at the truth.
            weight: numbers of objects.
            covariance: of the scores of single objects at the truth.
        """
        values, vectors = torch.linalg.eigh(covariance.double())
        noise = torch.where(values > FLAT * values.max(), values, torch.inf).sqrt() / weight.double().mean().sqrt()
        varied = torch.isfinite(noise)
        target = means.double() @ (vectors / noise)
        line, share = torch.cat([torch.ones_like(y[:, :1]), self._inside(y)], 1).double(), (weight / weight.mean()).double()[:, None]
        solved = torch.linalg.solve((line * share).T @ line + PENALTY * torch.eye(line.shape[1]).to(line), (line * share).T @ target)
        with torch.no_grad():
            self.whiten.copy_(vectors / noise)
            self.colour.copy_((vectors * torch.where(varied, noise, 0.0)).T)
            self.scale.copy_((target - line @ solved).std(0))
            for layer in self.lines:
                layer.weight.copy_(solved[1:].T)  # type: ignore[union-attr,operator]
                layer.bias.copy_(solved[0])  # type: ignore[union-attr,operator]
        return self

    def loss(
        self, y: Float[Tensor, "row parameter"], means: Float[Tensor, "row parameter"], weight: Float[Tensor, "row"]
    ) -> Float[Tensor, "row"]:
        """Squared errors in units of the noise of mean `weight`, each network by itself."""
        target = means @ self.whiten
        return (weight / weight.mean()) * torch.stack([((each(y) - target) ** 2).mean(-1) for each in self._members()]).mean(0)

    def errors(self, residual: Float[Tensor, "row parameter"], weight: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Mean squares, in the units of `loss`, of what is left of mean scores."""
        return (weight / weight.mean()) * ((residual @ self.whiten) ** 2).mean(-1)

    def forward(self, y: Float[Tensor, "row parameter"]) -> Float[Tensor, "row parameter"]:
        """Mean score at each y."""
        return torch.stack([each(y) for each in self._members()]).mean(0) @ self.colour

    def _members(self) -> list[Callable[[Tensor], Tensor]]:
        def member(line: nn.Module, curve: nn.Module) -> Callable[[Tensor], Tensor]:
            return lambda y: line(self._inside(y)) + self.scale * curve(self._inside(y))

        return [member(line, curve) for line, curve in zip(self.lines, self.curves, strict=True)]

    @staticmethod
    def _inside(y: Tensor) -> Tensor:
        return y.clamp(-REACH, REACH)


def _perceptron(size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, size))
