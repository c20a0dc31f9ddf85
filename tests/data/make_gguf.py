#!/usr/bin/env python3
"""GGUF files made by another program: the `gguf` package (0.17 or so) out of models of tests/data/hf.

    python3 tests/data/make_gguf.py tests/data/gguf

What a converter bakes in is written here from its description: rows of each head of q and k of the
architectures that come from llama interleaved, rotary factors as tensors, norms in f32 and Gemma's
with its 1 added, experts stacked, a matrix of one row as a vector. The names are the package's.

mixed.gguf is a model made up of random blocks of all types: 12 query heads of 64 on 4 KV heads, so
that blocks of 256 columns are split at every number of ranks; mixed_values.safetensors holds the
first rows of each tensor as the package reads them.
"""
import json
import math
import pathlib
import re
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

DATA = pathlib.Path(__file__).parent


def read_safetensors(path):
    """name -> float32 array, and the bits of each that is bf16."""
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + n])
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        bits = np.frombuffer(raw[8 + n + begin:8 + n + end], dtype=np.uint16)
        assert entry["dtype"] == "BF16"
        out[name] = (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
    return out


def read_model(folder):
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        tensors.update(read_safetensors(path))
    return json.loads((folder / "config.json").read_text()), tensors


def named(architecture, config, tensors):
    """The tensors under the package's own names for them; experts of a layer in one."""
    arch = {name: a for a, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    out, stacks = {}, {}
    for name, value in tensors.items():
        expert = re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name)
        if expert:
            stacks.setdefault(f"{expert[1]}.{expert[3]}", {})[int(expert[2])] = value
        else:
            out[names.get_name(name, (".weight", ".bias"))] = value
    for name, parts in stacks.items():
        out[names.get_name(name, (".weight",))] = np.stack([parts[e] for e in range(len(parts))])
    return out


def interleave(weight, n_heads):
    shape = weight.shape
    return weight.reshape(n_heads, 2, shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(shape)


def rope_factors(config):
    rope = config["rope_parameters"]
    if rope.get("rope_type") != "llama3":
        return None
    dim, old = config["head_dim"], rope["original_max_position_embeddings"]
    out = []
    for i in range(dim // 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (2 * i / dim)
        turns = old / wavelength
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        blend = min(max((turns - low) / (high - low), 0), 1)
        out.append(1 / ((1 - blend) / rope["factor"] + blend))
    return np.array(out, dtype=np.float32)


def add_family(w, architecture, config):
    """What a converter says of some architectures only."""
    rope = config["rope_parameters"]
    if config.get("num_local_experts"):
        w.add_expert_count(config["num_local_experts"])
        w.add_expert_used_count(config["num_experts_per_tok"])
    if architecture == "qwen2moe":
        w.add_expert_count(config["num_experts"])
        w.add_expert_used_count(config["num_experts_per_tok"])
        w.add_expert_feed_forward_length(config["moe_intermediate_size"])
        w.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if architecture == "gemma2":
        w.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        w.add_final_logit_softcapping(config["final_logit_softcapping"])
        w.add_sliding_window(config["sliding_window"])
        w.add_attention_scale(config["query_pre_attn_scalar"] ** -0.5)  # as of gemma3
    if architecture == "phi3":
        w.add_rope_dimension_count(int(config["head_dim"] * rope["partial_rotary_factor"]))
        old = config["original_max_position_embeddings"]
        scale = config["max_position_embeddings"] / old
        w.add_rope_scaling_orig_ctx_len(old)
        w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(old)))
        w.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], dtype=np.float32))
        w.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], dtype=np.float32))
    if architecture == "granite":
        w.add_attention_scale(config["attention_multiplier"])
        w.add_embedding_scale(config["embedding_multiplier"])
        w.add_residual_scale(config["residual_multiplier"])
        w.add_logit_scale(config["logits_scaling"])
    if architecture == "gemma3":
        far, near = rope["full_attention"], rope["sliding_attention"]
        w.add_rope_freq_base_swa(near["rope_theta"])
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(far["factor"])
        w.add_sliding_window(config["sliding_window"])
        # no real model has these two otherwise than its converter leaves unsaid
        w.add_sliding_window_pattern([t == "sliding_attention" for t in config["layer_types"]])
        w.add_attention_scale(config["query_pre_attn_scalar"] ** -0.5)


