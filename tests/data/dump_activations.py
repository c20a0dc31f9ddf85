"""Activations of a model in transformers, for `phalanx compare --against OUT`.

    python3 dump_activations.py MODEL OUT 1,2,3     (token ids of the prompt)
"""
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

directory, out, ids = sys.argv[1], sys.argv[2], [int(i) for i in sys.argv[3].split(",")]
model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
seen = {"input_ids": torch.tensor(ids, dtype=torch.int32)}


def keep(name, value):
    value = value[0] if isinstance(value, tuple) else value
    seen[name] = value.detach().float().reshape(len(ids), -1).contiguous().clone()


def watch(module, of_output=None, of_input=None):
    if of_output:
        module.register_forward_hook(lambda m, i, o: keep(of_output, o))
    if of_input:
        module.register_forward_pre_hook(lambda m, i: keep(of_input, i))


watch(model.model.embed_tokens, "embed")
for number, layer in enumerate(model.model.layers):
    name, attention = f"layers.{number}.", layer.self_attn
    watch(layer.input_layernorm, name + "attn_norm")
    watch(attention.q_proj, name + "q_proj")
    watch(attention.k_proj, name + "k_proj")
    watch(attention.v_proj, name + "v")
    watch(attention.o_proj, name + "o", name + "attn")
    watch(layer.post_attention_layernorm, name + "ffn_norm", name + "attn_residual")
    watch(layer.mlp.down_proj, name + "down", name + "gate_up")
    watch(layer, name + "residual")
watch(model.model.norm, "final_norm")
with torch.no_grad():
    keep("logits", model(torch.tensor([ids])).logits[0])
os.makedirs(out, exist_ok=True)
save_file(seen, os.path.join(out, "activations.safetensors"))
