"""Models of real shapes with random weights: how fast one runs does not depend on their values.

A shape is written in a format without going through floats: random blocks of each type, with a scale
that gives weights of variance 1 / columns. Which type each matrix has in a format is what
`llama-quantize --dry-run` says of an F16 file of the same shape, whose data is a hole and takes no
space. Vocabularies are made up.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter

# What `general.file_type` says of a format, as llama.cpp numbers them.
FORMATS = {"F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q6_K": 18}


@dataclass(frozen=True)
class Tensor:
    """`shape` as numpy has it: rows before columns. `fill` None: a matrix, in the file's format."""

    name: str
    shape: tuple
    fill: float | None = None


@dataclass(frozen=True)
class Decoder:
    """Llama, or Qwen 3 with its norms of queries and keys."""

    arch: str
    layers: int
    width: int
    feed: int
    heads: int
    kv_heads: int
    head: int
    vocab: int
    theta: float = 10000.0
    tied: bool = False
    context: int = 16384

    def metadata(self, w):
        w.add_context_length(self.context)
        w.add_embedding_length(self.width)
        w.add_feed_forward_length(self.feed)
        w.add_head_count(self.heads)
        w.add_head_count_kv(self.kv_heads)
        w.add_key_length(self.head)
        w.add_value_length(self.head)
        w.add_rope_dimension_count(self.head)
        w.add_rope_freq_base(self.theta)
        w.add_layer_norm_rms_eps(1e-5)
        w.add_vocab_size(self.vocab)
        # Bytes first, as models of sentencepiece have them, then words that never come.
        first = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
        tokens = first + [f"w{i}" for i in range(len(first), self.vocab)]
        kinds = [2, 3, 3] + [6] * 256 + [1] * (self.vocab - 259)
        w.add_tokenizer_model("llama")
        w.add_tokenizer_pre("default")
        w.add_token_list(tokens)
        w.add_token_scores([-float(i) for i in range(self.vocab)])
        w.add_token_types(kinds)
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_unk_token_id(0)

    def tensors(self):
        d, q, kv = self.width, self.heads * self.head, self.kv_heads * self.head
        yield Tensor("token_embd.weight", (self.vocab, d))
        yield Tensor("output_norm.weight", (d,), 1.0)
        if not self.tied:
            yield Tensor("output.weight", (self.vocab, d))
        for layer in range(self.layers):
            at = f"blk.{layer}."
            yield Tensor(at + "attn_norm.weight", (d,), 1.0)
            yield Tensor(at + "attn_q.weight", (q, d))
            yield Tensor(at + "attn_k.weight", (kv, d))
            yield Tensor(at + "attn_v.weight", (kv, d))
            yield Tensor(at + "attn_output.weight", (d, q))
            if self.arch == "qwen3":
                yield Tensor(at + "attn_q_norm.weight", (self.head,), 1.0)
                yield Tensor(at + "attn_k_norm.weight", (self.head,), 1.0)
            yield Tensor(at + "ffn_norm.weight", (d,), 1.0)
            yield Tensor(at + "ffn_gate.weight", (self.feed, d))
            yield Tensor(at + "ffn_up.weight", (self.feed, d))
            yield Tensor(at + "ffn_down.weight", (d, self.feed))


