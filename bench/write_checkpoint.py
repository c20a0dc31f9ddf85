#!/usr/bin/env python3
"""A safetensors checkpoint of a Llama shape with made-up bf16 values, to time loading with.

    write_checkpoint.py CONFIG_FOLDER OUT_FOLDER
"""
import json
import os
import random
import shutil
import sys

BLOCK_BYTES = 64 << 20


def tensors(c):
    hidden, ffn, vocab = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    head_dim = c.get("head_dim") or hidden // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    yield "model.embed_tokens.weight", (vocab, hidden)
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", (hidden,)
        for name, shape in (("q", (q, hidden)), ("k", (kv, hidden)), ("v", (kv, hidden)),
                            ("o", (hidden, q))):
            yield f"{at}self_attn.{name}_proj.weight", shape
        yield at + "post_attention_layernorm.weight", (hidden,)
        for name, shape in (("gate", (ffn, hidden)), ("up", (ffn, hidden)), ("down", (hidden, ffn))):
            yield f"{at}mlp.{name}_proj.weight", shape
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, hidden)


def block():
    """bf16 values of either sign from 2^-7 to 2^-3: sign and low bits of random bytes."""
    n = BLOCK_BYTES // 2
    bits = int.from_bytes(random.Random(1).randbytes(BLOCK_BYTES), "little")
    keep = int.from_bytes(b"\xff\x81" * n, "little")
    exponent = int.from_bytes(b"\x00\x3c" * n, "little")
    return (bits & keep | exponent).to_bytes(BLOCK_BYTES, "little")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, out = sys.argv[1:]
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    if config.get("model_type") != "llama":
        sys.exit(f"{folder} is of type {config.get('model_type')}, and only llama is written here")
    header, total = {}, 0
    for name, shape in tensors(config):
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [total, total + size]}
        total += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(out, exist_ok=True)
    shutil.copy(os.path.join(folder, "config.json"), out)
    values = block()
    with open(os.path.join(out, "model.safetensors"), "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for at in range(0, total, BLOCK_BYTES):
            file.write(values[: total - at])
    print(f"{out}: {total / 1e9:.2f} GB")


main()
