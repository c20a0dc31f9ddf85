#!/usr/bin/env python3
"""llama.cpp on the CPU, through llama-cpp-python: tests as those of its llama-bench, a JSON line
each. Build that package with native instructions:

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python

    llama.py --model FILE.gguf [--threads N] [--prompt 512] [--tokens 32] [--context 0]
"""
import argparse
import json
import os
import statistics
import time

import llama_cpp
import numpy as np


class Context:
    def __init__(self, args):
        llama_cpp.llama_log_set(QUIET, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = not args.plain
        self.model = llama_cpp.llama_model_load_from_file(args.model.encode(), params)
        if not self.model:
            raise SystemExit(f"{args.model}: llama.cpp cannot load it")
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = args.context + max(args.prompt, args.tokens + 1) + 16
        params.n_batch, params.n_ubatch = 2048, 512
        params.n_threads = params.n_threads_batch = args.threads
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.ctx)

    def clear(self):
        llama_cpp.llama_memory_clear(self.memory, False)

    def decode(self, ids):
        """In pieces of n_batch; the logits of the last token are made."""
        for at in range(0, len(ids), 2048):
            part = (llama_cpp.llama_token * len(ids[at:at + 2048]))(*ids[at:at + 2048])
            status = llama_cpp.llama_decode(self.ctx, llama_cpp.llama_batch_get_one(part, len(part)))
            if status != 0:
                raise SystemExit(f"llama_decode: {status}")

    def best(self):
        logits = llama_cpp.llama_get_logits_ith(self.ctx, -1)
        return int(np.ctypeslib.as_array(logits, (self.n_vocab,)).argmax())


@llama_cpp.llama_log_callback
def QUIET(level, text, user):
    del level, text, user


def prompt_seconds(c, ids):
    c.clear()
    begin = time.perf_counter()
    c.decode(ids)
    token = c.best()
    return time.perf_counter() - begin, [token]


def decode_seconds(c, ids, n):
    c.clear()
    c.decode(ids)
    tokens = [c.best()]
    begin = time.perf_counter()
    for _ in range(n):
        c.decode(tokens[-1:])
        tokens.append(c.best())
    return time.perf_counter() - begin, tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--shape", help="the name in the result")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--plain", action="store_true",
                        help="weights as in the file, not in layouts for single processors, with "
                             "which 0.3.36 crashed on a machine with AMX, on Q8_0")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    c = Context(args)
    ids = [(100 + 7 * i) % c.n_vocab for i in range(max(args.prompt, args.context + 1))]
    base = {"set": "peer", "by": "llama.cpp " + llama_cpp.__version__ + (", plain" if args.plain else ""), "tp": 1, "batch": 1,
            "shape": args.shape or os.path.basename(args.model), "threads": args.threads}
    for test in ("prompt", "decode"):
        times, first = [], None
        for i in range(args.repeats + 1):
            if test == "prompt":
                seconds, tokens = prompt_seconds(c, ids[:args.prompt])
            else:
                seconds, tokens = decode_seconds(c, ids[:args.context + 1], args.tokens)
            if first not in (None, tokens):
                raise SystemExit(f"{test}: a repetition drew other tokens than the first")
            first = tokens
            times += [seconds] if i > 0 else []
        ms = 1e3 * statistics.median(times)
        if test == "prompt":
            row = {"op": f"pp{args.prompt}", "context": 0, "prompt_ms": round(ms, 3),
                   "tokens_per_s": round(1e3 * args.prompt / ms, 2)}
        else:
            row = {"op": f"tg{args.tokens}", "context": args.context,
                   "ms_per_token": round(ms / args.tokens, 4),
                   "tokens_per_s": round(1e3 * args.tokens / ms, 2)}
        print(json.dumps(base | row), flush=True)


if __name__ == "__main__":
    main()
