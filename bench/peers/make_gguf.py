#!/usr/bin/env python3
"""A GGUF file with random weights from a config.json of the family Llama or Qwen2, for llama.cpp.
It has no vocabulary: token ids are all that a benchmark needs.

    make_gguf.py MODEL_FOLDER OUT.gguf [--type bf16|f32|q8_0]

Needs the packages gguf and numpy.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np

TYPES = {"bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
         "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
         "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0)}


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

    def matrix(name, rows, cols):
        x = random.standard_normal((rows, cols), dtype=np.float32) / np.float32(cols ** 0.5)
        w.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)

    def vector(name, n, value):
        w.add_tensor(name, np.full(n, value, dtype=np.float32))

    matrix("token_embd.weight", v, e)
    for i in range(layers):
        name = f"blk.{i}."
        vector(name + "attn_norm.weight", e, 1)
        for part, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            matrix(f"{name}attn_{part}.weight", n * d, e)
            if family == "qwen2":
                vector(f"{name}attn_{part}.bias", n * d, 0.01)
        matrix(name + "attn_output.weight", e, heads * d)
        vector(name + "ffn_norm.weight", e, 1)
        matrix(name + "ffn_gate.weight", f, e)
        matrix(name + "ffn_up.weight", f, e)
        matrix(name + "ffn_down.weight", e, f)
    vector("output_norm.weight", e, 1)
    if not tied:
        matrix("output.weight", v, e)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
