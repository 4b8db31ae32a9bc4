"""The learned density of summaries against one that is known, and what it sees that normal tests of the same columns do not."""

import numpy as np
import torch
from scipy import stats

from inference.density import SummaryDensity
from inference.standardise import Whitening
from inference.train import Settings, optimise, shuffled

SURVEYS, HELD, ERROR = 8192, 2048, 0.2


def summaries(count, seed, contradiction=0.0):
    """An estimate of Θ, and one of Θ² with an error of .2, moved by so many of its errors."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform(-1.5, 1.5, count)
    return torch.tensor(np.stack([theta, theta**2 + ERROR * (contradiction + rng.normal(size=count))], 1), dtype=torch.float32)


def exact(summary, whitening):
    """ln p of the components: uniform in Θ, normal in the error, and the determinant of the linear map to components."""
    theta, square = summary.double().numpy().T
    jacobian = np.linalg.slogdet((whitening.projection / whitening.sd[:, None]).double().numpy())[1]
    return np.log(1 / 3) + stats.norm(theta**2, ERROR).logpdf(square) - jacobian


def test_density_is_the_exact_one_and_low_where_columns_contradict_each_other():
    table, held, wrong = summaries(SURVEYS, 0), summaries(HELD, 1), summaries(HELD, 3, contradiction=5.0)
    torch.manual_seed(0)
    net = SummaryDensity(Whitening.fit(table), hidden=32)
    rows = shuffled(SURVEYS, 128, 2)
    optimise(net, net.loss, lambda s: (table[rows(s)],), lambda: float(net.loss(held).mean()), Settings(640, 64, 1e-2, patience=10))
    with torch.no_grad():
        found, of_wrong = net(held).numpy(), net(wrong).numpy()
        truth, components, others = exact(held, net.whitening), net.whitening(held).numpy(), net.whitening(wrong).numpy()
    lost = truth - found
    assert -5 * lost.std() / HELD**0.5 < lost.mean() < 0.25  # a flow of affine layers has no edges as sharp as those of a uniform law
    normal = stats.multivariate_normal(components.mean(0), np.cov(components.T))
    assert (truth - normal.logpdf(components)).mean() > 0.5  # what the first bound would catch
    power, blind = (np.mean(np.less.outer(b, a)) for a, b in ((found, of_wrong), (normal.logpdf(components), normal.logpdf(others))))
    assert power > 0.95
    assert blind < 0.85  # the distance that Mahalanobis measures says less
