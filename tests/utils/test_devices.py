"""How memory of a CPU is kept."""

import platform
import subprocess
import sys

import pytest

# page faults of a tensor freed and made again, 100 times
FAULTS = """
import resource, torch
from bigain.utils.devices import keep_freed_memory
{}
torch.set_num_threads(1)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
start = faults()
for _ in range(100):
    torch.ones(2**24)
print(faults() - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again():
    def faults(line: str) -> int:
        command = [sys.executable, "-c", FAULTS.format(line)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep_freed_memory()") < faults("") / 10
