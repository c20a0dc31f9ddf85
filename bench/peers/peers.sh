#!/usr/bin/env bash
# What a user would run instead, in turn with Phalanx, on the same machine and shape: one table,
# then the JSON lines.
#
#   bench/peers/peers.sh [-d cpu|cuda] [-m MODEL] [-b BUILD] [-r ROUNDS] [-o RESULT_FILE]
#                        [-t THREADS] [-p PROMPT] [-n TOKENS] [-c CONTEXT] [-k TYPES] [-l WORDS]
#
# -d cuda (default where there are GPUs): transformers' generate() op by op and with a static cache,
#    compiled, on one GPU; its tensor parallelism on two; a compiled decoder in plain PyTorch on one
#    and two (for the shape of Llama-3-8B).
# -d cpu: llama.cpp through llama-cpp-python; both read the same GGUF files of TYPES (default
#    bf16,q8_0), which make_gguf.py writes; transformers' generate() if torch is there.
# WORDS: more of them for llama.py, as --plain.
# Weights are made up. PYTHON: the interpreter (default python3). A peer that this machine lacks is
# named and left out. PHX_COMMIT: what the result calls the commit where git does not know.
set -euo pipefail
cd "$(dirname "$0")/../.."
device="" model="" build="" rounds=2 out="" threads=$(nproc)
prompt=512 tokens=32 context=128 types=bf16,q8_0 llama=()
command="bench/peers/peers.sh $*"
python=${PYTHON:-python3}
while getopts d:m:b:r:o:t:p:n:c:k:l: option; do
    case $option in
        d) device=$OPTARG ;;
        m) model=$OPTARG ;;
        b) build=$OPTARG ;;
        r) rounds=$OPTARG ;;
        o) out=$OPTARG ;;
        t) threads=$OPTARG ;;
        p) prompt=$OPTARG ;;
        n) tokens=$OPTARG ;;
        c) context=$OPTARG ;;
        k) types=$OPTARG ;;
        l) read -ra llama <<<"$OPTARG" ;;
        *) sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
n_gpus=$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)
[ -n "$device" ] || { [ "$n_gpus" -gt 0 ] && device=cuda || device=cpu; }
if [ "$device" = cuda ]; then
    : "${model:=bench/shapes/llama-3.1-8b}" "${build:=build/gpu}"
    : "${out:=bench/results/peers-gpu.md}"
    machine="$n_gpus x $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)"
    words=(-b 8192 -ub 8192)
else
    : "${model:=tests/data/dummy/llama-3.2-1b}" "${build:=build/release}"
    : "${out:=bench/results/peers-cpu.md}"
    machine="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) processors"
    words=(--dtype bfloat16 -t "$threads")
