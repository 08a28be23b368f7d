"""Tiny random encoders and rerankers with what `transformers` makes of some texts, and the comparison
with `gristmill embed` and `gristmill rerank`; see README.md."""
import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast, Qwen3Config,
    Qwen3ForCausalLM, Qwen3Model, RobertaConfig, RobertaModel, XLMRobertaConfig,
    XLMRobertaForSequenceClassification, XLMRobertaModel)

torch.set_num_threads(1)
torch.set_grad_enabled(False)

TEXTS = [
    "The cat sat on the mat.", "How do I open a file?", "Use open(), which returns a file object.",
    "It rained all day, and the river rose.", "Numbers are 1, 2 and 3.", "yes", "no, not that one",
    "A much longer text goes on and on, so that texts of one batch differ in length: " * 3,
]
QUERY = "Which function opens a file?"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
# As the model card of Qwen3-Reranker has it.
BEFORE = ('<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the '
          'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n')
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def word_piece():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    t.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                                   sep_token="[SEP]", mask_token="[MASK]",
                                   model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def unigram():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    t.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>"))
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", cls_token="<s>",
                                   sep_token="</s>", pad_token="<pad>", unk_token="<unk>")


def byte_level(ends):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    t.train_from_iterator(TEXTS * 3 + ["yes no"] * 50, trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.decoder = decoders.ByteLevel()
    if ends:
        t.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|>", pair="$A $B <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def randomise(model, seed):
    """Norms and biases are random too: one that is forgotten shows."""
    g = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        x = torch.randn(p.shape, generator=g)
        if "norm" in name.lower() and name.endswith("weight"):
            x = 1 + 0.1 * x
        elif p.ndim < 2:
            x = 0.2 * x
        elif "embed" not in name:
            x = 1.3 * x / p.shape[-1] ** 0.5
        p.copy_(x)
    return model.eval()


def unit(x):
    return (x / x.norm(dim=-1, keepdim=True)).numpy()


def families(seed):
    """Name, model, tokenizer, and what is expected of [(kind, options of gristmill, numbers)]."""
    heads = 2 + seed % 3
    body = dict(hidden_size=16 * heads, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=96,
                attn_implementation="eager")
    wp, ug = word_piece(), unigram()
    roberta = dict(max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5)
    qwen = dict(**body, num_key_value_heads=1, head_dim=16, max_position_embeddings=1024, tie_word_embeddings=True)

    def states(m, t, text):
        return m(**t(text, return_tensors="pt")).last_hidden_state[0]

    def pooled(m, t):
        per = [states(m, t, text) for text in TEXTS]
        return [(how, ["--pooling", how], np.stack([unit(f(x)) for x in per]))
                for how, f in [("mean", lambda x: x.mean(0)), ("cls", lambda x: x[0]), ("last", lambda x: x[-1])]]

    def scores(m, t):
        return [("scores", [], np.array([m(**t(QUERY, text, return_tensors="pt")).logits[0, 0].item() for text in TEXTS]))]

    m = randomise(BertModel(BertConfig(vocab_size=len(wp), **body)), seed)
    yield "bert", m, wp, pooled(m, wp)
    m = randomise(BertForSequenceClassification(BertConfig(vocab_size=len(wp), num_labels=1, **body)), seed)
    yield "bert-rerank", m, wp, scores(m, wp)
    m = randomise(RobertaModel(RobertaConfig(vocab_size=len(ug), **body, **roberta), add_pooling_layer=False), seed)
    yield "roberta", m, ug, pooled(m, ug)
    m = randomise(XLMRobertaModel(XLMRobertaConfig(vocab_size=len(ug), **body, **roberta), add_pooling_layer=False), seed)
    yield "xlm-roberta", m, ug, pooled(m, ug)
    config = XLMRobertaConfig(vocab_size=len(ug), num_labels=1, **body, **roberta)
    m = randomise(XLMRobertaForSequenceClassification(config), seed)
    yield "xlm-roberta-rerank", m, ug, scores(m, ug)

    t = byte_level(True)
    m = randomise(Qwen3Model(Qwen3Config(vocab_size=len(t), **qwen)), seed)
    last = np.stack([unit(states(m, t, text)[-1]) for text in TEXTS])
    yield "qwen3-embedding", m, t, [("last", [], last), ("dimensions", ["--dimensions", "16"], None)]
    t = byte_level(False)
    m = randomise(Qwen3ForCausalLM(Qwen3Config(vocab_size=len(t), **qwen)), seed)
    yes, no = (t.convert_tokens_to_ids(w) for w in ("yes", "no"))
    found = []
    for text in TEXTS:
        ids = t.encode(BEFORE, add_special_tokens=False)
        ids += t.encode(f"<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {text}", add_special_tokens=False)
        ids += t.encode(AFTER, add_special_tokens=False)
        logits = m(torch.tensor([ids])).logits[0, -1]
        found.append((logits[yes] - logits[no]).item())
    yield "qwen3-rerank", m, t, [("scores", [], np.array(found))]


def run(command, *args):
    done = subprocess.run([*shlex.split(command), *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--command", default="gristmill")
    p.add_argument("--tolerance", type=float, default=1e-4)
    a = p.parse_args()
    failed = 0
    for name, model, tokenizer, expected in families(a.seed):
        folder = a.out / f"{name}-{a.seed}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if name == "qwen3-embedding":
            (folder / "1_Pooling").mkdir(exist_ok=True)
            modes = {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
            (folder / "1_Pooling/config.json").write_text(json.dumps(modes))
        texts = []
        for i, text in enumerate(TEXTS):
            texts.append(folder / f"{i}.txt")
            texts[-1].write_text(text)
        for kind, options, want in expected:
            try:
                if kind == "scores":
                    v = run(a.command, "rerank", "-q", "--json", "--activations", "f32", "-m", folder, QUERY, *options, *texts)
                    got = np.zeros(len(TEXTS))
                    for r in v["results"]:
                        got[r["index"]] = r["score"]
                else:
                    v = run(a.command, "embed", "-q", "--activations", "f32", *options, "-m", folder, *texts)
                    got = np.array([d["embedding"] for d in v["data"]])
                if kind == "dimensions":
                    want = expected[0][2][:, :16]
                    want = want / np.linalg.norm(want, axis=-1, keepdims=True)
                far, said = float(np.abs(got - want).max()), ""
            except RuntimeError as e:
                far, said = float("inf"), str(e)
            ok = far < a.tolerance
            failed += not ok
            print(f"{'ok  ' if ok else 'FAIL'} {folder.name:22s} {kind:10s} {far:.2e} {said}", flush=True)
    sys.exit(1 if failed else 0)
