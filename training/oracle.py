"""What an engine must give for a file, computed by the PyTorch model from the file's own weights.

    python -m training.oracle --kind tales-rwkv FILE.gguf -o crates/gristmill/tests/data/tales-rwkv.json

The weights are dequantized to f32, so all that may differ is rounding. Margins are said, so that a
tie can be told from an error.
"""

import argparse
import json

import gguf
import torch

from . import denoiser, diffusion, sample
from .kinds import KINDS

PROMPTS = [(None, ""), (None, "Once there was a fox named"), (None, "In the meadow lived Hazel, a small"),
           ("Tell me a story about a fox who lost a lantern.", ""), ("Write a story with Mia and a kite in the forest.", ""),
           ("What is the capital of France?", "")]


@torch.no_grad()
def reference(model, tok, prompts=PROMPTS):
    """Token ids, first logits and a greedy continuation for a few prompts, all in f32."""
    rows, end = [], tok.token_to_id("<|end|>")
    for request, text in prompts:
        prompt = sample.prompt_ids(tok, request) + (tok.encode(text).ids if text else [])
        state = model.empty_state(1)
        logits, out, margin = model(torch.tensor([prompt]), state)[0, -1], [], float("inf")
        first = logits.tolist()
        while len(prompt) + len(out) < model.cfg.context:
            top = logits.topk(2)
            margin = min(margin, (top.values[0] - top.values[1]).item())
            out.append(int(top.indices[0]))
            if out[-1] == end:
                break
            logits = model(torch.tensor([[out[-1]]]), state)[0, -1]
        rows.append({"request": request, "text": text, "prompt_ids": prompt, "first_logits": first,
                     "greedy_ids": out, "greedy_text": tok.decode(out), "smallest_margin": margin})
    return rows


def load_gguf(path, kind):
    """The model with the weights of the file, dequantized."""
    model = KINDS[kind].new_model()
    read = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()) for t in gguf.GGUFReader(path).tensors}
    wanted = model.exported() if hasattr(model, "exported") else model.state_dict()
    model.load_state_dict({name: read[name].reshape(value.shape) for name, value in wanted.items()}, strict=False)
    return model.eval()


def largest(logits, count=16):
    top = logits.topk(count)
    return {"ids": top.indices.tolist(), "logits": [round(x, 5) for x in top.values.tolist()]}


def of_rwkv(model, tok):
    """Continuations, each with the largest logits after the prompt."""
    rows = reference(model, tok, PROMPTS[1:5])
    for row in rows:
        row["first_logits"] = largest(torch.tensor(row["first_logits"]))
    return {"continuations": rows}


@torch.no_grad()
def of_diffusion(model, tok):
    """Logits of a text some of whose places are masked, and what LLaDA's sampler does, pass by pass."""
    plain, asked = sample.prompt_ids(tok), sample.prompt_ids(tok, PROMPTS[3][0])
    told = diffusion.fill(model, [plain], 64)
    text = plain + told[0][0]
    masked = [diffusion.MASK_ID if 33 <= i and (i % 3 or i > 50) else t for i, t in enumerate(text)]
    logits = model(torch.tensor([masked]))[0]
    traces = []
    for blocks, block, threshold in (("open", 32, None), ("causal", 4, 0.9), ("open", 32, 0.9)):
        for prompt in (plain, asked):
            answers, passes = diffusion.fill(model, [prompt], 64, block, blocks, threshold=threshold)
            traces.append({"prompt_ids": prompt, "length": 64, "blocks": blocks, "block_length": block,
                           "threshold": threshold, "ids": answers[0], "text": tok.decode(answers[0]),
                           "passes": _filled(prompt, passes),
                           "margins": [float(f"{lead:.3g}") for _, lead in passes]})
    return {"mask": diffusion.MASK_ID, "masked_ids": masked,
            "rows": [{"row": row, **largest(logits[row])} for row in (0, 16, 32, 34, 40, 49, 63)], "traces": traces}


def _filled(prompt, passes):
    """The places of the text that each pass filled in."""
    before, out = [diffusion.MASK_ID] * 64, []
    for (now, *_), _ in passes:
        out.append([len(prompt) + i for i, (a, b) in enumerate(zip(before, now)) if a != b])
        before = now
    return out


SHOWN = (0, 9, 24, 39, 48, 49)  # steps of a trace whose latents are told


@torch.no_grad()
def of_denoiser(model, tok):
    """Texts from the noise of seeds, all in f64: some latents of some steps, and the ids with the smallest
    lead of a token's product over the next."""
    model, rows = model.double(), []
    for eta, seed in ((0.0, 1), (0.0, 2), (0.0, 3), (0.5, 4), (1.0, 5), (1.0, 2 ** 40 + 9)):
        trace = []
        ids = denoiser.write_texts(model, [seed], 50, eta, torch.float64, lambda x: trace.append(x[0]))[0]
        best = (trace[-1] @ model.token_embd.weight.T).topk(2).values
        rows.append({"seed": seed, "steps": 50, "eta": eta, "ids": ids, "text": denoiser.text_of(tok, ids),
                     "smallest_margin": float(f"{(best[:, 0] - best[:, 1]).min():.3g}"),
                     "latents": [{"step": i, "values": [[round(v, 6) for v in row] for row in trace[i][::6].tolist()]}
                                 for i in SHOWN]})
    return {"every": 6, "texts": rows}


OF = {"tales-rwkv": of_rwkv, "tales-diffusion": of_diffusion, "tales-denoiser": of_denoiser}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("file")
    a.add_argument("--kind", choices=OF, required=True)
    a.add_argument("-o", "--output", required=True)
    args = a.parse_args()
    model, tok = load_gguf(args.file, args.kind), sample.tokenizer()
    told = OF[args.kind](model, tok)
    with open(args.output, "w") as f:
        f.write(json.dumps(told, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
