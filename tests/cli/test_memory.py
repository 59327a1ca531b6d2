"""How the program's process keeps its memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

OFFERED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SAYS = """
import re
from pathlib import Path
from jensen.cli.memory import HUGE, keep_freed_memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

before = resident()
keep_freed_memory()
taken = resident() - before
areas = re.split(r"\\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
large = [a for a in areas if re.search(r"^VmFlags:.* hg\\b", a, re.M)]
sizes = [int(re.search(r"^Size:\\s+(\\d+)", a, re.M)[1]) << 10 for a in large]
print(taken < HUGE / 16, max(sizes, default=0) > HUGE * 0.9, "[heap]" in "".join(large))
"""


@pytest.mark.skipif(not OFFERED.exists() or "[never]" in OFFERED.read_text(), reason="the system has no large pages")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_what_the_program_grows_by_is_in_large_pages_and_none_is_taken_before_it_is_used():
    found = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True"] * 3
