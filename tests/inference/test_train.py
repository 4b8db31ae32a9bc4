"""The training loop: exact resumption, early stopping, whole checkpoints, clear failures."""

import pickle
import traceback

import pytest
import torch
from torch import nn

from inference.train import Settings, TrainingError, load_checkpoint, optimise, save_checkpoint, shuffled

DATA = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
TARGET = DATA @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]]) + 0.1


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Dropout(0.1), nn.Linear(16, 1))


def training(net, checkpoint=None, stop=None, **settings):
    """Train on the linear problem; `stop` interrupts at that step as Ctrl-C does."""
    rows = shuffled(384, 32, seed=3)

    def batches(step):
        if step == stop:
            raise KeyboardInterrupt
        return (rows(step),)

    def loss(i):
        return (net(DATA[i]) - TARGET[i]).square().sum(-1)

    return optimise(
        net, loss, batches, lambda: float((net(DATA[384:]) - TARGET[384:]).square().mean()),
        Settings(**({"steps": 120, "evaluate_every": 12, "learning_rate": 1e-2} | settings)), checkpoint,
    )  # fmt: skip


def test_training_learns():
    history = training(network())
    assert history.validation[-1] < 0.1 * history.validation[0]
    assert history.steps[-1] == 120


@pytest.mark.parametrize(("small", "cores"), [(True, 1), (False, 2)])
def test_a_small_network_trains_on_one_core(small, cores):
    net, seen, before = network(), set(), torch.get_num_threads()

    def loss(x):
        seen.add(torch.get_num_threads())
        return net(x).square()

    torch.set_num_threads(2)
    try:
        optimise(net, loss, lambda s: (DATA[:8],), lambda: 1.0, Settings(4, 2, small=small))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {cores}


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="torch keeps tracebacks only until CUDA has been started")
def test_no_step_formats_a_traceback(monkeypatch):
    """As `torch.manual_seed` does for accelerators yet to be started, half a millisecond a step from within the command."""
    net, called = network(), []
    monkeypatch.setattr(traceback, "format_stack", lambda *_: called.append(1) or [])
    training(net, steps=12)
    assert not called
    torch.manual_seed(0)
    assert called


def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole, broken = network(), network()
    expected = training(whole)
    with pytest.raises(KeyboardInterrupt):
        training(broken, tmp_path / "a.pt", stop=53)
    torch.manual_seed(12345)  # what happens in between must not matter
    fresh = network()
    resumed = training(fresh, tmp_path / "a.pt")
    assert resumed.validation == expected.validation
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), fresh.state_dict().values(), strict=True))


def test_a_finished_training_is_not_repeated(tmp_path):
    first, second = network(), network()
    training(first, tmp_path / "a.pt")
    training(second, tmp_path / "a.pt", stop=0)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_training_stops_after_patience_and_keeps_the_best():
    net, values = network(), iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    kept = {}

    def validate():
        value = next(values)
        if value == 1.0:
            kept.update({k: v.clone() for k, v in net.state_dict().items()})
        return value

    history = optimise(net, lambda x: net(x).square(), lambda s: (DATA[:8],), validate, Settings(100, 5, patience=3))
    assert history.validation == [3.0, 1.0, 2.0, 2.0, 2.0]
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path):
    net, path = network(), tmp_path / "a.pt"

    def batches(step):
        return (torch.full((4, 4), torch.nan) if step == 30 else DATA[:4],)

    said = r"head: expected a finite loss, got nan in batch 30 \(.* this batch: input 1: 16 of 16 not finite\); the last good state is in"
    with pytest.raises(TrainingError, match=said):
        optimise(net, lambda x: net(x).square(), batches, lambda: 1.0, Settings(100, 10), path, stage="head")
    state = load_checkpoint(path)
    assert state["history"]["step"] == 30
    assert all(bool(torch.isfinite(v).all()) for v in state["module"].values())


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_validation_loss_that_is_not_finite_stops_like_a_training_loss(tmp_path, wrong):
    """It used to go on until patience ran out, and to give back the weights it began with."""
    net, path, values = network(), tmp_path / "a.pt", iter([1.0, wrong])
    said = rf"head: expected .* a finite validation loss, got one of {wrong} after 20 steps \(all weights are finite\); the last good state"
    with pytest.raises(TrainingError, match=said):
        optimise(net, lambda x: net(x).square(), lambda s: (DATA[:8],), lambda: next(values), Settings(100, 10), path, stage="head")
    assert load_checkpoint(path)["history"]["step"] == 10
    with pytest.raises(TrainingError, match=r"got one of .* after 10 steps .*; no state was saved yet; lower the learning rate"):
        optimise(net, lambda x: net(x).square(), lambda s: (DATA[:8],), lambda: wrong, Settings(100, 10))


