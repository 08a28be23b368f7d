"""Draws stories from a checkpoint, many at a time."""

import os

import torch
from tokenizers import Tokenizer

from . import diffusion
from .kinds import KINDS, OUT
from .requests import ASSISTANT, BOS, END, USER


def tokenizer():
    return Tokenizer.from_file(os.path.join(OUT, "tokenizer.json"))


def load(checkpoint):
    """(model, what the checkpoint holds)"""
    state = torch.load(checkpoint, map_location="cpu")
    model = KINDS[state.get("kind", "stories")].new_model()
    model.load_state_dict(state["model"])
    return model.eval(), state


def prompt_ids(tok, request=None):
    """The ids of a bare start, or of a request in the chat layout."""
    return tok.encode(BOS if request is None else f"{BOS}{USER}\n{request}{END}\n{ASSISTANT}\n").ids


def choose(logits, temperature, top_p, rng):
    """One token per row; temperature 0 is greedy."""
    if temperature == 0:
        return logits.argmax(-1)
    probs, order = torch.softmax(logits / temperature, -1).sort(-1, descending=True)
    if top_p < 1:
        # Keep the smallest set whose mass reaches top_p: cut where the mass before it already does.
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)
    pick = torch.multinomial(probs, 1, generator=rng)
    return order.gather(-1, pick).squeeze(-1)


@torch.no_grad()
def sample(model, tok, prompt, count, temperature=0.8, top_p=1.0, seed=0, limit=400):
    """`count` texts that follow the prompt's ids, each up to <|end|> (a cut one keeps a trailing mark)."""
    end = tok.token_to_id(END)
    cut = lambda row: tok.decode(row[: row.index(end)] if end in row else row + tok.encode(" [cut]").ids)
    if not getattr(model.cfg, "causal", True):
        return [cut(row) for row in diffusion.fill(model, [prompt] * count, temperature=temperature, seed=seed)[0]]
    rng = torch.Generator().manual_seed(seed)
    state = model.empty_state(count)
    logits, out = model(torch.tensor([prompt] * count), state)[:, -1], []
    done = torch.zeros(count, dtype=torch.bool)
    for step in range(min(limit, model.cfg.context - len(prompt))):
        token = torch.where(done, torch.tensor(end), choose(logits, temperature, top_p, rng))
        out.append(token)
        done |= token == end
        if done.all():
            break
        logits = model(token[:, None], state)[:, -1]
    return [cut(row) for row in torch.stack(out, 1).tolist()]
