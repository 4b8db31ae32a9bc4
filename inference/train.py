"""One training loop for every network: AdamW, cosine schedule, early stopping, whole checkpoints, exact resumption.

Batches are functions of the step number and the random state is reseeded from (seed, step), so that a resumed training
repeats an uninterrupted one bit for bit on the same machine.
"""

from __future__ import annotations

import io
import math
import time
import zipfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cigars.files import replacing

from .parallel import from_first, mean_loss, rank, share
from .threads import one_core

__all__ = [
    "Batches",
    "History",
    "Report",
    "Settings",
    "TrainingError",
    "load_checkpoint",
    "optimise",
    "random_state",
    "save_checkpoint",
    "shuffled",
    "silent",
]

Batches = Callable[[int], tuple[Any, ...]]
"""`batches(step)` gives the arguments of the loss at that step, the same whenever it is asked."""


class Report(Protocol):
    """Progress of a stage; metrics are numbers such as `loss` and `validation`."""

    def __call__(self, stage: str, done: int, total: int, **metrics: float) -> None: ...


def silent(stage: str, done: int, total: int, **metrics: float) -> None:
    """A report that says nothing."""


class TrainingError(ValueError):
    """Training cannot go on; the message is one line for people."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained; the clock has no say, so that a seed gives the same weights on a slow machine."""

    steps: int
    evaluate_every: int
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    patience: int = 8
    clip: float = 5.0
    warmup: int = 20
    seed: int | None = 0  # of what the loss draws; None where it draws nothing, and the random state is then left alone
    small: bool = True  # on a CPU one core is faster than several


@dataclass
class History:
    """Training curve and what a resumed training must know."""

    step: int = 0
    steps: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: float = math.inf
    stale: int = 0
    seconds: float = 0.0
    finished: bool = False