def write(path, architecture, config, tensors, type_of, part_tensors=0):
    w = gguf.GGUFWriter(str(path), architecture, split_max_tensors=part_tensors)
    rope = config["rope_parameters"]
    w.add_block_count(config["num_hidden_layers"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(config["num_key_value_heads"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if config.get("head_dim"):
        w.add_key_length(config["head_dim"])
        w.add_value_length(config["head_dim"])
    if config.get("sliding_window") and architecture == "llama":
        w.add_sliding_window(config["sliding_window"])
    w.add_bos_token_id(config["bos_token_id"])
    w.add_eos_token_id(config["eos_token_id"])
    add_family(w, architecture, config)
    factors = rope_factors(config)
    if factors is not None:
        w.add_tensor("rope_freqs.weight", factors)
    for name, value in named(architecture, config, tensors).items():
        if architecture in ("llama", "granite") and ".attn_q." in name:
            value = interleave(value, config["num_attention_heads"])
        if architecture in ("llama", "granite") and ".attn_k." in name:
            value = interleave(value, config["num_key_value_heads"])
        if value.ndim == 2 and value.shape[0] == 1:
            value = value[0]
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            value = value + 1
        kind = T.F32 if value.ndim == 1 or ".ffn_gate_inp." in name else type_of(name)
        if kind == T.F32:
            w.add_tensor(name, value.astype(np.float32))
        else:
            w.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def random_blocks(rng, kind, rows, cols):
    """Blocks with values near 1/16."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    n = rows * cols // elements
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    # d per unit of spread, and the offset that centres what is not centred
    d, m, at = {
        T.Q8_0: (8.5e-4, None, 0), T.Q4_0: (1.35e-2, None, 0), T.Q4_1: (1.35e-2, -7.5, 0),
        T.Q5_0: (6.8e-3, None, 0), T.Q5_1: (6.8e-3, -15.5, 0), T.Q4_K: (2.7e-4, 7.5, 0),
        T.Q5_K: (1.3e-4, 15.5, 0), T.Q6_K: (4.7e-5, None, 208)}[kind]
    scale = d * rng.uniform(0.5, 1.5, n) * rng.choice([-1, 1], n)
    blocks[:, at:at + 2] = scale.astype(np.float16).view(np.uint8).reshape(n, 2)
    if m is not None:
        blocks[:, at + 2:at + 4] = (m * scale).astype(np.float16).view(np.uint8).reshape(n, 2)
    return blocks.reshape(rows, cols // elements * size)


MIXED = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
         "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 288,
         "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 1e4}
MIXED_TYPES = [{"attn_q": T.Q4_K, "attn_k": T.Q4_K, "attn_v": T.Q6_K, "attn_output": T.Q5_K,
                "ffn_gate": T.Q4_K, "ffn_up": T.Q4_K, "ffn_down": T.Q6_K},
               {"attn_q": T.Q5_0, "attn_k": T.Q4_1, "attn_v": T.Q5_1, "attn_output": T.Q4_K,
                "ffn_gate": T.Q8_0, "ffn_up": T.Q8_0, "ffn_down": T.Q4_0}]


def write_mixed(out):
    c, rng = MIXED, np.random.default_rng(6)
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    e, f = c["hidden_size"], c["intermediate_size"]
    shapes = {"attn_q": (q, e), "attn_k": (kv, e), "attn_v": (kv, e), "attn_output": (e, q),
              "ffn_gate": (f, e), "ffn_up": (f, e), "ffn_down": (e, f)}
    w = gguf.GGUFWriter(str(out / "mixed.gguf"), "llama")
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(e)
    w.add_feed_forward_length(f)
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_array("test.numbers", [1, -2, 3])
    values = {}

    def add(name, kind, rows, cols):
        blocks = random_blocks(rng, kind, rows, cols)
        w.add_tensor(name, blocks, raw_dtype=kind)
        values[name] = gguf.quants.dequantize(blocks[:3], kind).astype(np.float32)

    add("token_embd.weight", T.Q8_0, c["vocab_size"], e)
    add("output.weight", T.Q6_K, c["vocab_size"], e)
    w.add_tensor("output_norm.weight", rng.uniform(0.5, 1.5, e).astype(np.float32))
    for layer, types in enumerate(MIXED_TYPES):
        for norm in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{layer}.{norm}.weight", rng.uniform(0.5, 1.5, e).astype(np.float32))
        for name, kind in types.items():
            add(f"blk.{layer}.{name}.weight", kind, *shapes[name])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    write_safetensors(out / "mixed_values.safetensors", values)


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text +
                     b"".join(value.tobytes() for value in tensors.values()))


def main():
    out = pathlib.Path(sys.argv[1])
    models = {"llama3-12q4kv": "llama", "mixtral-8q2kv-4experts": "llama",
              "phi3-15q5kv-longrope": "phi3", "granite-12q4kv": "granite",
              "gemma2-10q5kv": "gemma2", "gemma3-12q3kv": "gemma3", "olmo2-8q4kv": "olmo2",
              "qwen2moe-9q3kv-7experts": "qwen2moe"}  # its first layer: others are not said in GGUF
    for model, architecture in models.items():
        config, tensors = read_model(DATA / "hf" / model)
        if architecture == "qwen2moe":
            config["num_hidden_layers"] = 1
            tensors = {n: t for n, t in tensors.items() if not re.match(r"model\.layers\.[1-9]", n)}
        write(out / f"{model}.gguf", architecture, config, tensors, lambda name: T.BF16)
        if architecture == "phi3":
            write(out / "phi3-parts.gguf", architecture, config, tensors, lambda name: T.BF16, 9)
    write_mixed(out)


if __name__ == "__main__":
    main()