fi
shape=$(basename "$model")
commit=${PHX_COMMIT:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

keep() { # COMMAND...: its JSON lines; a failure does not end the rest
    echo "$*" >&2
    "$@" | { grep '^{' || true; } | tee -a "$work/lines" || { echo "failed: $*" >&2; failed=1; }
}
has() { # PACKAGE
    "$python" -c "import $1" 2>/dev/null || { echo "left out, for want of $1: $2" >&2; return 1; }
}
phalanx() { # RANKS NAME WORDS...
    local options=(-np "$1" --bind-to none)
    [ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
    mpirun "${options[@]}" "$build/launch/phalanx" bench --device "$device" -o jsonl -r 3 \
        "${words[@]}" "${@:3}" --test "$prompt,0,0,1" --test "0,$tokens,$context,1" | "$python" -c '
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    row |= {"set": "peer", "by": "phalanx", "shape": sys.argv[1], "tp": row["tp_size"],
            "op": row["test"], "batch": 1, "context": row["n_depth"], "tokens_per_s": row["avg_ts"]}
    del row["model_filename"]
    row["ms_per_token" if row["n_gen"] else "prompt_ms"] = row["avg_ns"] / 1e6 / (row["n_gen"] or 1)
    print(json.dumps(row))' "$2"
}
generate() { # RANKS MODES
    local start=("$python")
    [ "$1" -eq 1 ] || start=("$python" -m torch.distributed.run --nproc-per-node "$1")
    "${start[@]}" bench/peers/transformers_generate.py --model "$model" --shape "$shape bf16" \
        --device "$device" --modes "$2" --prompt "$prompt" --context "$context" \
        --tokens "$tokens" --threads "$threads"
}
decoder() { # RANKS
    local start=("$python")
    [ "$1" -eq 1 ] || start=("$python" -m torch.distributed.run --nproc-per-node "$1")
    "${start[@]}" bench/peers/torch_decoder.py --shape "$shape bf16" --context "$context"
}
on_gpus() { # RANKS
    keep phalanx "$1" "$shape bf16" -m "$model" --load-format dummy
    has torch "transformers and the compiled decoder" || return 0
    [ "$1" -eq 1 ] && modes=eager,static || modes=eager
    if has transformers "transformers' generate()"; then
        [ "$1" -gt 1 ] && ! has accelerate "transformers' tensor parallelism" ||
            keep generate "$1" "$modes"
    fi
    [ "$shape" != llama-3.1-8b ] || keep decoder "$1"
}
on_cpu() { # TYPE
    local file=$work/$1.gguf
    if has gguf "GGUF files, so llama.cpp too"; then
        [ -e "$file" ] || "$python" bench/peers/make_gguf.py "$model" "$file" --type "$1"
        keep phalanx 1 "$shape $1" -m "$file"
        ! has llama_cpp llama.cpp ||
            keep "$python" bench/peers/llama.py --model "$file" --shape "$shape $1" \
                --threads "$threads" --prompt "$prompt" --tokens "$tokens" --context "$context" \
                "${llama[@]}"
    else
        keep phalanx 1 "$shape bf16" -m "$model" --load-format dummy
    fi
}

: >"$work/lines"
for _ in $(seq "$rounds"); do
    if [ "$device" = cpu ]; then
        for type in ${types//,/ }; do on_cpu "$type"; done
        ! has transformers "transformers' generate()" || keep generate 1 eager
        continue
    fi
    for ranks in 1 2; do
        [ "$ranks" -gt "$n_gpus" ] || on_gpus "$ranks"
    done
done
mkdir -p "$(dirname "$out")"
{
    printf '# %s beside others\n\n- machine: %s\n- date: %s\n' "$shape" "$machine" "$(date -u +%F)"
    printf -- '- commit: %s\n- command: %s\n\n' "$commit" "$command"
    "$python" -c '
import json, statistics, sys
rows = {}
for line in open(sys.argv[1]):
    row = json.loads(line)
    rows.setdefault((row["shape"], row["by"], row["tp"]), []).append(row)
def cell(found, name):
    values = [row[name] for row in found if name in row]
    if not values:
        return ""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
def median(found, name):
    values = [row[name] for row in found if name in row]
    return statistics.median(values) if values else None
def over_ours(found, ours, name):
    a, b = median(found, name), median(ours, name)
    return f"{a / b:.2f}" if a and b else ""
print("medians over rounds, and their range; how many times as long as Phalanx on as many ranks\n")
print("| shape, weights | by | ranks | ms a token | times ours | prompt, ms | times ours |")
print("|---|---|---:|---:|---:|---:|---:|")
for (shape, by, tp), found in rows.items():
    ours = rows.get((shape, "phalanx", tp), [])
    cells = [shape, by, str(tp)]
    for name in ("ms_per_token", "prompt_ms"):
        cells += [cell(found, name), over_ours(found, ours, name)]
    print("|", " | ".join(cells), "|")
' "$work/lines"
    printf '\n```json\n'
    cat "$work/lines"
    printf '```\n'
} >"$out"
echo "$out" >&2
exit "$failed"
