#!/usr/bin/env python3
"""Makes the tiny models of tests/data/hf that the families beyond the first ones need.

    pip install torch transformers safetensors
    tests/data/make_models.py [NAME ...]

Random weights in bfloat16, and what transformers computes with them in float32: golden.safetensors
has input_ids [40], logits [40, V], greedy_ids [24] with greedy_gap [24] (best minus second-best
logit), hidden_states [L+1, 40, E] (the last after the final norm), layer0_k and layer0_v
[K, 40, D] as they lie in the cache (with a window only its last positions). Only the agreement
with them means anything. Heads per group, KV heads and numbers of ranks all differ, and neither
vocabulary nor feed-forward columns divide evenly.
"""
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

N_PROMPT, N_GREEDY = 40, 24
HERE = pathlib.Path(__file__).resolve().parent / "hf"

COMMON = dict(bos_token_id=1, eos_token_id=2, pad_token_id=None, max_position_embeddings=256,
              tie_word_embeddings=False)


def factors(n, first, last):
    return [round(first + (last - first) * i / (n - 1), 3) for i in range(n)]


MODELS = {
    # Fused tensors; more positions than the original ones: long factors.
    "phi3-15q5kv-longrope": dict(
        model_type="phi3", hidden_size=60, intermediate_size=90, num_hidden_layers=2,
        num_attention_heads=15, num_key_value_heads=5, head_dim=4, vocab_size=331,
        rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1],
                             long_factor=[1.3, 5.5], original_max_position_embeddings=32,
                             partial_rotary_factor=1.0),
        original_max_position_embeddings=32),
    # As Phi-4-mini: a part of each head is rotated; so few positions that the short factors hold.
    "phi3-9q3kv-partial": dict(
        model_type="phi3", hidden_size=72, intermediate_size=100, num_hidden_layers=2,
        num_attention_heads=9, num_key_value_heads=3, head_dim=8, vocab_size=331,
        tie_word_embeddings=True, sliding_window=None,
        rope_parameters=dict(rope_type="longrope", rope_theta=10000.0,
                             short_factor=[1.0, 1.25, 1.5], long_factor=[1.0, 8.0, 40.0],
                             original_max_position_embeddings=128, partial_rotary_factor=0.75),
        original_max_position_embeddings=128),
    "granite-12q4kv": dict(
        model_type="granite", hidden_size=72, intermediate_size=90, num_hidden_layers=3,
        num_attention_heads=12, num_key_value_heads=4, vocab_size=331, attention_bias=True,
        mlp_bias=False, embedding_multiplier=6.0, attention_multiplier=0.3,
        residual_multiplier=0.22, logits_scaling=4.0,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
    # Every third layer has no rotation.
    "smollm3-10q2kv": dict(
        model_type="smollm3", hidden_size=80, intermediate_size=92, num_hidden_layers=4,
        num_attention_heads=10, num_key_value_heads=2, vocab_size=331, tie_word_embeddings=True,
        no_rope_layer_interval=3, use_sliding_window=False, sliding_window=None,
        rope_parameters=dict(rope_type="default", rope_theta=5000000.0)),
    # Windows in the upper layers only; YaRN.
    "qwen2-9q3kv-windows": dict(
        model_type="qwen2", hidden_size=72, intermediate_size=90, num_hidden_layers=3,
        num_attention_heads=9, num_key_value_heads=3, vocab_size=331, use_sliding_window=True,
        sliding_window=11, max_window_layers=1,
        rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                             original_max_position_embeddings=64)),
    "gemma2-10q5kv": dict(
        model_type="gemma2", hidden_size=60, intermediate_size=90, num_hidden_layers=4,
        num_attention_heads=10, num_key_value_heads=5, head_dim=8, vocab_size=331,
        tie_word_embeddings=True, sliding_window=11, query_pre_attn_scalar=5,
        attn_logit_softcapping=3.0, final_logit_softcapping=5.0,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
    "gemma3-12q3kv": dict(
        model_type="gemma3_text", hidden_size=60, intermediate_size=90, num_hidden_layers=4,
        num_attention_heads=12, num_key_value_heads=3, head_dim=8, vocab_size=331,
        tie_word_embeddings=True, sliding_window=11, query_pre_attn_scalar=5,
        layer_types=["sliding_attention", "sliding_attention", "full_attention",
                     "sliding_attention"],
        rope_parameters=dict(
            sliding_attention=dict(rope_type="default", rope_theta=10000.0),
            full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0))),
    "olmo2-8q4kv": dict(
        model_type="olmo2", hidden_size=64, intermediate_size=90, num_hidden_layers=3,
        num_attention_heads=8, num_key_value_heads=4, vocab_size=331,
        rope_parameters=dict(rope_type="default", rope_theta=500000.0)),
    # A shared expert; the second layer has a plain MLP; windows in every other lower layer.
    "qwen2moe-9q3kv-7experts": dict(
        model_type="qwen2_moe", hidden_size=72, intermediate_size=90, num_hidden_layers=4,
        num_attention_heads=9, num_key_value_heads=3, vocab_size=331, num_experts=7,
        num_experts_per_tok=3, moe_intermediate_size=44, shared_expert_intermediate_size=52,
        mlp_only_layers=[1], norm_topk_prob=False, use_sliding_window=True, sliding_window=11,
        max_window_layers=3, rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
}