@dataclass(frozen=True)
class Rwkv7:
    """RWKV-7, with the ranks of its four low-rank matrices."""

    layers: int
    width: int
    feed: int
    vocab: int
    head: int = 64
    decay: int = 64
    rate: int = 64
    mix: int = 32
    gate: int = 128
    arch: str = "rwkv7"

    def metadata(self, w):
        w.add_context_length(1 << 20)
        w.add_embedding_length(self.width)
        w.add_feed_forward_length(self.feed)
        w.add_head_count(0)
        w.add_layer_norm_eps(1e-5)
        w.add_wkv_head_size(self.head)
        w.add_decay_lora_rank(self.decay)
        w.add_iclr_lora_rank(self.rate)
        w.add_value_residual_mix_lora_rank(self.mix)
        w.add_gate_lora_rank(self.gate)
        tokens = ["<s>"] + [f"\\x{b:02x}" for b in range(1, 256)]
        tokens += [f"w{i}" for i in range(256, self.vocab)]
        w.add_tokenizer_model("rwkv")
        w.add_token_list(tokens)
        w.add_token_types([1] * self.vocab)
        w.add_bos_token_id(0)
        w.add_eos_token_id(0)

    def tensors(self):
        d = self.width

        def norm(name, n):
            yield Tensor(name + ".weight", (n,), 1.0)
            yield Tensor(name + ".bias", (n,), 0.0)

        yield Tensor("token_embd.weight", (self.vocab, d))
        yield from norm("token_embd_norm", d)
        yield from norm("output_norm", d)
        yield Tensor("output.weight", (self.vocab, d))
        for layer in range(self.layers):
            at = f"blk.{layer}."
            for name in ("attn_norm", "attn_norm_2", "time_mix_ln"):
                yield from norm(at + name, d)
            at += "time_mix_"
            # The first layer's values are what others mix with: its own mix is never looked at.
            ranks = {"w": self.decay, "a": self.rate, "v": self.mix if layer else self.rate}
            for name, rank in ranks.items():
                yield Tensor(f"{at}{name}0.weight", (d,), 0.0)
                yield Tensor(f"{at}{name}1.weight", (rank, d))
                yield Tensor(f"{at}{name}2.weight", (d, rank))
            yield Tensor(at + "g1.weight", (self.gate, d))
            yield Tensor(at + "g2.weight", (d, self.gate))
            yield Tensor(at + "lerp_fused.weight", (6, 1, 1, d), 0.5)
            for name in ("k_k", "k_a", "r_k"):
                yield Tensor(f"{at}{name}.weight", (d,), 0.5)
            for name in ("key", "value", "receptance", "output"):
                yield Tensor(f"{at}{name}.weight", (d, d))
            at = f"blk.{layer}.channel_mix_"
            yield Tensor(at + "lerp_k.weight", (1, 1, d), 0.5)
            yield Tensor(at + "key.weight", (self.feed, d))
            yield Tensor(at + "value.weight", (d, self.feed))


@dataclass(frozen=True)
class Bert:
    layers: int
    width: int
    feed: int
    heads: int
    vocab: int
    context: int = 512
    arch: str = "bert"

    def metadata(self, w):
        w.add_context_length(self.context)
        w.add_embedding_length(self.width)
        w.add_feed_forward_length(self.feed)
        w.add_head_count(self.heads)
        w.add_layer_norm_eps(1e-12)
        w.add_causal_attention(False)
        w.add_pooling_type(gguf.PoolingType.CLS)
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        letters = [mark + chr(c) for mark in ("\u2581", "") for c in range(33, 127)]
        tokens = special + letters
        tokens += [f"\u2581w{i}" for i in range(len(tokens), self.vocab)]
        w.add_tokenizer_model("bert")
        w.add_tokenizer_pre("jina-v2-en")
        w.add_token_list(tokens)
        w.add_token_types([3] * 5 + [1] * (self.vocab - 5))
        w.add_token_type_count(2)
        w.add_pad_token_id(0)
        w.add_unk_token_id(1)
        w.add_bos_token_id(2)
        w.add_sep_token_id(3)
        w.add_mask_token_id(4)

    def tensors(self):
        d = self.width

        def norm(name):
            yield Tensor(name + ".weight", (d,), 1.0)
            yield Tensor(name + ".bias", (d,), 0.0)

        def linear(name, rows, cols):
            yield Tensor(name + ".weight", (rows, cols))
            yield Tensor(name + ".bias", (rows,), 0.0)

        yield Tensor("token_embd.weight", (self.vocab, d))
        yield Tensor("token_types.weight", (2, d), 0.0)
        yield Tensor("position_embd.weight", (self.context, d), 0.0)
        yield from norm("token_embd_norm")
        for layer in range(self.layers):
            at = f"blk.{layer}."
            for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
                yield from linear(at + name, d, d)
            yield from norm(at + "attn_output_norm")
            yield from linear(at + "ffn_up", self.feed, d)
            yield from linear(at + "ffn_down", d, self.feed)
            yield from norm(at + "layer_output_norm")


