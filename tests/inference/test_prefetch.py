"""One batch ahead: the same batches in any order of asking, failures where they belong, no thread left behind."""

import threading

import pytest
import torch

from inference.batches import pack
from inference.prefetch import ahead, one_ahead
from inference.stages import stream

PATIENCE_S = 10.0  # until a thread that never comes is given up


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("one-ahead")]


def test_the_next_is_in_the_making_while_the_caller_has_this_one():
    begun = [threading.Event() for _ in range(4)]

    def make(number):
        begun[number].set()
        return number

    with one_ahead(make, 3) as ask:
        assert ask(0) == 0
        assert begun[1].wait(PATIENCE_S)
        assert not begun[2].is_set()  # one ahead and no more
        assert [ask(1), ask(2)] == [1, 2]
    assert not begun[3].is_set()  # nothing at or after the end
    assert not threads()


def test_nothing_is_made_ahead_on_a_processor():
    assert [ahead(device, 7) for device in ("cpu", torch.device("cpu"), "cuda", "cuda:1")] == [0, 0, 7, 7]
    made = []
    with one_ahead(made.append, ahead("cpu", 7)) as ask:
        ask(0)
    assert made == [0]
    assert not threads()


def test_numbers_in_any_order_give_what_they_would_alone():
    order = [3, 4, 5, 2, 2, 7, 0, 1, 9, 5]
    with one_ahead(lambda n: n * n, 6) as ask:
        assert [ask(n) for n in order] == [n * n for n in order]


def test_a_failure_reaches_whoever_asks_for_that_number_and_nobody_else():
    def make(number):
        if number == 1:
            raise ValueError("survey 1: too many objects")
        return number

    with one_ahead(make, 3) as ask:
        assert ask(0) == 0  # 1 has failed or will, and nobody has asked
        assert ask(2) == 2
        with pytest.raises(ValueError, match="survey 1: too many objects"):
            ask(1)
        assert ask(2) == 2
    assert not threads()


def leave_by_error(make):
    with one_ahead(make, 9) as ask:
        ask(0)
        raise KeyboardInterrupt


def test_no_thread_is_left_where_the_caller_gives_up():
    made = []
    with pytest.raises(KeyboardInterrupt):
        leave_by_error(lambda number: made.append(number))
    assert not threads()
    assert max(made) <= 1


@pytest.mark.parametrize("total", [1, 8, 11, 16])
def test_streams_are_bit_for_bit_those_without_looking_ahead(source, total):
    asked = []

    def counted(first, count):
        asked.append((first, count))
        return source(first, count)

    batch, names = 4, ("Om0",)
    found = list(stream(counted, 20, total, batch, names))
    assert asked == [(20 + start, batch) for start in range(0, total, batch)]
    assert [len(p.lengths) for p in found] == [min(batch, total - start) for start in range(0, total, batch)]
    for i, packed in enumerate(found):
        alone = pack(source(20 + i * batch, batch), names)
        assert torch.equal(packed.theta, alone.theta[: len(packed.lengths)])
        assert torch.equal(packed.lengths, alone.lengths[: len(packed.lengths)])
        assert torch.equal(packed.observations.mag, alone.observations.mag[: len(packed.observations.mag)])
    assert not threads()


def test_a_stream_that_is_left_early_leaves_no_thread(source):
    batches = stream(source, 0, 40, 4, ("Om0",))
    next(batches)
    batches.close()
    assert not threads()