def fill(model, seed):
    """So that every part of the model matters: products keep the size of what they are given."""
    random = torch.Generator().manual_seed(seed)
    offset = model.config.model_type.startswith("gemma")
    for name, p in model.named_parameters():
        values = torch.randn(p.shape, generator=random)
        if p.dim() >= 2:  # of experts, one above the other
            values /= p.shape[-1] ** 0.5
            if "q_proj" in name or "k_proj" in name or "qkv" in name:
                values *= 1.5
        elif name.endswith("bias"):
            values *= 0.2
        else:
            values = 0.2 * values + (0 if offset else 1)
        p.data = values.to(p.dtype)


@torch.no_grad()
def golden(model, seed):
    random = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(3, model.config.vocab_size, (1, N_PROMPT), generator=random)
    out = model(ids, use_cache=True, output_hidden_states=True)
    layer = out.past_key_values.layers[0]
    greedy, gaps, text = [], [], ids
    for _ in range(N_GREEDY):
        top = model(text, use_cache=False).logits[0, -1].topk(2)
        greedy.append(top.indices[0].item())
        gaps.append((top.values[0] - top.values[1]).item())
        text = torch.cat([text, top.indices[:1].view(1, 1)], 1)
    spread = (out.logits.max() - out.logits.min()).item()
    return spread, gaps, {
        "input_ids": ids[0].int(),
        "logits": out.logits[0],
        "greedy_ids": torch.tensor(greedy, dtype=torch.int32),
        "greedy_gap": torch.tensor(gaps),
        "hidden_states": torch.stack([h[0] for h in out.hidden_states]),
        "layer0_k": layer.keys[0],
        "layer0_v": layer.values[0],
    }


def make(name):
    settings = dict(COMMON, **MODELS[name])
    folder = HERE / name
    if folder.exists():
        shutil.rmtree(folder)
    config = AutoConfig.for_model(**settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    # 16-bit arithmetic is compared too: greedy tokens that stand out from the others.
    for seed in range(100, 140):
        fill(model, seed)
        model.save_pretrained(folder)
        exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                     attn_implementation="eager").eval()
        spread, gaps, tensors = golden(exact, seed)
        clear = sum(gap > 4e-2 * spread for gap in gaps)
        if clear >= 8 and sum(gap > 2e-3 * spread for gap in gaps) >= 18:
            break
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "golden.safetensors")
    sizes = sum(f.stat().st_size for f in folder.iterdir()) / 1e3
    print(f"{name}: seed {seed}, {clear} clear tokens, range {spread:.2f}, {sizes:.0f} KB, "
          f"{len(load_file(folder / 'model.safetensors'))} tensors")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MODELS:
        make(wanted)
