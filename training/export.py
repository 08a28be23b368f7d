"""Writes the GGUF file of a trained model, and held-out text.

    python -m training.export                            # the story model
    python -m training.export --kind tales-rwkv
"""

import argparse
import json
import os

import gguf
import numpy as np

from . import oracle, sample
from .data import heldout
from .diffusion import MASK, MASK_ID
from .kinds import KINDS
from .requests import BOS, CHAT_TEMPLATE, END, SPECIALS

_NORMAL, _CONTROL = 1, 3

ABOUT = {
    "stories": ("Gristmill Stories", "llama", "A small story model"),
    "tales-rwkv": ("Gristmill Tales RWKV", "rwkv7", "A small RWKV-7 that tells stories,"),
    "tales-denoiser": ("Gristmill Tales Denoiser", "denoiser", "A small Gaussian diffusion model that writes the first sentences of stories,"),
    "tales-diffusion": ("Gristmill Tales Diffusion", "llada", "A small masked diffusion model that fills in stories,"),
}


def write_gguf(path, kind, model, tok):
    cfg, (name, arch, what) = model.cfg, ABOUT[kind]
    w = gguf.GGUFWriter(path, arch)
    w.add_name(name)
    w.add_description(f"{what} trained on text written by its own generator.")
    w.add_license("MIT OR Apache-2.0")
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_context_length(cfg.context)
    w.add_embedding_length(cfg.dim)
    w.add_block_count(cfg.layers)
    w.add_feed_forward_length(cfg.ffn)
    w.add_vocab_size(cfg.vocab)
    {"rwkv7": _write_rwkv, "denoiser": _write_denoiser}.get(arch, _write_llama)(w, cfg)
    _write_tokenizer(w, tok, cfg.vocab, chats=arch != "denoiser")
    for name, value in exported(model).items():
        w.add_tensor(name, value.float().contiguous().numpy().astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def exported(model):
    """What an engine needs, by name."""
    return model.exported() if hasattr(model, "exported") else model.state_dict()


def _write_llama(w, cfg):
    w.add_head_count(cfg.heads)
    w.add_head_count_kv(cfg.kv_heads)
    w.add_key_length(cfg.head_dim)
    w.add_value_length(cfg.head_dim)
    w.add_rope_dimension_count(cfg.head_dim)
    w.add_rope_freq_base(cfg.rope_base)
    w.add_layer_norm_rms_eps(cfg.eps)
    if not cfg.causal:
        w.add_causal_attention(False)
        w.add_diffusion_shift_logits(True)
        w.add_mask_token_id(MASK_ID)


def _write_rwkv(w, cfg):
    w.add_head_count(0)
    w.add_layer_norm_eps(cfg.eps)
    w.add_wkv_head_size(cfg.head_size)
    w.add_token_shift_count(2)
    w.add_decay_lora_rank(cfg.decay_rank)
    w.add_iclr_lora_rank(cfg.iclr_rank)
    w.add_value_residual_mix_lora_rank(cfg.value_rank)
    w.add_gate_lora_rank(cfg.gate_rank)


def _write_denoiser(w, cfg):
    w.add_head_count(cfg.heads)
    w.add_layer_norm_eps(cfg.eps)
    w.add_rope_freq_base(cfg.rope_base)
    w.add_uint32("denoiser.latent_length", cfg.latent)


def _write_tokenizer(w, tok, vocab, chats=True):
    tokens = [tok.id_to_token(i) if i != MASK_ID else MASK for i in range(vocab)]
    merges = json.loads(tok.to_str())["model"]["merges"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([_CONTROL if t in SPECIALS + [MASK] else _NORMAL for t in tokens])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    w.add_bos_token_id(tok.token_to_id(BOS))
    w.add_eos_token_id(tok.token_to_id(END))
    w.add_add_bos_token(chats)
    if chats:
        w.add_chat_template(CHAT_TEMPLATE)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--kind", choices=KINDS, default="stories")
    a.add_argument("--out", help="default: that of training.train")
    args = a.parse_args()
    out = args.out or KINDS[args.kind].out
    at = lambda name: os.path.join(out, name)
    tok = sample.tokenizer()
    model, state = sample.load(at("checkpoint.pt"))
    write_gguf(at("model-f32.gguf"), args.kind, model, tok)
    if args.kind == "stories":
        with open(at("reference.json"), "w") as f:
            json.dump(oracle.reference(model, tok), f)
    if args.kind == "tales-denoiser":
        return  # it tells nothing of a text that is there
    texts, ids = heldout(tok, state["args"]["seed"])
    with open(at("heldout.txt"), "w") as f:
        f.write("\n\n\n".join(t.removesuffix(END) for t in texts) + "\n")
    with open(at("heldout_ids.json"), "w") as f:
        json.dump(ids, f)


if __name__ == "__main__":
    main()
