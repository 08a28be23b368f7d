"""Masks committed in each step of Dream's time schedule, in PyTorch's f32.

    python oracles/dream_schedule.py > crates/engine/src/diffuse/timed.txt

A line: the steps, the masks, and how many each step commits.
"""

import torch

for steps, masks in [(1, 5), (2, 9), (3, 32), (7, 64), (8, 32), (16, 32), (31, 100), (32, 32),
                     (64, 64), (100, 256), (128, 256), (256, 256), (512, 512), (97, 1000)]:
    times, left, counts = torch.linspace(1, 1e-3, steps + 1), masks, []
    for i in range(steps):
        stays = times[i + 1] / times[i]
        n = left if i == steps - 1 else int(torch.tensor(float(left)) * (1 - stays))
        counts.append(n)
        left -= n
    print(steps, masks, *counts)
