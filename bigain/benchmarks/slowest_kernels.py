"""A profile: the kernels that take the most time."""

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bigain.profiling.timing import Side

ROWS = 8


def slowest(side: Side, device: torch.device) -> list[list[str]]:
    """A table of the kernels (on a CPU, operations) that take the most time of one round."""
    activities = [ProfilerActivity.CPU]
    kind = DeviceType.CPU
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        kind = DeviceType.CUDA
    with side() as work:
        work()
        with profile(activities=activities) as profiler:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    gpu = device.type == "cuda"
    spent = [
        (event.key, event.count, event.self_device_time_total if gpu else event.self_cpu_time_total)
        for event in profiler.key_averages()
        if event.device_type == kind
    ]
    total = sum(microseconds for *_, microseconds in spent)
    lines = [["Kernel", "Calls", "ms", "Share (%)"]]
    for name, count, microseconds in sorted(spent, key=lambda s: -s[2])[:ROWS]:
        share = 100 * microseconds / total if total else 0.0
        lines.append([name[:60], str(count), f"{microseconds / 1e3:.2f}", f"{share:.1f}"])
    return lines
