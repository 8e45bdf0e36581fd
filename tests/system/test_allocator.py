import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import torch
from repq_deploy.system.allocator import keep_freed_memory
{call}
for rounds in (20, 5):  # glibc keeps the first few trimmings of aligned blocks, so it settles only after some
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS.format(call=call)], capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_a_tensor_takes_the_memory_of_the_one_before() -> None:
    pages = 5 * 4 * 2**24 / 4096
    assert faults("") == pytest.approx(pages, rel=0.1)
    assert faults("keep_freed_memory()") < pages / 50