def save_checkpoint(path: Path, content: Any) -> None:
    """Write tensors and plain values whole or not at all, flushed to disk; raises FileError naming the file, as where no space is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)  # in memory: torch reports a failed write as an internal error
    with replacing(path, overwrite=True) as partial:
        partial.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> Any:
    """Read a checkpoint; tensors and plain values alone are accepted, so a file cannot run code.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        ValueError: if it is damaged or holds anything else.
    """
    content = io.BytesIO(path.read_bytes())  # at once: a damaged archive raises errors of every kind, OSError too
    try:
        with zipfile.ZipFile(content) as archive:
            damaged = archive.testzip()  # torch itself reads flipped bits as numbers
        if damaged:
            raise zipfile.BadZipFile(damaged)
        content.seek(0)
        return torch.load(content, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path}: expected a whole file of tensors, got a damaged or another one ({type(error).__name__}); "
            "remove it: --resume repeats what it held and no more"
        ) from None


def shuffled(count: int, batch: int, seed: int) -> Callable[[int], Tensor]:
    """`rows(step)`: indices of a batch, or of this process's share of it; every epoch goes once through a new permutation."""
    per_epoch = max(count // batch, 1)
    cache: dict[int, Tensor] = {}

    def rows(step: int) -> Tensor:
        epoch, place = divmod(step, per_epoch)
        if epoch not in cache:
            cache.clear()
            cache[epoch] = torch.randperm(count, generator=torch.Generator().manual_seed(_mix(seed, epoch)))
        return share(cache[epoch][place * batch : (place + 1) * batch])

    return rows


def random_state(seed: int, step: int) -> torch.Generator:
    """What to draw from at a step, different in every process: they have different items."""
    return torch.Generator().manual_seed(_mix(_mix(seed, step), rank()))


def optimise(
    module: nn.Module,
    loss: Callable[..., Tensor],
    batches: Batches,
    validate: Callable[[], float],
    settings: Settings,
    checkpoint: Path | None = None,
    report: Report = silent,
    stage: str = "training",
) -> History:
    """Train a module in place and leave it at its best validation loss.

    Args:
        module: what is trained; parameters that need no gradient stay.
        loss: `loss(*batches(step))`, one value an item.
        batches: arguments of the loss by step; where several processes train together (`parallel`), those of this process's share.
        validate: mean loss over a fixed held-out set.
        settings: schedule and seed.
        checkpoint: file of the state; if it exists, training continues from it.
        report: progress callback.
        stage: name for progress and messages.

    Raises:
        TrainingError: if a loss, a gradient, a validation loss or a weight is not finite, in any process; `checkpoint` then keeps the last
            state that was, and no step is taken by such gradients. Also for a checkpoint whose weights are not finite.
    """
    weights = [p for p in module.parameters() if p.requires_grad]
    device = weights[0].device
    optimiser = torch.optim.AdamW(weights, settings.learning_rate, weight_decay=settings.weight_decay, fused=device.type in ("cpu", "cuda"))
    history, best = History(), _copy(module)
    state = from_first(lambda: load_checkpoint(checkpoint, device) if checkpoint is not None and checkpoint.exists() else None)
    if state is not None:
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        history, best = History(**state["history"]), state["best"]
        if wrong := _not_finite(module.named_parameters()):  # former versions wrote such
            raise TrainingError(f"{checkpoint}: expected finite weights, got others in {wrong}; remove it: --resume repeats what it held")
    began, running = time.monotonic() - history.seconds, torch.zeros((), device=device)
    mean, first = mean_loss(module, loss), rank() == 0
    drawn = nullcontext() if settings.seed is None else torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with drawn, one_core() if settings.small and device.type == "cpu" else nullcontext():
        while not history.finished:
            module.train()
            if settings.seed is not None:
                seed = _mix(settings.seed, history.step)
                _seed(seed if first else _mix(seed, rank()), device)  # processes drop out different units of their different items
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _schedule(history, settings)
            objective, value = mean(*batches(history.step))
            optimiser.zero_grad(set_to_none=True)
            objective.backward()
            norm = get_total_norm([p.grad for p in weights if p.grad is not None])
            if not torch.isfinite(value + norm):  # one question of both: to ask is to wait for an accelerator
                raise _failure(module, stage, _of_batch(module, history.step, value, norm), checkpoint, batches(history.step))
            clip_grads_with_norm_(weights, settings.clip, norm)
            optimiser.step()
            history.step += 1
            running += value
            if history.step % settings.evaluate_every and history.step < settings.steps:
                continue
            count = history.step - (history.steps[-1] if history.steps else 0)
            improved = _evaluate(module, validate, history, settings, float(running) / count, time.monotonic() - began)
            if not math.isfinite(history.validation[-1]) or _not_finite(module.named_parameters()):
                what = f"finite weights and a finite validation loss, got one of {history.validation[-1]} after {history.step} steps"
                raise _failure(module, stage, what, checkpoint)
            best = _copy(module) if improved else best
            running.zero_()
            report(stage, history.step, settings.steps, loss=history.train[-1], validation=history.validation[-1], best=history.best)
            if checkpoint is not None and first:
                save_checkpoint(
                    checkpoint,
                    {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "history": asdict(history), "best": best},
                )
    module.load_state_dict(best)
    module.eval()
    report(stage, settings.steps, settings.steps, validation=history.best)
    return history


def _evaluate(module: nn.Module, validate: Callable[[], float], history: History, settings: Settings, train: float, seconds: float) -> bool:
    """Record the validation loss and decide whether to go on; True if it is the best so far."""
    module.eval()
    with torch.no_grad():
        value = from_first(validate)  # all must decide alike
    history.steps.append(history.step)
    history.train.append(train)
    history.validation.append(value)
    history.seconds = seconds
    improved = value < history.best
    history.stale = 0 if improved else history.stale + 1
    history.best = min(history.best, value)
    history.finished = history.step >= settings.steps or history.stale >= settings.patience
    return improved


def _schedule(history: History, settings: Settings) -> float:
    """Warm-up and half a cosine."""
    at = history.step
    return min((at + 1) / settings.warmup, 1.0) * (0.5 * (1 + math.cos(math.pi * at / settings.steps)) + 0.005)


def _failure(module: nn.Module, stage: str, what: str, checkpoint: Path | None, batch: Iterable[Any] = ()) -> TrainingError:
    """The error that says what was expected and got, of which weights or in what numbers of a batch, and where the last good state is."""
    wrong, ranges = _not_finite(module.named_parameters()), _ranges(batch)
    kept = f"the last good state is in {checkpoint}" if checkpoint is not None and checkpoint.exists() else "no state was saved yet"
    where = f"not finite: {wrong}" if wrong else "all weights are finite" + (f", so look at this batch: {ranges}" if ranges else "")
    return TrainingError(f"{stage}: expected {what} ({where}); {kept}; lower the learning rate or check the simulations")


def _of_batch(module: nn.Module, step: int, loss: Tensor, norm: Tensor) -> str:
    """What was expected of a batch and got: its loss or, where that is finite, the norm of its gradients and whose they are."""
    if not torch.isfinite(loss):
        return f"a finite loss, got {float(loss)} in batch {step}"
    wrong = _not_finite((name, p.grad) for name, p in module.named_parameters() if p.grad is not None)
    return f"finite gradients, got a norm of {float(norm)} in batch {step}" + (f" by {wrong}" if wrong else "")


def _not_finite(named: Iterable[tuple[str, Tensor]]) -> str:
    """Names of the first tensors with a number that is not finite; empty if there is none."""
    wrong = [name for name, values in named if not bool(torch.isfinite(values).all())]
    return ", ".join(wrong[:4])


def _ranges(batch: Iterable[Any]) -> str:
    """Finite numbers of each tensor of a batch, least and largest, and how many others; not of surveys, where NaN is what is unknown."""
    said = []
    for number, values in enumerate(batch, 1):
        if isinstance(values, Tensor) and values.is_floating_point():
            finite = values[torch.isfinite(values)]
            span = f"{float(finite.min()):.4g} to {float(finite.max()):.4g}, " if len(finite) else ""
            said.append(f"input {number}: {span}{values.numel() - len(finite)} of {values.numel()} not finite")
    return "; ".join(said)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def _seed(seed: int, device: torch.device) -> None:
    """Seed what draws on this device alone: `torch.manual_seed` keeps a traceback of each call for an accelerator yet to be started."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _mix(seed: int, step: int) -> int:
    """A 63-bit seed of a pair of integers (SplitMix64), so that neighbours give unrelated streams."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & (2**64 - 1)
    return (z ^ (z >> 31)) >> 1
