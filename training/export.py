"""Writes the GGUF file, the reference values an engine can be checked against, and held-out text.

    python -m training.export
"""

import argparse
import json
import os

import gguf
import numpy as np
import torch

from . import sample
from .data import heldout
from .requests import BOS, CHAT_TEMPLATE, END, SPECIALS

OUT = os.path.join(os.path.dirname(__file__), "out")
_NORMAL, _CONTROL = 1, 3

_REFERENCE = [(None, ""), (None, "Once there was a fox named"), (None, "In the meadow lived Hazel, a small"),
              ("Tell me a story about a fox who lost a lantern.", ""), ("Write a story with Mia and a kite in the forest.", ""),
              ("What is the capital of France?", "")]


def write_gguf(path, model, tok):
    cfg = model.cfg
    w = gguf.GGUFWriter(path, "llama")
    w.add_name("Gristmill Stories")
    w.add_description("A small story model trained on text written by its own generator.")
    w.add_license("MIT OR Apache-2.0")
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_context_length(cfg.context)
    w.add_embedding_length(cfg.dim)
    w.add_block_count(cfg.layers)
    w.add_feed_forward_length(cfg.ffn)
    w.add_head_count(cfg.heads)
    w.add_head_count_kv(cfg.kv_heads)
    w.add_key_length(cfg.head_dim)
    w.add_value_length(cfg.head_dim)
    w.add_rope_dimension_count(cfg.head_dim)
    w.add_rope_freq_base(cfg.rope_base)
    w.add_layer_norm_rms_eps(cfg.eps)
    w.add_vocab_size(cfg.vocab)
    _write_tokenizer(w, tok, cfg.vocab)
    for name, value in model.state_dict().items():
        w.add_tensor(name, value.float().contiguous().numpy().astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def _write_tokenizer(w, tok, vocab):
    tokens = [tok.id_to_token(i) for i in range(vocab)]
    merges = json.loads(tok.to_str())["model"]["merges"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([_CONTROL if t in SPECIALS else _NORMAL for t in tokens])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    w.add_bos_token_id(tok.token_to_id(BOS))
    w.add_eos_token_id(tok.token_to_id(END))
    w.add_add_bos_token(True)
    w.add_chat_template(CHAT_TEMPLATE)


@torch.no_grad()
def reference(model, tok):
    """Token ids, first logits and a greedy continuation for a few prompts, all in f32."""
    rows, end = [], tok.token_to_id(END)
    for request, text in _REFERENCE:
        prompt = sample.prompt_ids(tok, request) + (tok.encode(text).ids if text else [])
        cache = [[] for _ in range(model.cfg.layers)]
        logits, out, margin = model(torch.tensor([prompt]), cache)[0, -1], [], float("inf")
        first = logits.tolist()
        while len(prompt) + len(out) < model.cfg.context:
            top = logits.topk(2)
            margin = min(margin, (top.values[0] - top.values[1]).item())
            out.append(int(top.indices[0]))
            if out[-1] == end:
                break
            logits = model(torch.tensor([[out[-1]]]), cache, len(prompt) + len(out) - 1)[0, -1]
        rows.append({"request": request, "text": text, "prompt_ids": prompt, "first_logits": first,
                     "greedy_ids": out, "greedy_text": tok.decode(out), "smallest_margin": margin})
    return rows


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--out", default=OUT)
    args = a.parse_args()
    at = lambda name: os.path.join(args.out, name)
    model, tok, state = sample.load(at("checkpoint.pt"), at("tokenizer.json"))
    write_gguf(at("model-f32.gguf"), model, tok)
    with open(at("reference.json"), "w") as f:
        json.dump(reference(model, tok), f)
    texts, ids = heldout(tok, state["args"]["seed"])
    with open(at("heldout.txt"), "w") as f:
        f.write("\n\n\n".join(t.removesuffix(END) for t in texts) + "\n")
    with open(at("heldout_ids.json"), "w") as f:
        json.dump(ids, f)


if __name__ == "__main__":
    main()
