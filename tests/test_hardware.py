"""Threads of torch are given back, whoever leaves last."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from jensen.hardware import flushes_denormals, no_denormals, threads


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


def least() -> list[float]:
    """A denormal, if there are any, as each of three threads makes it."""
    made = torch.full((300_000,), 3e-38).mul_(0.1)
    return [float(part.max()) for part in made.split(100_000)]


@pytest.fixture
def denormals():
    """Of a processor that can take them for zero, where it does not; threads have started."""
    if sys.platform == "darwin":
        pytest.skip("whether OpenMP's threads follow has not been verified on macOS")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot take denormal numbers for zero")
    torch.set_flush_denormal(False)
    assert min(least()) > 0
    yield
    torch.set_flush_denormal(False)


def test_in_all_threads_denormals_are_zero_inside_and_come_back(denormals):
    with no_denormals():
        assert flushes_denormals() and max(least()) == 0
        with no_denormals():
            assert max(least()) == 0
        assert max(least()) == 0
    assert not flushes_denormals() and min(least()) > 0
    with pytest.raises(KeyError), no_denormals():
        raise KeyError
    assert min(least()) > 0


def test_where_denormals_were_zero_before_they_stay_so(denormals):
    torch.set_flush_denormal(True)
    with no_denormals():
        pass
    assert flushes_denormals()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_default_type_changes_nothing(denormals, dtype):
    torch.set_default_dtype(dtype)
    try:
        assert not flushes_denormals()
        with no_denormals(), no_denormals():
            assert flushes_denormals()
    finally:
        torch.set_default_dtype(torch.float32)
    assert min(least()) > 0
