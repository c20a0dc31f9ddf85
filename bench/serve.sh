#!/usr/bin/env bash
# What serving adds to the engine, with made-up weights: STREAMS texts of IN random tokens,
# continued by OUT, all at once over HTTP (bench_serve.py), and as many offline in one batch
# (phalanx bench). A line for each number of ranks: output tokens a second of both, prompts
# included, medians of the rounds; their ratio, which should be 0.85 or more; and the share of the
# time with work in which rank 0's device had none, which should be under 3 %. Exit status 1 where
# not so.
#
#   bench/serve.sh [-b BUILD_FOLDER] [-m CONFIG_FOLDER] [-T 1,2] [-n STREAMS] [-i IN] [-o OUT]
#                  [-r ROUNDS] [OPTIONS OF serve AND bench ...]
#
# Like bench/serve.sh -m tests/data/dummy/llama-1b-2layers -T 1 -n 8 -i 64 -o 16 --device cpu
# PYTHON: the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/release model=bench/shapes/llama-3.1-8b ranks=1,2 streams=64 n_in=512 n_out=128 rounds=3
python=${PYTHON:-python3}
while [[ ${1:-} =~ ^-[bmTnior]$ && $# -ge 2 ]]; do
    case $1 in
        -b) build=$2 ;;
        -m) model=$2 ;;
        -T) ranks=$2 ;;
        -n) streams=$2 ;;
        -i) n_in=$2 ;;
        -o) n_out=$2 ;;
        -r) rounds=$2 ;;
    esac
    shift 2
done
[[ ${1:-} != -h && ${1:-} != --help ]] || { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0; }
phalanx=$build/launch/phalanx
mpirun=(mpirun --oversubscribe --bind-to none)
[ "$(id -u)" -ne 0 ] || mpirun+=(--allow-run-as-root)
scratch=$(mktemp -d)
server=
trap 'stop_server; rm -rf "$scratch"' EXIT

stop_server() {
    [ -n "$server" ] || return 0
    kill "$server" 2>/dev/null || true
    wait "$server" || true
    server=
}

# The model, with a text for every token.
cp "$model/config.json" "$scratch"
vocab=$("$python" - "$scratch" <<'PYTHON'
import json, sys
vocab = json.load(open(sys.argv[1] + "/config.json"))["vocab_size"]
with open(sys.argv[1] + "/tokenizer.json", "w") as file:
    json.dump({"added_tokens": [], "model": {"type": "BPE", "merges": [],
                                             "vocab": {f"t{i}": i for i in range(vocab)}}}, file)
print(vocab)
PYTHON
)
common=(-m "$scratch" --load-format dummy "${@}")

start_server() { # T: its address to $url
    : >"$scratch/log"
    "${mpirun[@]}" -np "$1" "$phalanx" serve "${common[@]}" --port 0 --max-num-seqs "$streams" \
        --kv-cache-tokens $((streams * (n_in + n_out + 64))) 2>"$scratch/log" &
    server=$!
    url=
    while [ -z "$url" ]; do
        kill -0 "$server" 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
        sleep 0.2
        url=$(sed -n 's/.* at \(http[^ ]*\): ready.*/\1/p' "$scratch/log")
    done
}

load() { # SEED: a line of results
    "$python" bench/bench_serve.py --base-url "$url" --num-prompts "$streams" --seed "$1" --json \
        --random-input-len "$n_in" --random-output-len "$n_out" --random-ids "0,$vocab"
}

metric() { # NAME
    "$python" -c 'import sys, urllib.request as u
print(u.urlopen(sys.argv[1] + "/metrics").read().decode())' "$url" |
        sed -n "s/^phalanx:engine_$1_seconds_total{.*} //p"
}

failed=0
for t in ${ranks//,/ }; do
    "${mpirun[@]}" -np "$t" "$phalanx" bench "${common[@]}" --test "$n_in,$n_out,0,$streams" \
        -r "$rounds" -o jsonl >"$scratch/offline"
    start_server "$t"
    load 0 >/dev/null # libraries and graphs set up what they need
    before="$(metric device) $(metric loop)"
    for round in $(seq "$rounds"); do load "$round"; done >"$scratch/served"
    after="$(metric device) $(metric loop)"
    stop_server
    "$python" - "$t" "$streams" "$n_in" "$n_out" "$scratch" $before $after <<'PYTHON' || failed=1
import json, statistics, sys
t, streams, n_in, n_out = map(int, sys.argv[1:5])
device, loop = (float(sys.argv[8 + i]) - float(sys.argv[6 + i]) for i in range(2))
offline = json.loads(open(sys.argv[5] + "/offline").readline())
share = n_out / (n_in + n_out)  # its tokens a second are of prompts too
alone = share * statistics.median(offline["samples_ts"])
rounds = [json.loads(line) for line in open(sys.argv[5] + "/served")]
served = statistics.median(r["output_throughput"] for r in rounds)
row = {"tp_size": t, "streams": streams, "n_prompt": n_in, "n_gen": n_out,
       "offline_output_ts": round(alone, 1), "output_throughput": round(served, 1),
       "ratio": round(served / alone, 3), "device_idle": round(1 - device / loop, 4)}
for name in ("median_ttft_ms", "median_tpot_ms", "p99_itl_ms"):
    row[name] = round(statistics.median(r[name] for r in rounds), 2)
print(json.dumps(row), flush=True)
sys.exit(row["ratio"] < 0.85 or row["device_idle"] >= 0.03)
PYTHON
done
exit $failed
