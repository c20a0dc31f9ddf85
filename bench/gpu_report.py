#!/usr/bin/env python3
"""What bench/gpu.sh measured, as a page: the aims and how far they are reached, where a step goes,
and all rows.

    gpu_report.py ROWS.jsonl

A ratio is of rows of one run; of several runs that have it the last one counts.
"""
import json
import statistics
import sys


class Run:
    """The rows of a run, and medians over its rounds."""

    def __init__(self, about):
        self.about, self.rows = about, []

    def find(self, item, **wanted):
        return [r for r in self.rows if r["item"] == item
                and all(r.get(k) == v for k, v in wanted.items()) and not r.get("wrong")]

    def median(self, key, item, **wanted):
        values = [r[key] for r in self.find(item, **wanted) if key in r]
        return statistics.median(values) if values else None

    def model(self, key, item, shape, tp, **wanted):
        return self.median(key, item, by="phalanx", shape=shape, tp_size=tp, **wanted)


def ratio(a, b):
    return a / b if a and b else None


def both(f):
    return lambda run: [f(run, 1), f(run, 2)]


def step(run, tp, shape="8B", item="decode", key="floor_fraction", **wanted):
    return run.model(key, item, shape, tp, **wanted)


def is_deepest(run):
    depths = [r["n_depth"] for r in run.find("batch") if "n_depth" in r]
    return max(depths) if depths else None


def attention(run, op_set, context):
    """The best of torch's backends over ours."""
    ours = run.median("us", "attention", by="phalanx", set=op_set, context=context)
    theirs = [run.median("us", "attention", by=by, set=op_set, context=context)
              for by in {r["by"] for r in run.find("attention", set=op_set, context=context)}
              if by != "phalanx"]
    return ratio(min(theirs), ours) if theirs and None not in theirs else None


def of_peak(run):
    rows = run.find("prefill", shape="8B", tp_size=1)
    values = [r["tflop_per_s"] / r["peak_tflop_per_s"] for r in rows]
    return statistics.median(values) if values else None


def sums(run, size, key):
    """Ours, as the program would choose it, over NCCL's on plain buffers."""
    return ratio(run.median(key, "comm", way="auto", bytes=size),
                 run.median(key, "comm", way="nccl", bytes=size))


def against_torch(run, tp):
    theirs = [run.median("ms_per_token", "decode", by=by, tp=tp)
              for by in {r["by"] for r in run.find("decode", tp=tp) if "ms_per_token" in r}]
    return ratio(min(theirs), step(run, tp, key="ms_per_step")) if theirs else None


K = 1024
# what, at least, aim, the figures of a run; where less is better the first is the larger
AIMS = [
    ("8B, bf16, batch 1, context 128, T = 1: of the read floor", [.80], [.93],
     lambda r: [step(r, 1)]),
    ("the same, T = 2, floor without communication", [.65], [.82], lambda r: [step(r, 2)]),
    ("T = 2 over T = 1", [1.6], [1.8],
     lambda r: [ratio(step(r, 1, key="ms_per_step"), step(r, 2, key="ms_per_step"))]),
    ("70B, T = 2", [.82], [.91], lambda r: [step(r, 2, "70B", "70B")]),
    ("Qwen2.5-0.5B, T = 1", [.35], [.65], lambda r: [step(r, 1, "0.5B")]),
    ("8B, batch 64, context 1024 each, T = 1", [.60], [.80],
     lambda r: [step(r, 1, item="batch", n_depth=1024)]),
    ("8B, context 128k, T = 1 and 2", [.70] * 2, [.88] * 2,
     both(lambda r, tp: step(r, tp, item="batch", n_depth=is_deepest(r)))),
    ("decode attention at 128k against SDPA's best", [1.0], [1.1],
     lambda r: [attention(r, "decode", 128 * K)]),
    ("decode attention at 8k, batch 1, likewise", [1.5], [2.0],
     lambda r: [attention(r, "decode", 8 * K)]),
    ("prefill attention 8k causal against SDPA's best", [.6], [.95],
     lambda r: [attention(r, "prefill", 8 * K)]),
    ("prefill 8k of 8B, T = 1: of the GEMM peak", [.45], [.65], lambda r: [of_peak(r)]),
    ("the same, T = 2 over T = 1", [1.7], [1.9],
     lambda r: [ratio(*(step(r, tp, item="prefill", key="ms_per_step") for tp in (1, 2)))]),
    ("all-reduce 8 KB and 16 KB, time against ncclAllReduce", [.45] * 2, [.28] * 2,
     lambda r: [sums(r, 8 * K, "us"), sums(r, 16 * K, "us")]),
    ("fused with residual and norm, 16 KB and 512 KB, likewise", [.5] * 2, [.33] * 2,
     lambda r: [sums(r, 16 * K, "norm_us"), sums(r, 512 * K, "norm_us")]),
    ("against a compiled PyTorch decoder, 8B batch 1, T = 1 and 2", [1.15, 1.8], [1.27, 2.2],
     both(against_torch)),
    ("load of a 16 GB checkpoint from the page cache, GB/s a rank, T = 1 and 2", [5, 5], [20, 20],
     both(lambda r, tp: r.median("load_gb_per_s", "load", tp_size=tp))),
]


