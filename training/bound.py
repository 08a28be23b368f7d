"""What is held out of a diffusion model, judged from the weights of a GGUF file, dequantized: the bound of
a masked one, the error of the noise of a Gaussian one.

    python -m training.bound FILE.gguf [--block-length 4]
    python -m training.bound FILE.gguf --kind tales-denoiser
"""

import argparse

from . import denoiser, diffusion, oracle, sample
from .data import heldout


def main():
    a = argparse.ArgumentParser()
    a.add_argument("file")
    a.add_argument("--kind", choices=("tales-diffusion", "tales-denoiser"), default="tales-diffusion")
    a.add_argument("--blocks", choices=("causal", "open"), default="causal")
    a.add_argument("--block-length", type=int, default=4)
    a.add_argument("--documents", type=int, default=200)
    a.add_argument("--seed", type=int, default=7, help="that of the training")
    args = a.parse_args()
    model, tok = oracle.load_gguf(args.file, args.kind), sample.tokenizer()
    if args.kind == "tales-denoiser":
        print(f"error {denoiser.heldout_loss(model, denoiser.heldout(tok, args.seed)):.5f} of the noise")
        return
    _, held = heldout(tok, args.seed)
    bound = diffusion.heldout_bound(model, held[: args.documents], args.block_length, blocks=args.blocks)
    print(f"bound {bound:.4f} nats per token")


if __name__ == "__main__":
    main()
