#!/usr/bin/env python3
"""A GGUF file with random weights from a config.json of the family Llama or Qwen2, for llama.cpp.
It has no vocabulary: token ids are all that a benchmark needs.

    make_gguf.py MODEL_FOLDER OUT.gguf [--type bf16|f32|q8_0|q4_k_m]

q4_k_m is llama.cpp's mixture: Q4_K, and Q6_K for the head and in half of the layers for v and down;
in random blocks. Needs the packages gguf and numpy.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np

from gguf import GGMLQuantizationType as T

TYPES = {"bf16": (T.BF16, gguf.LlamaFileType.MOSTLY_BF16),
         "f32": (T.F32, gguf.LlamaFileType.ALL_F32),
         "q8_0": (T.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
         "q4_k_m": (T.Q4_K, gguf.LlamaFileType.MOSTLY_Q4_K_M)}


def mixed_kind(kind, name, layer, layers):
    """The mixture's type of a matrix."""
    better = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    if kind == T.Q4_K and (name == "output" or name in ("attn_v", "ffn_down") and better):
        return T.Q6_K
    return kind


def random_blocks(random, kind, rows, cols):
    """Q4_K or Q6_K: random numbers, and scales that give a variance of about 1 / cols."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    n = rows * cols // elements
    blocks = np.frombuffer(random.bytes(n * size), dtype=np.uint8).reshape(n, size).copy()
    scale = random.uniform(0.5, 1.5, n) * random.choice([-1, 1], n) / cols ** 0.5
    fields = {0: 4.3e-3 * scale, 2: 3.2e-2 * scale} if kind == T.Q4_K else {208: 7.5e-4 * scale}
    for at, values in fields.items():
        blocks[:, at:at + 2] = values.astype(np.float16).view(np.uint8).reshape(n, 2)
    return blocks.reshape(rows, cols // elements * size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--type", default="bf16", choices=TYPES)
    args = parser.parse_args()
    c = json.loads((args.model / "config.json").read_text())
    family = {"llama": "llama", "qwen2": "qwen2"}.get(c["model_type"])
    if family is None:
        raise SystemExit(f"{c['model_type']}: only the families llama and qwen2 are known here")
    e, f, v, layers = (c[k] for k in ("hidden_size", "intermediate_size", "vocab_size",
                                      "num_hidden_layers"))
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    d = c.get("head_dim") or e // heads
    tied = c.get("tie_word_embeddings", False)

    kind, file_type = TYPES[args.type]
    w = gguf.GGUFWriter(args.out, family)
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(e)
    w.add_block_count(layers)
    w.add_feed_forward_length(f)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_key_length(d)
    w.add_value_length(d)
    w.add_rope_dimension_count(d)
    w.add_rope_freq_base(c.get("rope_theta", 10000.0))
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_vocab_size(v)
    w.add_file_type(file_type)
    w.add_tokenizer_model("none")

    random = np.random.default_rng(4711)

    def matrix(name, rows, cols, layer=0):
        own = mixed_kind(kind, name.split(".")[-2], layer, layers)
        if own in (T.Q4_K, T.Q6_K):
            w.add_tensor(name, random_blocks(random, own, rows, cols), raw_dtype=own)
            return
        x = random.standard_normal((rows, cols), dtype=np.float32) / np.float32(cols ** 0.5)
        w.add_tensor(name, gguf.quants.quantize(x, own), raw_dtype=own)

    def vector(name, n, value):
        w.add_tensor(name, np.full(n, value, dtype=np.float32))

    matrix("token_embd.weight", v, e)
    for i in range(layers):
        name = f"blk.{i}."
        vector(name + "attn_norm.weight", e, 1)
        for part, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            matrix(f"{name}attn_{part}.weight", n * d, e, i)
            if family == "qwen2":
                vector(f"{name}attn_{part}.bias", n * d, 0.01)
        matrix(name + "attn_output.weight", e, heads * d)
        vector(name + "ffn_norm.weight", e, 1)
        matrix(name + "ffn_gate.weight", f, e)
        matrix(name + "ffn_up.weight", f, e)
        matrix(name + "ffn_down.weight", e, f, i)
    vector("output_norm.weight", e, 1)
    if not tied:
        matrix("output.weight", v, e)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
