"""The models that the training loop, the export and the cards know, and what each is fed with."""

import os
from dataclasses import dataclass
from typing import Callable

from . import data, denoiser, diffusion, rwkv
from .losses import heldout_loss, next_token_loss
from .model import Config, Llama

OUT = os.path.join(os.path.dirname(__file__), "out")


@dataclass
class Kind:
    name: str
    new_model: Callable  # () -> a module without weights worth keeping
    batch: Callable  # (tok, seed, step, args) -> what the loss takes after the model
    loss: Callable  # (model, *batch) -> (loss, its plain mean)
    judge: Callable  # (model, what is held out) -> nats per token, or what `measure` says
    measure: str = "loss"
    heldout: Callable = lambda tok, seed: data.heldout(tok, seed)[1]  # (tok, seed) -> what the judge takes
    start: Callable = None  # (model, the story model's weights, tok): what --init does

    @property
    def out(self):
        """The folder of its checkpoint and what is made of it."""
        return OUT if self.name == "stories" else os.path.join(OUT, self.name)


def _windows(tok, seed, step, args):
    return data.batch(tok, seed, step, args.rows, args.length, args.slot_weight, args.single)


def _canvases(tok, seed, step, args):
    causal = step % 2 == 0 if args.blocks == "both" else args.blocks == "causal"
    # A causal canvas stands there twice.
    if causal:
        return diffusion.causal_batch(tok, seed, step, args.rows // 2, args.slot_weight, args.causal_blocks,
                                      args.copies)._replace(caution=args.caution)
    return diffusion.open_batch(tok, seed, step, args.rows, args.slot_weight, args.open_blocks,
                                args.anywhere)


def _noised(tok, seed, step, args):
    return denoiser.batch(tok, seed, step, args.rows)


KINDS = {k.name: k for k in (
    Kind("stories", lambda: Llama(Config()), _windows, next_token_loss, heldout_loss),
    Kind("tales-rwkv", rwkv.new_model, _windows, next_token_loss, heldout_loss),
    Kind("tales-diffusion", diffusion.new_model, _canvases, diffusion.loss_of, diffusion.heldout_bound, "bound",
         start=lambda model, stories, tok: diffusion.start_from(model, stories)),
    Kind("tales-denoiser", denoiser.new_model, _noised, denoiser.loss_of, denoiser.heldout_loss, "error of the noise",
         denoiser.heldout, denoiser.start_from),
)}
