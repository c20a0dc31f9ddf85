#!/usr/bin/env python3
"""The shapes of bench_ops in torch: JSON lines with the same keys, "by" naming what ran.

    torch_ops.py [--device cuda|cpu] [--set gemv,gemm,decode,prefill] [--match TEXT]

Linear layers in bfloat16 and attention by each backend of SDPA; the median of replays of a CUDA
graph that holds a chain of calls over operands that take turns. Of the backends of attention the
fastest one is marked "best".
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = {  # hidden, ffn, vocab, heads, kv heads, head size
    "8B": (4096, 14336, 128256, 32, 8, 128),
    "70B": (8192, 28672, 128256, 64, 8, 128),
    "0.5B": (896, 4864, 151936, 14, 2, 64),
}
HEADS = [("8B", 1, 32, 8, 128), ("8B", 2, 16, 4, 128), ("70B", 2, 32, 4, 128), ("0.5B", 1, 14, 2, 64)]
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
ROTATED_BYTES, REPEATS, MAX_CHAIN, CHAIN_US = 192 << 20, 11, 400, 3000


def time_chain(args, call, copies, floor_us):
    """Microseconds of call(i), i = 0, 1, ..."""
    n = max(copies, min(MAX_CHAIN, int(CHAIN_US / (floor_us + 1))), 1)
    if args.device == "cpu":
        times = []
        for i in range(4):
            begin = time.perf_counter()
            call(i % copies)
            times.append(1e6 * (time.perf_counter() - begin))
        return statistics.median(times[1:])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(3):
            call(i % copies)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(n):
            call(i % copies)
    times = []
    for _ in range(1 + REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end) / n)
    return statistics.median(times[1:])


def show(row, us, count, flops):
    row["us"] = round(us, 3)
    if count:
        row["gb_per_s"] = round(1e-3 * count / us, 1)
    if flops:
        row["tflop_per_s"] = round(1e-6 * flops / us, 2)
    print(json.dumps(row), flush=True)


def products(shape, tp):
    e, f, v, hq, hk, d = SHAPES[shape]
    return [("qkv", e, (hq + 2 * hk) * d // tp), ("o", hq * d // tp, e),
            ("gate_up", e, 2 * f // tp), ("down", f // tp, e), ("lm_head", e, v // tp)]


def linear(args, which, rows_list):
    """gate_up without its activation, which torch has no single kernel for."""
    for shape in SHAPES:
        for tp in (1, 2):
            for op, n_in, n_out in products(shape, tp):
                if which == "gemm" and op == "lm_head":
                    continue
                rows_wanted = [m for m in rows_list if args.match in f"{shape} T={tp} {op} M={m}"]
                if not rows_wanted:
                    continue
                copies = min(512, max(1, -(-ROTATED_BYTES // (2 * n_in * n_out))))
                make = dict(device=args.device, dtype=torch.bfloat16)
                weights = [torch.randn(n_out, n_in, **make) * n_in**-0.5 for _ in range(copies)]
                for m in rows_wanted:
                    x = torch.rand(m, n_in, **make) * 2 - 1
                    count, flops = 2 * n_in * n_out, 2 * m * n_in * n_out
                    us = time_chain(args, lambda i, x=x, weights=weights: F.linear(x, weights[i]), copies,
                                    count / 4.5e6 + flops / 6e8)
                    show({"set": which, "by": "torch linear", "shape": shape, "tp": tp, "op": op,
                          "rows": m, "in": n_in, "out": n_out}, us,
                         count if which == "gemv" else 0, flops)
                del weights


def attend(args, which, heads, batch, length):
    shape, tp, hq, hk, d = heads
    if args.match not in f"{shape} T={tp} attention B={batch} C={length}":
        return
    make = dict(device=args.device, dtype=torch.bfloat16)
    rows = 1 if which == "decode" else length
    kv_bytes = 2 * 2 * batch * hk * length * d
    copies = min(512, max(1, -(-ROTATED_BYTES // kv_bytes)))
    q = torch.rand(batch, hq, rows, d, **make) * 2 - 1
    kv = [torch.rand(2, batch, hk, length, d, **make) * 2 - 1 for _ in range(copies)]
    flops = 0 if rows == 1 else 4 * batch * hq * d * length * (length + 1) / 2
    found = []
    for name, backend in BACKENDS.items():
        if name == "math" and rows > 2048:
            continue  # its scores do not fit
        for expanded in (False, True):  # not every backend takes grouped heads
            def call(i, backend=backend, expanded=expanded):
                k, v = kv[i][0], kv[i][1]
                if expanded:
                    k, v = (t.repeat_interleave(hq // hk, 1) for t in (k, v))
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v, is_causal=rows > 1,
                                                          enable_gqa=not expanded)
            try:
                us = time_chain(args, call, copies, kv_bytes / 4.5e6 + flops / 5e8)
            except RuntimeError:
                continue
            found.append((us, name + (", heads repeated" if expanded else "")))
            break
    for us, name in sorted(found):
        row = {"set": which, "by": f"torch sdpa {name}", "shape": shape, "tp": tp,
               "op": "attention", "batch": batch, "context": length,
               "best": (us, name) == min(found)}
        show(row, us, kv_bytes if rows == 1 else 0, flops)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--set", default="gemv,gemm,decode,prefill")
    parser.add_argument("--match", default="")
    args = parser.parse_args()
    torch.manual_seed(4711)
    sets = args.set.split(",")
    with torch.no_grad():
        if "gemv" in sets:
            linear(args, "gemv", (1, 2, 4, 8, 16, 64))
        if "gemm" in sets:
            linear(args, "gemm", (512, 2048, 8192))
        for heads in HEADS:
            if "decode" in sets:
                for length in (128, 1024, 8192, 32768, 131072):
                    attend(args, "decode", heads, 1, length)
                attend(args, "decode", heads, 64, 1024)
            if "prefill" in sets:
                for length in (2048, 8192, 32768):
                    attend(args, "prefill", heads, 1, length)


if __name__ == "__main__":
    main()
