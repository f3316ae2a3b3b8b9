"""What a device chooses for itself."""

import platform
import subprocess
import sys

import pytest
import torch

from bigain.device import batch_size_of

# page faults of a tensor freed and made again, 100 times
FAULTS = """
import resource, torch
from bigain.device import keep_freed_memory
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


def test_batch_size_is_the_one_given_or_the_devices():
    assert batch_size_of(3, torch.device("cpu")) == 3
    assert batch_size_of(None, torch.device("cpu")) == 8
    assert batch_size_of(None, torch.device("cuda")) == 64


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again():
    def faults(line: str) -> int:
        command = [sys.executable, "-c", FAULTS.format(line)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep_freed_memory()") < faults("") / 10
