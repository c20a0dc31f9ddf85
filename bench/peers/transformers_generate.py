#!/usr/bin/env python3
"""What a user gets from transformers: generate() op by op, and with a static cache and compiled.
Random weights from a config.json; one JSON line a mode, milliseconds a token.

    transformers_generate.py --model bench/shapes/llama-3.1-8b [--modes eager,static] [--context 128]
    torchrun --nproc-per-node 2 transformers_generate.py ...   its tensor parallelism, tp_plan="auto"

A model that is cut over ranks is only made from a checkpoint: with several ranks one with random
weights is written to --scratch first, and removed again. transformers wants the package accelerate
for that (where nothing can be installed: pip install --target FOLDER accelerate elsewhere, and
PYTHONPATH=FOLDER).
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM


def tensor_parallel():
    try:  # since 5.17
        from transformers.distributed import DistributedConfig
    except ImportError:
        return {"tp_plan": "auto"}
    return {"distributed_config": DistributedConfig(tp_plan="auto")}


def make_model(args, config, device, tp, rank):
    torch.manual_seed(4711)
    if tp == 1:
        with device:
            return AutoModelForCausalLM.from_config(config, dtype=args.dtype)
    folder = pathlib.Path(args.scratch) / "phalanx-peer-checkpoint"
    if rank == 0:
        with device:
            AutoModelForCausalLM.from_config(config, dtype=args.dtype).save_pretrained(folder)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    dist.barrier()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=args.dtype, **tensor_parallel())
    dist.barrier()
    if rank == 0:
        shutil.rmtree(folder)
    return model


def seconds_of(model, ids, n, synchronize, **how):
    synchronize()
    begin = time.perf_counter()
    out = model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=n,
                         max_new_tokens=n, do_sample=False, use_cache=True, **how)
    synchronize()
    assert out.shape[1] == ids.shape[1] + n
    return time.perf_counter() - begin, out[:, ids.shape[1]:].tolist()


def ids_of(args, n, device, vocab):
    return (torch.arange(100, 100 + args.batch * n, device=device) % vocab).view(args.batch, n)


def measure(model, args, device, mode, synchronize):
    """A token: the time of n less the time of one, in turns; the first round compiles."""
    ids = ids_of(args, args.context, device, model.config.vocab_size)
    long_ids = ids_of(args, args.prompt, device, model.config.vocab_size)
    how = {"cache_implementation": "static"} if mode == "static" else {}
    per_token, prompt, tokens = [], [], None
    for i in range(args.repeats + 1):
        one, _ = seconds_of(model, ids, 1, synchronize, **how)
        read, _ = seconds_of(model, long_ids, 1, synchronize, **how)
        many, drawn = seconds_of(model, ids, args.tokens, synchronize, **how)
        if tokens not in (None, drawn):
            raise SystemExit(f"{mode}: a repetition drew other tokens than the first")
        tokens = drawn
        if i > 0:
            per_token.append(1e3 * (many - one) / (args.tokens - 1))
            prompt.append(1e3 * read)
    return statistics.median(per_token), statistics.median(prompt)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder with config.json")
    parser.add_argument("--shape", help="the name in the result")
    parser.add_argument("--modes", default="eager,static")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="on the CPU")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--scratch", default=tempfile.gettempdir())
    args = parser.parse_args()
    args.dtype = getattr(torch, args.dtype)
    if args.threads:
        torch.set_num_threads(args.threads)
    tp, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device("cpu")
    if args.device == "cuda":
        torch.cuda.set_device(device)
    if tp > 1:
        dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
    synchronize = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    config = AutoConfig.from_pretrained(args.model)
    config.eos_token_id = None
    with torch.no_grad():
        model = make_model(args, config, device, tp, rank).eval()
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        for mode in args.modes.split(","):
            ms, prompt_ms = measure(model, args, device, mode, synchronize)
            if rank == 0:
                by = "transformers" + (", static cache, compiled" if mode == "static" else "")
                print(json.dumps({"set": "peer", "by": by, "tp": tp, "batch": args.batch,
                                  "shape": args.shape or os.path.basename(args.model.rstrip("/")),
                                  "context": args.context, "prompt_ms": round(prompt_ms, 3),
                                  "ms_per_token": round(ms, 4)}), flush=True)
    if tp > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
