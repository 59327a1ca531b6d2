"""What every test stands on: fixed seeds, one thread, real data where there are some."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A deadline measures the machine, not the code. In CI the examples are the same in every run.
settings.register_profile("jensen", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("jensen")


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as where a shell runs the tests in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)  # two threads on a busy machine take twenty times as long for tensors as small as ours


@pytest.fixture(autouse=True)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test sees no GPU, whatever the machine has, but for those marked `cuda`, which need one."""
    if request.node.get_closest_marker("cuda") is None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # of what it starts
    elif not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same random state, whichever ran before it."""
    torch.manual_seed(0)
    return 0


@pytest.fixture(scope="session")
def jensen_data() -> Path:
    """The folder of real data sets that `JENSEN_DATA` names."""
    folder = os.environ.get("JENSEN_DATA")
    if not folder:
        pytest.skip("needs real data: JENSEN_DATA is not set")
    return Path(folder)
