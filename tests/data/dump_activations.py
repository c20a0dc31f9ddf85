"""Activations of a model in transformers, for `phalanx compare --against OUT`.

    python3 dump_activations.py MODEL OUT 1,2,3     (token ids of the prompt)
"""
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

directory, out, ids = sys.argv[1], sys.argv[2], [int(i) for i in sys.argv[3].split(",")]
model = AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.float32, attn_implementation="eager").eval()
seen = {"input_ids": torch.tensor(ids, dtype=torch.int32)}


def keep(name, value):
    value = value[0] if isinstance(value, tuple) else value
    seen[name] = value.detach().float().reshape(len(ids), -1).contiguous().clone()


def watch(module, of_output=None, of_input=None, factor=1):
    if of_output:
        module.register_forward_hook(lambda m, i, o: keep(of_output, o * factor))
    if of_input:
        module.register_forward_pre_hook(lambda m, i: keep(of_input, i))


def split(module, names, widths):
    def hook(m, i, o):
        for name, part in zip(names, o.split(widths, -1)):
            keep(name, part)
    module.register_forward_hook(hook)


config = model.config
scale = getattr(config, "residual_multiplier", 1)
watch(model.model.embed_tokens, "embed", factor=getattr(config, "embedding_multiplier", 1))
for number, layer in enumerate(model.model.layers):
    name, attention, mlp = f"layers.{number}.", layer.self_attn, layer.mlp
    if hasattr(layer, "input_layernorm"):
        watch(layer.input_layernorm, name + "attn_norm")
    if hasattr(attention, "qkv_proj"):
        q = config.num_attention_heads * attention.head_dim
        kv = config.num_key_value_heads * attention.head_dim
        split(attention.qkv_proj, [name + "q_proj", name + "k_proj", name + "v"], [q, kv, kv])
    else:
        watch(attention.q_proj, name + "q_proj")
        watch(attention.k_proj, name + "k_proj")
        watch(attention.v_proj, name + "v")
    watch(attention.o_proj, of_input=name + "attn")
    watch(mlp.down_proj, of_input=name + "gate_up")
    if hasattr(layer, "post_feedforward_layernorm"):  # what is added to the residual is normed
        watch(layer.post_attention_layernorm, name + "o")
        watch(layer.post_feedforward_layernorm, name + "down")
        watch(mlp, of_input=name + "ffn_norm")
        if hasattr(layer, "pre_feedforward_layernorm"):
            watch(layer.pre_feedforward_layernorm, of_input=name + "attn_residual")
    else:
        watch(attention.o_proj, name + "o", factor=scale)
        watch(mlp.down_proj, name + "down", factor=scale)
        watch(layer.post_attention_layernorm, name + "ffn_norm", name + "attn_residual")
    watch(layer, name + "residual")
watch(model.model.norm, "final_norm")
with torch.no_grad():
    keep("logits", model(torch.tensor([ids])).logits[0])
os.makedirs(out, exist_ok=True)
save_file(seen, os.path.join(out, "activations.safetensors"))
