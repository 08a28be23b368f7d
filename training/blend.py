"""Mixes the weights of the diffusion model with those it started from (Wortsman et al. 2022, "WiSE-FT").

    python -m training.blend --init training/out/checkpoint.pt --share 0.6

A short training at a high rate costs some of what the causal model knew; half-way back most of it is
there again, and most of what was learned is kept. The optimizers' state is dropped.
"""

import argparse
import os

import torch

from . import diffusion, sample
from .kinds import KINDS


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--init", required=True, help="the checkpoint of the story model that it started from")
    a.add_argument("--share", type=float, default=0.6, help="of the trained weights")
    args = a.parse_args()
    path = os.path.join(KINDS["tales-diffusion"].out, "checkpoint.pt")
    model, state = sample.load(path)
    start = diffusion.new_model()
    diffusion.start_from(start, torch.load(args.init)["model"])
    first = start.state_dict()
    mixed = {name: first[name] + args.share * (value - first[name]) for name, value in model.state_dict().items()}
    torch.save({**state, "model": mixed, "optimizers": [], "blend": args.share}, path + ".new")
    os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
