#!/usr/bin/env python3
"""GGUF files made by another program: the `gguf` package (0.17 or so) out of models of tests/data/hf.

    python3 tests/data/make_gguf.py OUT        # writes OUT/*.gguf

What a converter bakes in is written here from its description: rows of each head of q and k of the
llama architecture interleaved, rotary factors of llama3 as a tensor, norms in f32. Quantised ones
are of a model made up here, wide enough for blocks of 256.
"""
import json
import math
import pathlib
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


NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight":
           "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in top:
        return top[name]
    _, _, layer, rest = name.split(".", 3)
    middle, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[middle]}.{kind}"


def interleave(weight, n_heads):
    shape = weight.shape
    return weight.reshape(n_heads, 2, shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(shape)


def rope_factors(config):
    rope = config["rope_parameters"]
    if rope["rope_type"] != "llama3":
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


def write(path, architecture, config, tensors, type_of):
    w = gguf.GGUFWriter(str(path), architecture)
    w.add_block_count(config["num_hidden_layers"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(config["num_key_value_heads"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if config.get("head_dim"):
        w.add_key_length(config["head_dim"])
        w.add_value_length(config["head_dim"])
    if config.get("sliding_window") and architecture == "llama":
        w.add_sliding_window(config["sliding_window"])
    w.add_bos_token_id(config["bos_token_id"])
    w.add_eos_token_id(config["eos_token_id"])
    factors = rope_factors(config)
    if factors is not None:
        w.add_tensor("rope_freqs.weight", factors)
    for name, value in tensors.items():
        if architecture == "llama" and ".q_proj." in name:
            value = interleave(value, config["num_attention_heads"])
        if architecture == "llama" and ".k_proj." in name:
            value = interleave(value, config["num_key_value_heads"])
        kind = T.F32 if value.ndim == 1 else type_of(name)
        if kind == T.F32:
            w.add_tensor(gguf_name(name), value.astype(np.float32))
        else:
            w.add_tensor(gguf_name(name), gguf.quants.quantize(value, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    out = pathlib.Path(sys.argv[1])
    for folder, architecture, kind in [
            ("llama3-12q4kv", "llama", T.BF16), ("mistral-8q2kv-window16", "llama", T.BF16),
            ("qwen2-14q2kv", "qwen2", T.BF16), ("qwen3-16q4kv", "qwen3", T.BF16)]:
        config, tensors = read_model(DATA / "hf" / folder)
        write(out / f"{folder}.gguf", architecture, config, tensors, lambda name, k=kind: k)


if __name__ == "__main__":
    main()
