"""Threads of torch are given back, whoever leaves last."""

from __future__ import annotations

import threading

import pytest
import torch

from jensen.hardware import threads


@pytest.fixture(autouse=True)
def three():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_inside_another():
    with threads(2):
        with threads(1):
            assert torch.get_num_threads() == 1
        with threads(None):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 3


def test_an_error_gives_them_back():
    with pytest.raises(KeyError), threads(1):
        raise KeyError
    assert torch.get_num_threads() == 3


def test_threads_of_python_that_leave_in_the_order_they_came():
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with threads(1):
            entered.set()
            assert leave.wait(10)

    other = threading.Thread(target=first)
    other.start()
    assert entered.wait(10)
    with threads(2):
        leave.set()
        other.join()
    assert torch.get_num_threads() == 3
