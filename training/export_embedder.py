"""Writes the embedder as GGUF: matrices in Q8_0, norms, biases, positions and types in f32.

    python -m training.export_embedder --to crates/gristmill/bundled/tales-embed.gguf
"""

import argparse
import os

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer

from .embedder import CLS, MASK, PAD, SEP, SPECIALS, UNK, Bert, Config
from .train_embedder import OUT

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_WORD = "\u2581"  # marks a piece that begins a word


def load(out=OUT):
    """(model, tokenizer, the checkpoint)."""
    state = torch.load(os.path.join(out, "checkpoint.pt"))
    model = Bert(Config(**state["config"]))
    model.load_state_dict(state["model"])
    return model.eval(), Tokenizer.from_file(os.path.join(out, "tokenizer.json")), state


def load_gguf(path, out=OUT):
    """The model with the weights of a GGUF file, each as the file's blocks stand for it; its tokenizer."""
    model, tok, _ = load(out)
    read = gguf.GGUFReader(path)
    weights = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()) for t in read.tensors}
    model.load_state_dict({n: weights[n].view(v.shape) for n, v in model.state_dict().items()})
    return model, tok


def write_gguf(path, model, tok):
    cfg = model.cfg
    w = gguf.GGUFWriter(path, "bert")
    w.add_name("Gristmill Tales Embed")
    w.add_description("A sentence embedder with a reranker head, trained on text written by its own generator.")
    w.add_license("MIT OR Apache-2.0")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_context_length(cfg.context)
    w.add_embedding_length(cfg.dim)
    w.add_block_count(cfg.layers)
    w.add_feed_forward_length(cfg.ffn)
    w.add_head_count(cfg.heads)
    w.add_layer_norm_eps(cfg.eps)
    w.add_causal_attention(False)
    w.add_pooling_type(gguf.PoolingType.MEAN)
    _write_tokenizer(w, tok, cfg.vocab)
    for name, value in model.state_dict().items():
        value = value.float().numpy()
        if value.ndim == 2 and name not in ("position_embd.weight", "token_types.weight"):
            kind = gguf.GGMLQuantizationType.Q8_0
            w.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            w.add_tensor(name, value.astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def _write_tokenizer(w, tok, vocab):
    tokens = [tok.id_to_token(i) for i in range(vocab)]
    spelled = [t if t in SPECIALS else t[2:] if t.startswith("##") else _WORD + t for t in tokens]
    w.add_tokenizer_model("bert")
    w.add_tokenizer_pre("default")
    w.add_token_type_count(2)
    w.add_token_list(spelled)
    w.add_token_types([_UNKNOWN if t == UNK else _CONTROL if t in SPECIALS else _NORMAL for t in tokens])
    at = tok.token_to_id
    w.add_bos_token_id(at(CLS))
    w.add_eos_token_id(at(SEP))
    w.add_uint32("tokenizer.ggml.cls_token_id", at(CLS))
    w.add_sep_token_id(at(SEP))
    w.add_unk_token_id(at(UNK))
    w.add_pad_token_id(at(PAD))
    w.add_mask_token_id(at(MASK))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--to", default=os.path.join(OUT, "tales-embed.gguf"))
    args = a.parse_args()
    model, tok, _ = load()
    write_gguf(args.to, model, tok)
    print(f"{args.to}: {os.path.getsize(args.to):,} bytes")


if __name__ == "__main__":
    main()