SHAPES = {
    "tinyllama-1.1b": Decoder("llama", 22, 2048, 5632, 32, 4, 64, 32000),
    "qwen3-0.6b": Decoder("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, theta=1e6, tied=True),
    "llama-3.1-8b": Decoder("llama", 32, 4096, 14336, 32, 8, 128, 128256, theta=5e5),
    "llama-2-7b": Decoder("llama", 32, 4096, 11008, 32, 32, 128, 32000),
    "rwkv7-0.4b": Rwkv7(24, 1024, 4096, 65536),
    "bert-base": Bert(12, 768, 3072, 12, 30522),
    # To see that everything works; it fits in the caches, so its figures mean nothing.
    "tiny": Decoder("llama", 2, 256, 512, 4, 2, 64, 512),
}


NORMAL = np.random.default_rng(0).standard_normal(1 << 18, np.float32)


def _half(std):
    return np.array([std], np.float16).view(np.uint8)


def _block(kind, rng, n, cols):
    """`n` random blocks of a type as bytes. What the scales are divided by is the deviation of a
    type's integers where all are equally likely."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (n, size), np.uint8)
    one = cols**-0.5
    if kind in (Type.Q4_0, Type.Q5_0, Type.Q8_0):
        blocks[:, 0:2] = _half(one / {Type.Q4_0: 4.6, Type.Q5_0: 9.2, Type.Q8_0: 74.0}[kind])
    elif kind in (Type.Q4_K, Type.Q5_K):
        # Least values of half the range, so that the mean is zero.
        middle, deviation = {Type.Q4_K: (7.5, 258.0), Type.Q5_K: (15.5, 525.0)}[kind]
        blocks[:, 0:2] = _half(one / deviation)
        blocks[:, 2:4] = _half(middle * one / deviation)
    elif kind == Type.Q6_K:
        blocks[:, 208:210] = _half(one / 1367.0)
    else:
        raise ValueError(f"no random blocks of {kind.name} are known here")
    return blocks


def _data(tensor, kind, rng):
    """The bytes of a tensor."""
    if tensor.fill is not None:
        return np.full(tensor.shape, tensor.fill, np.float32)
    rows, cols = tensor.shape
    if kind == Type.F32 or kind == Type.F16:
        pool = NORMAL * np.float32(cols**-0.5)
        return np.resize(pool.astype(np.float16 if kind == Type.F16 else np.float32), (rows, cols))
    length, size = gguf.GGML_QUANT_SIZES[kind]
    n = rows * cols // length
    # A few megabytes of them again and again.
    return np.resize(_block(kind, rng, min(n, 20_011), cols), (n, size))


def _write(shape, file_type, path, type_of, holes=False):
    w = GGUFWriter(path, shape.arch)
    w.add_name("random weights")
    w.add_block_count(shape.layers)
    w.add_file_type(file_type)
    w.add_quantization_version(2)
    shape.metadata(w)
    tensors = list(shape.tensors())
    total = 0
    for t in tensors:
        kind = Type.F32 if t.fill is not None else type_of(t.name)
        length, size = gguf.GGML_QUANT_SIZES[kind]
        count = int(np.prod(t.shape))
        bytes_ = count // length * size
        total += GGUFWriter.ggml_pad(bytes_, w.data_alignment)
        w.add_tensor_info(t.name, t.shape, np.dtype(np.float32), bytes_, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    if holes:
        w.close()
        os.truncate(path, GGUFWriter.ggml_pad(os.path.getsize(path), w.data_alignment) + total)
        return
    rng = np.random.default_rng(1)
    for t in tensors:
        w.write_tensor_data(_data(t, None if t.fill is not None else type_of(t.name), rng))
    w.close()


def types(shape, format_, quantize, scratch):
    """{matrix: type} of a format, as llama-quantize chooses them."""
    hollow = scratch / "hollow.gguf"
    _write(shape, FORMATS["F16"], hollow, lambda _: Type.F16, holes=True)
    try:
        command = [quantize, "--dry-run", hollow, format_]
        out = subprocess.run(command, capture_output=True, text=True)
    finally:
        hollow.unlink()
    if out.returncode != 0:
        raise SystemExit(f"{quantize} --dry-run failed:\n{(out.stdout + out.stderr)[-2000:]}")
    found = {}
    line = re.compile(r"\]\s+(\S+)\s+- \[.*type =\s+(\w+),.*?(?:\((\w+)\))?\s*$")
    for text in (out.stdout + out.stderr).splitlines():
        if match := line.search(text):
            name, before, after = match.groups()
            found[name] = Type[(after or before).upper()]
    missing = [t.name for t in shape.tensors() if t.fill is None and t.name not in found]
    if missing:
        raise SystemExit(f"{quantize} --dry-run says nothing of {missing[0]}")
    return found


def path_of(folder, model, format_):
    return folder / f"{model}-{format_.lower()}.gguf"


def write(folder, model, format_, quantize):
    """The file of a model in a format, written if it is not there."""
    path = path_of(folder, model, format_)
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    shape = SHAPES[model]
    print(f"writing {path}", flush=True)
    kinds = {} if format_ == "F16" else types(shape, format_, quantize, folder)
    part = Path(f"{path}.part")
    _write(shape, FORMATS[format_], part, lambda name: kinds.get(name, Type.F16))
    part.rename(path)
    return path
