"""The held-out bound of a masked diffusion model, from the weights of a GGUF file, dequantized.

    python -m training.bound FILE.gguf [--block-length 4]
"""

import argparse

from . import diffusion, oracle, sample
from .data import heldout


def main():
    a = argparse.ArgumentParser()
    a.add_argument("file")
    a.add_argument("--blocks", choices=("causal", "open"), default="causal")
    a.add_argument("--block-length", type=int, default=4)
    a.add_argument("--documents", type=int, default=200)
    a.add_argument("--seed", type=int, default=7, help="that of the training")
    args = a.parse_args()
    model, (_, held) = oracle.load_gguf(args.file, "tales-diffusion"), heldout(sample.tokenizer(), args.seed)
    bound = diffusion.heldout_bound(model, held[: args.documents], args.block_length, blocks=args.blocks)
    print(f"bound {bound:.4f} nats per token")


if __name__ == "__main__":
    main()
