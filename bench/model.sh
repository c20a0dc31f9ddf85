#!/usr/bin/env bash
# How near a Llama-3.2-1B shape with made-up weights comes to what this machine can read and
# multiply: one rank with all cores, two ranks with half each, interleaved; then bf16 products.
# Writes bench/results/cpu-model.jsonl.
#   bench/model.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-3}
model=tests/data/dummy/llama-3.2-1b
bench=build/release/bench/bench_model
out=bench/results/cpu-model.jsonl
cores=$(nproc)
commit=$(git describe --always --dirty) # before the result file changes
if [ ! -x "$bench" ]; then
    echo "$bench is missing: cmake --preset release && cmake --build build/release" >&2
    exit 1
fi
mpirun=(mpirun --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none)
[ "$(id -u)" -eq 0 ] && mpirun+=(--allow-run-as-root)
{
    printf '{"machine": "%s, %s processors", "date": "%s", "commit": "%s", "command": "%s"}\n' \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$cores" "$(date -u +%F)" \
        "$commit" "bench/model.sh $rounds"
    for _ in $(seq "$rounds"); do
        "${mpirun[@]}" -np 1 "$bench" -m "$model" -t "$cores" --repeat 3
        "${mpirun[@]}" -np 2 "$bench" -m "$model" -t "$((cores / 2))" --repeat 3
    done
    "${mpirun[@]}" -np 1 "$bench" -m "$model" -t "$cores" --repeat 3 --dtype bfloat16
} | tee "$out"