def test_a_gradient_that_is_not_finite_is_not_followed_and_training_goes_on_from_the_last_good_state(tmp_path):
    """The loss is finite, at the step before an evaluation: its weights used to be saved as the last good state."""
    net, path, bad = network(), tmp_path / "a.pt", 29

    def loss(x, step):
        each = net(x).square()
        return each + torch.sqrt(0 * each) if step == bad else each  # 0, whose derivative is 0 times infinity

    def train():
        return optimise(net, loss, lambda s: (DATA[:8], s), lambda: float(net(DATA).square().mean()), Settings(60, 10), path, stage="head")

    said = r"head: expected finite gradients, got a norm of nan in batch 29 by 0\.weight, 0\.bias, .* batch: input 1: -.* to .*, 0 of 32"
    with pytest.raises(TrainingError, match=said):
        train()
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    state = load_checkpoint(path)
    assert state["history"]["step"] == 20
    assert all(bool(torch.isfinite(v).all()) for kept in (state["module"], state["best"]) for v in kept.values())
    bad = None
    assert train().steps == [10, 20, 30, 40, 50, 60]


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """Here loss, gradients and validation are finite, but the step overflows."""
    net, path = network(), tmp_path / "a.pt"
    with pytest.raises(TrainingError, match=r"got one of 1\.0 after 1 steps \(not finite: 0\.weight, .*\); no state was saved yet"):
        optimise(net, lambda x: net(x).square(), lambda s: (DATA[:8],), lambda: 1.0, Settings(10, 1, learning_rate=1e39), path)
    assert not path.exists()


def test_a_checkpoint_of_weights_that_are_not_finite_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "a.pt"
    training(network(), path, steps=12)
    state = load_checkpoint(path)
    state["module"]["3.bias"][:] = torch.nan
    save_checkpoint(path, state)
    with pytest.raises(TrainingError, match=r"a\.pt: expected finite weights, got others in 3\.bias; remove it"):
        training(network(), path)


def test_every_epoch_goes_once_through_all_rows():
    rows = shuffled(64, 16, seed=1)
    first, second = (torch.cat([rows(4 * epoch + k) for k in range(4)]) for epoch in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(64))
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([rows(k) for k in range(4)]), first)


def test_global_random_state_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    training(network_without_draw())
    assert torch.equal(torch.rand(3), expected)


def network_without_draw():
    with torch.random.fork_rng(devices=[]):
        return network()


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"x": torch.ones(2)})

    def fail(partial, content):
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", fail)
    with pytest.raises(ValueError, match=r"a\.pt: no space left on the device"):
        save_checkpoint(path, {"x": torch.zeros(2)})
    assert torch.equal(load_checkpoint(path)["x"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


class Malicious:
    def __reduce__(self):
        return print, ("this must not run",)


def test_no_flipped_bit_is_read_as_a_number(tmp_path):
    """Torch alone reads most of them: a checkpoint is whole, or refused, or flipped where nothing is stored."""
    path, content = tmp_path / "a.pt", {"x": torch.arange(1000.0)}
    save_checkpoint(path, content)
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            read = load_checkpoint(path)
        except ValueError as error:
            assert "remove it: --resume repeats" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert torch.equal(read["x"], content["x"])
    assert refused > len(range(0, len(whole), 37)) / 2


@pytest.mark.parametrize(
    "write",
    [
        lambda p: torch.save(Malicious(), p),
        lambda p: p.write_bytes(pickle.dumps(Malicious())),
        lambda p: p.write_bytes(b"PK"),
        lambda p: p.write_bytes(b""),
    ],
)
def test_a_file_with_code_or_damage_is_refused(tmp_path, write, capsys):
    write(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="expected a whole file of tensors"):
        load_checkpoint(tmp_path / "a.pt")
    assert capsys.readouterr().out == ""
