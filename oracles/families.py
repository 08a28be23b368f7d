"""What each family's tiny model looks like, and what llama.cpp's converter writes about it."""
import math
from dataclasses import dataclass, replace
from typing import Callable

import transformers as tf
from gguf import MODEL_ARCH as A


@dataclass
class Sizes:
    """The sizes that a seed chooses, or the command line fixes."""
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    window: int
    experts: int
    used: int
    tied: bool
    context: int = 256

    @staticmethod
    def draw(rng, given):
        kv_heads = int(rng.choice([1, 2, 3]))
        s = Sizes(
            width=int(rng.choice([64, 96, 128, 160])),
            layers=int(rng.choice([2, 3, 5])),
            heads=kv_heads * int(rng.choice([1, 2, 3])),
            kv_heads=kv_heads,
            head_dim=int(rng.choice([16, 32, 48, 64])),
            inner=32 * int(rng.choice([2, 3, 5])),
            vocab=int(rng.choice([200, 320, 509])),
            window=int(rng.choice([4, 7, 16])),
            experts=int(rng.choice([3, 4, 8])),
            used=int(rng.choice([1, 2, 3])),
            tied=bool(rng.integers(2)),
        )
        for k, v in given.items():
            if v is not None:
                setattr(s, k, v)
        # Some configurations want heads that divide the width, whatever their own width.
        s.width = -(-s.width // (s.heads * 16)) * s.heads * 16
        return s

    def common(self):
        return dict(
            hidden_size=self.width, num_hidden_layers=self.layers, num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads, vocab_size=self.vocab, intermediate_size=self.inner,
            max_position_embeddings=self.context, tie_word_embeddings=self.tied,
            bos_token_id=1, eos_token_id=2, pad_token_id=0)

    def whole_groups(self):
        """For matrices whose columns are in groups of 32 at least."""
        self.head_dim = -(-self.head_dim // 32) * 32
        self.width = -(-self.width // (self.heads * 32)) * self.heads * 32
        return self

    def whole_heads(self):
        """For families whose heads must divide the width."""
        self.width = self.heads * self.head_dim
        return self


@dataclass
class Family:
    arch: A
    model: type
    config: Callable
    # Keys beyond the common ones: (writer, config, prefix).
    keys: Callable = lambda w, c, a: None
    # Conventions of the converter.
    permute: bool = False
    norm_plus_one: bool = False
    mxfp4: bool = False
    # The layout of quantized matrices, see packed.py.
    packed: str = ""
    gguf: bool = True
    prompts: tuple = (1, 5, 23, 70)


def theta(base=10000.0, **more):
    return dict(rope_type="default", rope_theta=base) | more


def llama(s, **more):
    return tf.LlamaConfig(**s.common(), head_dim=s.head_dim, rms_norm_eps=1e-5,
                          **(dict(rope_parameters=theta()) | more))


def keys_linear(w, c, a):
    w.add_string(f"{a}.rope.scaling.type", "linear")
    w.add_rope_scaling_factor(c.rope_parameters["factor"])


def keys_yarn(w, c, a):
    r = c.rope_parameters
    w.add_string(f"{a}.rope.scaling.type", "yarn")
    w.add_rope_scaling_factor(r["factor"])
    w.add_rope_scaling_orig_ctx_len(r["original_max_position_embeddings"])


def keys_experts(w, c, a):
    w.add_expert_count(getattr(c, "num_local_experts", None) or c.num_experts)
    w.add_expert_used_count(c.num_experts_per_tok)
    if getattr(c, "moe_intermediate_size", None):
        w.add_expert_feed_forward_length(c.moe_intermediate_size)
    if getattr(c, "shared_expert_intermediate_size", None):
        w.add_expert_shared_feed_forward_length(c.shared_expert_intermediate_size)


def keys_gemma3(w, c, a):
    w.add_sliding_window(c.sliding_window)
    w.add_sliding_window_pattern([t == "sliding_attention" for t in c.layer_types])
    w.add_float32(f"{a}.rope.freq_base_swa", c.rope_parameters["sliding_attention"]["rope_theta"])
    full = c.rope_parameters["full_attention"]
    if full["rope_type"] == "linear":
        w.add_string(f"{a}.rope.scaling.type", "linear")
        w.add_rope_scaling_factor(full["factor"])


def keys_gemma2(w, c, a):
    w.add_sliding_window(c.sliding_window)
    w.add_attn_logit_softcapping(c.attn_logit_softcapping)
    w.add_final_logit_softcapping(c.final_logit_softcapping)


def keys_phi3(w, c, a):
    orig = c.rope_parameters.get("original_max_position_embeddings") or c.original_max_position_embeddings
    w.add_rope_scaling_orig_ctx_len(orig)
    w.add_sliding_window(c.sliding_window or 0)
    if c.rope_parameters["rope_type"] == "longrope":
        scale = c.max_position_embeddings / orig
        w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(orig)) if scale > 1 else 1.0)


def keys_granite(w, c, a):
    w.add_embedding_scale(c.embedding_multiplier)
    w.add_residual_scale(c.residual_multiplier)
    w.add_attention_scale(c.attention_multiplier)
    w.add_logit_scale(c.logits_scaling)


def keys_gpt_oss(w, c, a):
    keys_experts(w, c, a)
    w.add_expert_feed_forward_length(c.intermediate_size)
    w.add_sliding_window(c.sliding_window)
    keys_yarn(w, c, a)


def phi3(s, **rope):
    s.whole_heads()
    part = 0.75 if s.head_dim % 8 == 0 else 1.0
    return tf.Phi3Config(**s.common(), rms_norm_eps=1e-5, sliding_window=s.window * 4,
                         original_max_position_embeddings=64 if rope else s.context,
                         rope_parameters=theta() | dict(partial_rotary_factor=part) | rope)


def phi3_long(s):
    s.whole_heads()
    n = int(s.head_dim * 0.75) // 2
    return phi3(s, rope_type="longrope", original_max_position_embeddings=64,
                short_factor=[1.0 + 0.07 * i for i in range(n)],
                long_factor=[1.5 + 0.9 * i for i in range(n)])


def gpt_oss(s):
    s.width = -(-s.width // (s.heads * 32)) * s.heads * 32  # whole MXFP4 blocks
    return tf.GptOssConfig(**s.common(), head_dim=s.head_dim, num_local_experts=s.experts,
                           num_experts_per_tok=s.used, sliding_window=s.window,
                           rope_parameters=dict(rope_type="yarn", rope_theta=150000.0, factor=8.0, beta_fast=32.0,
                                                beta_slow=1.0, truncate=False, original_max_position_embeddings=32))


FAMILIES = {
    "llama": Family(A.LLAMA, tf.LlamaForCausalLM, llama, permute=True),
    "llama-linear": Family(A.LLAMA, tf.LlamaForCausalLM,
                           lambda s: llama(s, rope_parameters=theta(rope_type="linear", factor=3.0)), keys_linear, permute=True),
    "llama-yarn": Family(A.LLAMA, tf.LlamaForCausalLM,
                         lambda s: llama(s, rope_parameters=theta(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)),
                         keys_yarn, permute=True),
    "llama3": Family(A.LLAMA, tf.LlamaForCausalLM,
                     lambda s: llama(s, attention_bias=True, mlp_bias=True, rope_parameters=theta(
                         rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)),
                     permute=True),
    "mistral": Family(A.LLAMA, tf.MistralForCausalLM,
                      lambda s: tf.MistralConfig(**s.common(), head_dim=s.head_dim, sliding_window=s.window, rope_parameters=theta()),
                      lambda w, c, a: w.add_sliding_window(c.sliding_window), permute=True),
    "mixtral": Family(A.LLAMA, tf.MixtralForCausalLM,
                      lambda s: tf.MixtralConfig(**s.common(), head_dim=s.head_dim, num_local_experts=s.experts,
                                                 num_experts_per_tok=s.used, rope_parameters=theta()),
                      keys_experts, permute=True),
    "qwen2": Family(A.QWEN2, tf.Qwen2ForCausalLM,
                    lambda s: tf.Qwen2Config(**s.whole_heads().common(), rope_parameters=theta(1e6))),
    "qwen2moe": Family(A.QWEN2MOE, tf.Qwen2MoeForCausalLM,
                       lambda s: tf.Qwen2MoeConfig(**s.whole_heads().common(), num_experts=s.experts, num_experts_per_tok=s.used,
                                                   moe_intermediate_size=64, shared_expert_intermediate_size=s.inner,
                                                   norm_topk_prob=False, rope_parameters=theta(1e6)),
                       keys_experts),
    "qwen3": Family(A.QWEN3, tf.Qwen3ForCausalLM,
                    lambda s: tf.Qwen3Config(**s.common(), head_dim=s.head_dim, rope_parameters=theta(1e6))),
    "qwen3moe": Family(A.QWEN3MOE, tf.Qwen3MoeForCausalLM,
                       lambda s: tf.Qwen3MoeConfig(**s.common(), head_dim=s.head_dim, num_experts=s.experts, num_experts_per_tok=s.used,
                                                   moe_intermediate_size=64, norm_topk_prob=True,
                                                   rope_parameters=theta(1e6)),
                       keys_experts),
    # llama.cpp has no names for dense layers among those of experts.
    "qwen3moe-dense": Family(A.QWEN3MOE, tf.Qwen3MoeForCausalLM,
                             lambda s: tf.Qwen3MoeConfig(**s.common(), head_dim=s.head_dim, num_experts=s.experts,
                                                         num_experts_per_tok=s.used, moe_intermediate_size=64, norm_topk_prob=False,
                                                         mlp_only_layers=[1], rope_parameters=theta(1e6)),
                             gguf=False),
    "gemma2": Family(A.GEMMA2, tf.Gemma2ForCausalLM,
                     lambda s: tf.Gemma2Config(**(s.common() | dict(tie_word_embeddings=True)), head_dim=s.head_dim,
                                               query_pre_attn_scalar=s.head_dim, sliding_window=s.window, attn_logit_softcapping=4.0,
                                               final_logit_softcapping=6.0, rope_parameters=theta()),
                     keys_gemma2, norm_plus_one=True),
    "gemma3": Family(A.GEMMA3, tf.Gemma3ForCausalLM,
                     lambda s: gemma3(s), keys_gemma3, norm_plus_one=True),
    "phi3": Family(A.PHI3, tf.Phi3ForCausalLM, phi3, keys_phi3),
    "phi3-long": Family(A.PHI3, tf.Phi3ForCausalLM, phi3_long, keys_phi3, prompts=(5, 64, 65, 90)),
    "granite": Family(A.GRANITE, tf.GraniteForCausalLM,
                      lambda s: tf.GraniteConfig(**s.whole_heads().common(), embedding_multiplier=3.0, residual_multiplier=0.22,
                                                 attention_multiplier=0.11, logits_scaling=4.0, rope_parameters=theta()),
                      keys_granite, permute=True),
    "olmo2": Family(A.OLMO2, tf.Olmo2ForCausalLM,
                    lambda s: tf.Olmo2Config(**s.whole_heads().common(), rope_parameters=theta(500000.0))),
    "glm4": Family(A.GLM4, tf.Glm4ForCausalLM,
                   lambda s: tf.Glm4Config(**s.common(), head_dim=s.head_dim, attention_bias=True,
                                           rope_parameters=theta(partial_rotary_factor=0.5))),
    "gpt-oss": Family(A.GPT_OSS, tf.GptOssForCausalLM, gpt_oss, keys_gpt_oss),
    "gpt-oss-mxfp4": Family(A.GPT_OSS, tf.GptOssForCausalLM, gpt_oss, keys_gpt_oss, mxfp4=True),
}

for base, layout in [
    ("llama", "compressed-tensors"), ("llama", "gptq"), ("llama", "awq"),
    # Fused matrices, and experts.
    ("phi3", "gptq"), ("mixtral", "compressed-tensors"), ("qwen3moe", "awq"),
]:
    config = lambda s, inner=FAMILIES[base].config: inner(s.whole_groups())
    FAMILIES[f"{base}-{layout}"] = replace(FAMILIES[base], config=config, packed=layout, gguf=False)


def gemma3(s):
    types = ["full_attention" if (i + 1) % 3 == 0 else "sliding_attention" for i in range(s.layers)]
    full = theta(1e6) | (dict(rope_type="linear", factor=8.0) if s.layers % 2 else {})
    common = s.common() | dict(tie_word_embeddings=True)
    return tf.Gemma3TextConfig(**common, head_dim=s.head_dim, query_pre_attn_scalar=s.head_dim, sliding_window=s.window,
                               layer_types=types, rope_parameters=dict(full_attention=full, sliding_attention=theta(10000.0)))
