#!/usr/bin/env python3
"""A decoder in plain PyTorch, compiled, with CUDA graphs and a static KV cache: what a careful user
would write instead. Random weights; batch 1; one JSON line with milliseconds a token, of tokens that
follow each other on the device without a wait between them.

    torch_decoder.py [--context 128] [--layers 32]
    torchrun --nproc-per-node 2 torch_decoder.py ...        two GPUs, two all-reduces a layer
"""
import argparse
import json
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.nn.functional as F
from torch import nn


def reduced(x):
    if not dist.is_initialized():
        return x
    return functional.all_reduce(x, "sum", dist.group.WORLD)


def rotate(x, angles):
    low, high = x.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1).to(x.dtype)


class Layer(nn.Module):
    def __init__(self, s, tp):
        super().__init__()
        self.hq, self.hk, self.d = s.heads // tp, s.kv_heads // tp, s.head_dim
        e, f = s.hidden, s.ffn // tp
        self.qkv = nn.Linear(e, (self.hq + 2 * self.hk) * self.d, bias=False)
        self.o = nn.Linear(self.hq * self.d, e, bias=False)
        self.gate_up = nn.Linear(e, 2 * f, bias=False)
        self.down = nn.Linear(f, e, bias=False)
        self.norms = nn.Parameter(torch.ones(2, e))
        self.register_buffer("cache", torch.zeros(2, 1, self.hk, s.max_length, self.d))

    def forward(self, x, position, mask, angles):
        h = F.rms_norm(x, x.shape[-1:], self.norms[0], 1e-5)
        q, k, v = self.qkv(h).view(1, -1, self.d).split((self.hq, self.hk, self.hk), 1)
        q, k = rotate(q, angles), rotate(k, angles)
        self.cache[0].index_copy_(2, position, k.transpose(0, 1)[None])
        self.cache[1].index_copy_(2, position, v.transpose(0, 1)[None])
        out = F.scaled_dot_product_attention(q.transpose(0, 1)[None], self.cache[0], self.cache[1],
                                             attn_mask=mask, enable_gqa=True)
        x = x + reduced(self.o(out.reshape(1, -1)))
        gate, up = self.gate_up(F.rms_norm(x, x.shape[-1:], self.norms[1], 1e-5)).chunk(2, -1)
        return x + reduced(self.down(F.silu(gate) * up))


class Decoder(nn.Module):
    def __init__(self, s, tp):
        super().__init__()
        self.embed = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(Layer(s, tp) for _ in range(s.layers))
        self.norm = nn.Parameter(torch.ones(s.hidden))
        self.head = nn.Linear(s.hidden, s.vocab // tp, bias=False)
        half = torch.arange(s.head_dim // 2, dtype=torch.float32)
        self.inv_freq = nn.Buffer(500000.0 ** (-2 * half / s.head_dim), persistent=False)
        self.keys = nn.Buffer(torch.arange(s.max_length), persistent=False)

    def logits(self, token, position):
        x = self.embed(token)
        angles = position.float() * self.inv_freq.float()
        mask = (self.keys <= position)[None, None, None]
        for layer in self.layers:
            x = layer(x, position, mask, angles)
        logits = self.head(F.rms_norm(x, x.shape[-1:], self.norm, 1e-5))
        if dist.is_initialized():
            logits = functional.all_gather_tensor(logits, 1, dist.group.WORLD)
        return logits

    def forward(self, token, position):
        return self.logits(token, position).argmax(-1)


def judge(model, token, position, drawn):
    """The token that the compiled decoder drew is, op by op, the likeliest but for rounding."""
    logits = model.logits(token, position).float()[0]
    short = (logits.max() - logits[drawn[0]]) / (logits.max() - logits.min())
    if not short <= 0.02:
        raise SystemExit(f"a wrong token: {short:.3f} of the logits' range below the best one")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("hidden", 4096), ("ffn", 14336), ("vocab", 128256), ("heads", 32),
                        ("kv-heads", 8), ("head-dim", 128), ("layers", 32), ("context", 128),
                        ("tokens", 64), ("blocks", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shape", default="8B", help="the name in the result")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tune", action="store_true", help="coordinate-descent tuning")
    args = parser.parse_args()
    tp, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = torch.device(args.device)
    if args.device == "cuda":
        torch.cuda.set_device(rank)
    if tp > 1:
        dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
    args.max_length = -(-(args.context + args.tokens + 16) // 64) * 64
    torch.manual_seed(4711 + rank)
    torch._inductor.config.coordinate_descent_tuning = args.tune
    torch.set_default_dtype(torch.bfloat16)
    with torch.no_grad(), device:
        model = Decoder(args, tp)
        compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
        synchronize = torch.cuda.synchronize if args.device == "cuda" else lambda: None
        times = []
        for block in range(1 + args.blocks):  # the first compiles, records and warms up
            token = torch.zeros(1, dtype=torch.int64)
            position = torch.full((1,), args.context, dtype=torch.int64)
            first = compiled(token, position).clone()
            judge(model, token, position, first)
            synchronize()
            begin = time.perf_counter()
            for _ in range(args.tokens):
                token = compiled(token, position).clone()
                position += 1
            synchronize()
            times.append(1e3 * (time.perf_counter() - begin) / args.tokens)
    if rank == 0:
        ms = statistics.median(times[1:])
        print(json.dumps({"set": "decoder", "by": "torch compile" + (", tuned" if args.tune else ""),
                          "shape": args.shape, "tp": tp, "batch": 1, "context": args.context,
                          "ms_per_token": round(ms, 4)}), flush=True)
    if tp > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
