"""Writes tiny random checkpoints with reference logits; see README.md."""
import argparse
import hashlib
import json
import math
import os
import pathlib
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as QT
from safetensors.numpy import load_file
from safetensors.torch import save_file

import packed as layouts
from families import FAMILIES, Sizes

torch.set_num_threads(1)
torch.set_grad_enabled(False)


def snap(x):
    """Rounds f32 to numbers that BF16 and F16 both hold."""
    u = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    y = (((u + 0x7FFF + ((u >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)
    return np.where(np.abs(y) < 2.0**-14, np.float32(0), y)


def draw(seed, name, shape, family):
    """A random tensor whose size keeps the model's activations near one."""
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(key[:8], "little")))
    x = rng.standard_normal(shape)
    leaf = name.removesuffix(".weight").split(".")[-1]
    if "norm" in leaf:
        return snap(x * 0.1 + (0.0 if family.norm_plus_one else 1.0))
    if leaf in ("bias", "gate_up_proj_bias", "down_proj_bias"):
        return snap(x * 0.2)
    if leaf == "sinks":
        return snap(x)
    if leaf == "embed_tokens":
        return snap(x * 0.3)
    fan = shape[-2] if leaf in ("gate_up_proj", "down_proj") and len(shape) == 3 and family.arch == gguf.MODEL_ARCH.GPT_OSS else shape[-1]
    gain = 2.0 if leaf in ("gate", "router", "lm_head") else 1.3
    return snap(x * gain / math.sqrt(fan))


def mxfp4_experts(weights):
    """Rounds gpt-oss's experts to MXFP4; gives the published blocks and scales of each, [experts, rows, blocks(, 16)]."""
    packed = {}
    for name in [n for n in weights if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        rows = np.ascontiguousarray(weights.pop(name).transpose(0, 2, 1), np.float32)
        raw = gguf.quants.quantize(rows, QT.MXFP4).reshape(*rows.shape[:2], -1, 17)
        nibbles = np.concatenate([raw[..., 1:] & 15, raw[..., 1:] >> 4], -1)  # by element
        packed[name + "_blocks"] = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
        packed[name + "_scales"] = raw[..., 0]
    return packed


def dequantized(packed, width_of):
    """The experts that the dequantizer of transformers reads from blocks and scales."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    out = {}
    for name in packed:
        if name.endswith("_blocks"):
            base = name.removesuffix("_blocks")
            blocks, scales = torch.from_numpy(packed[name]), torch.from_numpy(packed[base + "_scales"])
            x = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
            out[base] = np.ascontiguousarray(x if x.shape == width_of[base] else x.transpose(0, 2, 1))
            assert out[base].shape == width_of[base], (out[base].shape, width_of[base])
    return out


def permute(w, heads):
    """Rows of the two halves of a head -> rows of pairs side by side."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def gguf_tensors(family, config, weights, packed):
    """The converter's tensors: {name: f32 array} and {name: MXFP4 bytes}."""
    names = gguf.get_tensor_name_map(family.arch, config.num_hidden_layers)
    plain, raw, stacks = {}, {}, {}

    def to(name):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, name
        return found

    for name, x in weights.items():
        if "lm_head" in name and config.tie_word_embeddings:
            continue
        if name.endswith(".sinks"):
            name += ".weight"
        if ".experts." in name and name.split(".experts.")[1].split(".")[0].isdigit():
            pre, rest = name.split(".experts.")
            index, rest = rest.split(".", 1)
            stacks.setdefault(f"{pre}.experts.{rest}", {})[int(index)] = x
            continue
        if family.arch == gguf.MODEL_ARCH.GPT_OSS and ".experts." in name:
            base = name.split(".experts.")[0] + ".experts."
            if name.endswith("gate_up_proj"):
                plain[to(base + "gate_proj.weight")] = x[..., 0::2].transpose(0, 2, 1)
                plain[to(base + "up_proj.weight")] = x[..., 1::2].transpose(0, 2, 1)
            elif name.endswith("gate_up_proj_bias"):
                plain[to(base + "gate_proj.bias")] = x[:, 0::2]
                plain[to(base + "up_proj.bias")] = x[:, 1::2]
            elif name.endswith("down_proj"):
                plain[to(base + "down_proj.weight")] = x.transpose(0, 2, 1)
            else:
                plain[to(base + "down_proj.bias")] = x
            continue
        if ".experts.gate_up_proj" in name:
            half = x.shape[1] // 2
            plain[to(name.replace("gate_up_proj", "gate_proj") + ".weight")] = x[:, :half]
            plain[to(name.replace("gate_up_proj", "up_proj") + ".weight")] = x[:, half:]
            continue
        if name.endswith(".experts.down_proj"):
            name += ".weight"
        if family.permute and (".q_proj." in name or ".k_proj." in name):
            x = permute(x, config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads)
        if family.norm_plus_one and name.endswith("norm.weight"):
            x = x + np.float32(1)
        plain[to(name)] = x
    for name, members in stacks.items():
        plain[to(name)] = np.stack([members[i] for i in range(len(members))])
    for name, blocks in packed.items():
        if not name.endswith("_blocks"):
            continue
        base = name.removesuffix("_blocks")
        scales = packed[base + "_scales"]
        nibbles = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:3], 32)
        block = np.concatenate([scales[..., None], nibbles[..., :16] | nibbles[..., 16:] << 4], -1)
        block = block.reshape(*block.shape[:2], -1)
        if base.endswith("gate_up_proj"):
            raw[to(base.replace("gate_up_proj", "gate_proj.weight"))] = block[:, 0::2]
            raw[to(base.replace("gate_up_proj", "up_proj.weight"))] = block[:, 1::2]
        else:
            raw[to(base + ".weight")] = block
    rope = config.rope_parameters
    if rope.get("rope_type") == "longrope":
        plain["rope_factors_long.weight"] = np.array(rope["long_factor"], np.float32)
        plain["rope_factors_short.weight"] = np.array(rope["short_factor"], np.float32)
    if rope.get("rope_type") == "llama3":
        dim = config.head_dim
        wavelength = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        original = rope["original_max_position_embeddings"]
        smooth = (original / wavelength - low) / (high - low)
        divisor = np.where(wavelength < original / high, 1.0, np.where(wavelength > original / low, factor, 1 / ((1 - smooth) / factor + smooth)))
        plain["rope_freqs.weight"] = divisor.astype(np.float32)
    return plain, raw


def write_gguf(path, family, config, plain, raw, half):
    arch = gguf.MODEL_ARCH_NAMES[family.arch]
    w = gguf.GGUFWriter(str(path), arch)
    w.add_name("tiny random oracle")
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    w.add_rope_freq_base(rope["rope_theta"])
    w.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    family.keys(w, config, arch)
    for name, x in plain.items():
        small = x.ndim == 1 or name.endswith(".bias") or not half
        w.add_tensor(name, np.ascontiguousarray(x, np.float32 if small else np.float16))
    for name, b in raw.items():
        w.add_tensor(name, np.ascontiguousarray(b), raw_dtype=QT.MXFP4)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make(name, seed, out, given, shards, stored):
    family = FAMILIES[name]
    rng = np.random.default_rng([seed, *name.encode()])
    sizes = Sizes.draw(rng, given)
    sizes.used = min(sizes.used, sizes.experts)
    config = family.config(sizes)
    folder = out / (name if stored else f"{name}-{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as t:
        model = family.model(config)
        model.save_pretrained(t)
        shapes = {k: v.shape for k, v in load_file(f"{t}/model.safetensors").items()}
        weights = {k: draw(seed, f"{name}/{k}", s, family) for k, s in shapes.items()}
        packed = {}
        quantization = None
        reference = dict(weights)
        if family.mxfp4:
            packed = mxfp4_experts(weights)
            quantization = {"quant_method": "mxfp4"}
            reference = weights | dequantized(packed, {k: s for k, s in shapes.items()})
        if family.packed:
            matrices = {k: v for k, v in weights.items() if k.endswith(("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight"))}
            values, packed, quantization = layouts.quantize(rng, family.packed, matrices)
            reference = weights | values
            weights = {k: v for k, v in weights.items() if k not in values}
        save_file({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in reference.items()}, f"{t}/model.safetensors", metadata={"format": "pt"})
        model = family.model.from_pretrained(t, dtype=torch.float32, attn_implementation="eager")
        model.eval()
    config = model.config
    config.dtype = torch.bfloat16
    config.architectures = [family.model.__name__]
    config.save_pretrained(folder)
    if quantization:
        own = json.loads((folder / "config.json").read_text())
        own["quantization_config"] = quantization
        (folder / "config.json").write_text(json.dumps(own, indent=1))
    files = {k: torch.from_numpy(np.ascontiguousarray(v)).to(torch.bfloat16) for k, v in weights.items()}
    files |= {k: torch.from_numpy(np.ascontiguousarray(v)) if isinstance(v, np.ndarray) else v for k, v in packed.items()}
    save_shards(folder, files, shards)
    if family.gguf:
        plain, raw = gguf_tensors(family, config, weights, packed)
        if not stored:
            write_gguf(folder / "model-f32.gguf", family, config, plain, raw, half=False)
        write_gguf(folder / "model-f16.gguf", family, config, plain, raw, half=True)
    lengths = family.prompts[1::2] if stored else family.prompts
    prompts = [rng.integers(0, sizes.vocab, n).tolist() for n in lengths]
    for i, ids in enumerate(prompts):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
        np.save(folder / f"logits_{i}.npy", np.ascontiguousarray(logits))
    (folder / "prompts.json").write_text(json.dumps(prompts))
    print(f"{folder.name:20s} {sizes}", flush=True)


def save_shards(folder, tensors, shards):
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
        return
    index = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        own = names[i::shards]
        save_file({k: tensors[k] for k in own}, str(folder / file), metadata={"format": "pt"})
        index |= {k: file for k in own}
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", required=True, type=pathlib.Path)
    p.add_argument("--seed", type=int, nargs="*", default=[1])
    p.add_argument("--only", help="families, with commas between")
    p.add_argument("--shards", type=int, default=1)
    p.add_argument("--stored", action="store_true", help="what lies with the tests: no F32 file, two of the prompts")
    for size in ("width", "layers", "heads", "kv-heads", "head-dim", "inner", "vocab", "window", "experts", "used", "context"):
        p.add_argument(f"--{size}", type=int)
    p.add_argument("--tied", type=int, choices=(0, 1))
    a = p.parse_args()
    given = {k: v for k, v in vars(a).items() if k not in ("out", "seed", "only", "shards", "stored")}
    for seed in a.seed:
        for name in a.only.split(",") if a.only else FAMILIES:
            make(name, seed, a.out, given, a.shards, a.stored)
