"""Work shared out to threads: the same results in the same order, whatever the number of threads and of objects."""

import threading
import time
from concurrent.futures import CancelledError

import pytest
import torch

from cigars.schema import Observations
from inference.batches import Packed, segment_mean
from inference.threads import beside, by_surveys, side_by_side

from .conftest import observations


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def packed(lengths):
    sizes = torch.tensor(lengths)
    return Packed(
        Observations(*observations(sum(lengths))), None, torch.arange(float(len(lengths)))[:, None], sizes, sizes, torch.ones(len(lengths))
    )


@pytest.mark.parametrize("lengths", [[30, 0, 200, 5], [0, 0], [7], [3] * 40, [5, 0], [0, 9, 0, 0]])
def test_each_survey_has_its_row_whichever_thread_took_it(threads, lengths):
    surveys = packed(lengths)

    def means(part):
        return torch.cat([part.theta, segment_mean(part.observations.m[:, None], part.lengths)], 1)

    torch.testing.assert_close(by_surveys(means, surveys), means(surveys))


def test_order_is_kept_and_the_number_of_threads_comes_back(threads):
    assert list(side_by_side(lambda k: (k, torch.get_num_threads()), range(9))) == [(k, 1) for k in range(9)]
    assert torch.get_num_threads() == threads


def test_an_error_in_a_thread_is_the_callers(threads):
    def broken(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(side_by_side(broken, range(3)))
    assert torch.get_num_threads() == threads


def test_work_beside_goes_on_while_the_body_does(threads):
    met = threading.Barrier(2, timeout=30)
    with beside(lambda go_on: (met.wait(), torch.get_num_threads())[1], apart=True) as result:
        met.wait()  # would time out if one waited for the other
        assert torch.get_num_threads() == 1
        assert result() == 1
    assert torch.get_num_threads() == threads


def test_work_that_is_not_apart_is_done_when_asked_for():
    done = []
    with beside(lambda go_on: done.append(go_on()), apart=False) as result:
        assert done == []
        result()
        assert done == [None]


def test_an_error_beside_is_raised_where_the_result_is_asked_for():
    def broken(go_on):
        raise ValueError("beside")

    with pytest.raises(ValueError, match="beside"), beside(broken, apart=True) as result:
        result()


def test_work_beside_stops_where_the_body_fails():
    begun, stopped = threading.Event(), []

    def endless(go_on):
        begun.set()
        end = time.monotonic() + 30  # else a test that fails would not end
        try:
            while time.monotonic() < end:
                go_on()
        except CancelledError:
            stopped.append(True)
            raise

    def interrupted():
        with beside(endless, apart=True):
            assert begun.wait(30)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stopped == [True]