def show(values):
    return ", ".join("-" if v is None else f"{v:.3g}" for v in values)


def reached(values, least, aim):
    if None in values:
        return "not measured" if values == [None] * len(values) else "in part"
    sign = 1 if aim[0] > least[0] else -1
    level = [all(sign * v >= sign * w for v, w in zip(values, words)) for words in (least, aim)]
    return "aim" if level[1] else "yes" if level[0] else "**no**"


def table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def aims(runs):
    rows = []
    for what, least, aim, figures in AIMS:
        found, where = [None] * len(least), ""
        for i, run in enumerate(runs):
            values = figures(run)
            if values != [None] * len(values):
                found, where = values, i + 1
        rows.append([what, show(least), show(aim), show(found), reached(found, least, aim), where])
    return table(["what", "at least", "aim", "measured", "reached", "run"], rows)


STAGES = ("products", "attention", "sums", "norms", "sampling", "gaps", "host")


def steps(runs):
    """Where a step goes, of rows that were broken down."""
    rows = []
    for i, run in enumerate(runs):
        for r in run.rows:
            parts = r.get("stages_ms_per_step")
            if parts:
                apart = -100 * r["stages_difference"]
                rows.append([i + 1, r["shape"], r["tp_size"], r["n_seqs"], r["test"],
                             f"{r['stages_step_ms']:.3f}"] + [f"{parts[s]:.3f}" for s in STAGES]
                            + [f"{apart:+.1f} %" + (", too much" if abs(apart) > 3 else "")])
    return table(["run", "shape", "T", "batch", "test", "step, ms", *STAGES, "apart"], rows)


COLUMNS = ("item", "round", "by", "shape", "tp_size", "tp", "set", "op", "test", "way", "rows",
           "n_seqs", "batch", "context", "bytes", "us", "norm_us", "ms_per_step", "ms_per_token",
           "gb_per_s", "load_gb_per_s", "of_read", "floor_fraction", "tflop_per_s", "comm_share", "wrong",
           "rank", "context_mb", "planned_mb", "beside_mb")


def everything(run):
    used = [c for c in COLUMNS if any(c in r for r in run.rows)]
    cells = [[f"{r[c]:.4g}" if isinstance(r.get(c), float) else r.get(c, "") for c in used]
             for r in run.rows]
    return table(used, cells)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    runs = []
    with open(sys.argv[1]) as file:
        for line in file:
            row = json.loads(line)
            if "run" in row:
                runs.append(Run(row["run"]))
            elif runs and "machine" not in row:  # not the head of a program's own rows
                runs[-1].rows.append(row)
    if not any(run.rows for run in runs):
        sys.exit(f"{sys.argv[1]}: no rows of bench/gpu.sh")
    print("# Measured on GPUs\n")
    for i, run in enumerate(runs):
        about = run.about
        print(f"{i + 1}. {about['machine']}, {about['date']}, commit {about['commit']}: "
              f"`{about['command']}`")
    print("\nMedians over the rounds of a run; a result that is wrong is not timed.\n")
    print(aims(runs))
    print("\n## Where a step goes\n\nMilliseconds; every part and the step measured by itself "
          "(bench/README.md), \"apart\" is how far the parts miss the step.\n")
    print(steps(runs))
    for i, run in enumerate(runs):
        if run.rows:
            print(f"\n## Rows of run {i + 1}\n\n" + everything(run))


if __name__ == "__main__":
    main()
