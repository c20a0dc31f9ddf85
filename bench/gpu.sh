#!/usr/bin/env bash
# What the GPU backend reaches, beside PyTorch on the same machine: operations, decoders and whole
# models with made-up weights. One file under bench/results/: a table, then the JSON lines.
#
#   bench/gpu.sh [-b BUILD_FOLDER] [-s SETS] [-r ROUNDS] [-o RESULT_FILE]
#
# SETS: of gemv,gemm,decode,prefill,small (each of ours, then torch's), comm (two GPUs), model,
# decoder, memory (beside the plan), load (a checkpoint of 16 GB, made in TMPDIR, from the page
# cache); default: all. The rounds of model and decoder alternate.
# PHX_COMMIT: what the result calls the commit where git does not know. PYTHON: the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/gpu sets=gemv,gemm,decode,prefill,small,comm,model,decoder,memory,load rounds=2
python=${PYTHON:-python3}
out=bench/results/gpu.md
command="bench/gpu.sh $*"
while getopts b:s:r:o: option; do
    case $option in
        b) build=$OPTARG ;;
        s) sets=$OPTARG ;;
        r) rounds=$OPTARG ;;
        o) out=$OPTARG ;;
        *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
commit=${PHX_COMMIT:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
n_gpus=$(nvidia-smi --list-gpus | wc -l)
machine="$n_gpus x $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)"
lines=$(mktemp)
checkpoint=
trap 'rm -rf "$lines" ${checkpoint:+"$checkpoint"}' EXIT
failed=0

wanted() { [[ ",$sets," == *",$1,"* ]]; }

keep() { # COMMAND...: its JSON lines, each of which begins with {; a failure does not end the rest
    echo "$*" >&2
    "$@" | { grep '^{' || true; } | tee -a "$lines" || { echo "failed: $*" >&2; failed=1; }
}

under_mpi() { # T PROGRAM...
    local options=(-np "$1" --bind-to none)
    [ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
    mpirun "${options[@]}" "${@:2}"
}

model() { # SHAPE T MODEL WORDS...: rows of phalanx bench
    PHX_COMMIT=$commit under_mpi "$2" "$build/launch/phalanx" bench -m "$3" --load-format dummy \
        --device cuda -o jsonl -b 8192 -ub 8192 -r 3 --breakdown "${@:4}" | "$python" -c '
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    row |= {"set": "model", "by": "phalanx", "shape": sys.argv[1], "tp": row["tp_size"],
            "op": row["test"], "batch": row["n_seqs"], "context": row["n_depth"],
            "of_read": row["floor_fraction"]}
    row["ms_per_token" if row["n_gen"] else "prompt_ms"] = row["ms_per_step"]
    print(json.dumps(row))' "$1"
}

# Decoding past a context of 128, of 1024 for each of 64 sequences, and of nearly 128k, whose keys
# are made up; a prompt of 8192.
models() { # T
    [ "$1" -eq 2 ] || keep model 0.5B 1 bench/shapes/qwen2.5-0.5b --test 0,64,128,1
    keep model 8B "$1" bench/shapes/llama-3.1-8b --fill noise --test 0,64,128,1 \
        --test 0,32,1024,64 --test 0,32,8192,1 --test 0,32,130944,1 --test 8192,0,0,1
    [ "$1" -eq 1 ] || keep model 70B "$1" bench/shapes/llama-3.1-70b --test 0,64,128,1
}

decoder() { # T
    if [ "$1" -eq 1 ]; then
        keep "$python" bench/peers/torch_decoder.py
    else
        keep torchrun --nproc-per-node "$1" bench/peers/torch_decoder.py
    fi
}

load() { # T
    under_mpi "$1" "$build/launch/phalanx" generate -m "$checkpoint" --device cuda -v -c 64 -n 1 \
        --prompt-ids 1,2,3 2>&1 >/dev/null |
        sed -nE "s/.* ([0-9.]+) GB\/s read per rank.*/{\"set\": \"load\", \"by\": \"phalanx\", \
\"shape\": \"8B\", \"tp\": $1, \"gb_per_s\": \1}/p"
}

table() { # of the JSON lines
    "$python" -c '
import json, sys
columns = ("set", "by", "shape", "tp", "op", "rows", "batch", "context", "us", "ms_per_token",
           "prompt_ms", "gb_per_s", "of_read", "tflop_per_s", "comm_share", "rank", "context_mb",
           "planned_mb", "beside_mb")
print("|", " | ".join(columns), "|")
print("|" + "---|" * len(columns))
for line in open(sys.argv[1]):
    row = json.loads(line)
    if "set" in row:
        cells = [row.get(c, "") for c in columns]
        print("|", " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells), "|")
' "$lines"
}

for set in gemv gemm decode prefill small; do
    wanted "$set" || continue
    keep "$build/bench/bench_ops" --device cuda --set "$set" --commit "$commit" --json
    [ "$set" = small ] || keep "$python" bench/peers/torch_ops.py --set "$set"
done
comm=""
if wanted comm && [ "$n_gpus" -ge 2 ]; then
    comm=$(under_mpi 2 "$build/bench/bench_comm_gpu" -e 4M) || failed=1
fi
for _ in $(seq "$rounds"); do
    for ranks in 1 2; do
        [ "$ranks" -le "$n_gpus" ] || continue
        ! wanted model || models "$ranks"
        ! wanted decoder || decoder "$ranks"
    done
done
for ranks in 1 2; do
    [ "$ranks" -gt "$n_gpus" ] || ! wanted memory ||
        keep under_mpi "$ranks" "$build/bench/bench_memory" -m bench/shapes/llama-3.1-8b
done
if wanted load; then
    checkpoint=$(mktemp -d)
    "$python" bench/write_checkpoint.py bench/shapes/llama-3.1-8b "$checkpoint" >&2
    for _ in $(seq "$rounds"); do
        for ranks in 1 2; do
            [ "$ranks" -gt "$n_gpus" ] || keep load "$ranks"
        done
    done
fi
mkdir -p "$(dirname "$out")"
{
    printf '# Measured on a GPU\n\n- machine: %s\n- date: %s\n- commit: %s\n- command: %s\n\n' \
        "$machine" "$(date -u +%F)" "$commit" "$command"
    table
    [ -z "$comm" ] || printf '\n```\n%s\n```\n' "$comm"
    printf '\n```json\n'
    printf '{"machine": "%s", "date": "%s", "commit": "%s", "command": "%s"}\n' \
        "$machine" "$(date -u +%F)" "$commit" "$command"
    cat "$lines"
    printf '```\n'
} >"$out"
echo "$out" >&2
exit "$failed"
