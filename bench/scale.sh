#!/usr/bin/env bash
# Does a second, fourth, eighth rank pay, and where does the time go? Runs `phalanx bench` on
# several numbers of ranks in turn and writes PREFIX.md (tables and a verdict in words),
# PREFIX.json, and pictures PREFIX.svg and PREFIX.png where gnuplot is installed.
#
#   bench/scale.sh -m MODEL [-T 1,2,4,8] [-o PREFIX] [-r ROUNDS] [-q] [...]
#
# -m MODEL   a folder; without *.safetensors in it, weights are made up
# -T LIST    numbers of ranks (default: 1, 2, 4, ... as far as GPUs or cores and the model go)
# -o PREFIX  of the results (default: bench/results/scale-NAME-cpu or -gpu)
# -r ROUNDS  each on all numbers of ranks, one after the other (default: 3)
# -c LIST    contexts of decoding with batch 1 (default: 1024,8192)
# -B LIST    batches (default: 64; 0: none)
# -C N       context of each sequence of these (default: 1024)
# -p LIST    lengths of prompts (default: 2048; 0: none)
# -n N       tokens to make (default: 32)
# -q         quick: small numbers of everything, one round
# -a LIST    numbers of ranks to predict too (default: 4,8,16)
# -N SPEC    predict several nodes: NODES,MICROSECONDS,GB/S of their links
# -b BUILD   build folder (default: build/release)
# -x WORDS   more words for phalanx bench, as "--device cpu --dtype bfloat16"
#
#   bench/scale.sh -g RESULT.json [-b BUILD]
#
# draws the picture of a result that was made where there is no gnuplot, and writes its table again.
# It reads the model's config.json where it was: start it in the same folder of the project.
# PHX_COMMIT: what the result calls the commit where git does not know.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
command="bench/scale.sh $*"
model="" list="" prefix="" rounds=3 contexts=1024,8192 batches=64 prompts=2048 n_gen=32
also=4,8,16 nodes="" build=$here/build/release words=() context=1024 repeats=3
old=""
while getopts m:T:o:r:c:B:C:p:n:qa:N:b:x:g: option; do
    case $option in
        m) model=$OPTARG ;;
        T) list=$OPTARG ;;
        o) prefix=$OPTARG ;;
        r) rounds=$OPTARG ;;
        c) contexts=$OPTARG ;;
        B) batches=$OPTARG ;;
        C) context=$OPTARG ;;
        p) prompts=$OPTARG ;;
        n) n_gen=$OPTARG ;;
        q) rounds=1 contexts=100 batches=4 prompts=64 n_gen=8 context=32 repeats=2 ;;
        a) also=$OPTARG ;;
        N) nodes=$OPTARG ;;
        b) build=$OPTARG ;;
        g) old=$OPTARG ;;
        x) read -ra words <<<"$OPTARG" ;;
        *) sed -n '2,29s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
fail() {
    echo "scale.sh: $*" >&2
    exit 2
}
phalanx=$build/launch/phalanx report=$build/bench/scale_report
[ -x "$phalanx" ] && [ -x "$report" ] ||
    fail "$phalanx or $report is missing: cmake --preset release && cmake --build build/release"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

write() { # ROWS WORDS OF scale_report...: the table, and what gnuplot makes of the rest
    "$report" "$@" --plot "$work/plot" >"$work/table" || failed=1
    [ -s "$work/plot" ] || exit 2
    cp "$work/table" "$prefix.md"
    [ -n "$old" ] || rm -f "$prefix.rows" # they are in the JSON
    if command -v gnuplot >/dev/null; then
        local panels
        panels=$(grep -c '^## .*batch' "$work/table")
        gnuplot -e "set terminal svg size $((420 * panels)),760 background 'white'" \
            -e "set output '$prefix.svg'" "$work/plot"
        gnuplot -e "set terminal pngcairo size $((420 * panels)),760" \
            -e "set output '$prefix.png'" "$work/plot"
        printf '\n![speed-up and breakdown](%s)\n' "$(basename "$prefix").svg" >>"$prefix.md"
    else
        echo "scale.sh: no gnuplot here, so no picture. Where there is one (Debian: gnuplot-nox)," \
            "bench/scale.sh -g $prefix.json draws it" >&2
    fi
    grep '^- .*batch' "$prefix.md" >&2
    echo "$prefix.md" >&2
    exit "$failed"
}

if [ -n "$old" ]; then
    [ -r "$old" ] || fail "$old cannot be read"
    prefix=${prefix:-${old%.json}}
    write "$old"
fi
[ -n "$model" ] || fail "give a model with -m, as in: bench/scale.sh -m models/demo"
[ -e "$model/config.json" ] || fail "$model has no config.json"
ls "$model"/*.safetensors >/dev/null 2>&1 || words+=(--load-format dummy)

n_gpus=0
if [[ " ${words[*]} " != *" --device cpu "* ]] &&
    "$phalanx" --version | grep -q '^devices:.*, cuda'; then
    n_gpus=$(nvidia-smi --list-gpus | wc -l)
fi
if [ "$n_gpus" -gt 0 ]; then
    kind=gpu most=$n_gpus
    machine="$n_gpus x $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)"
    words+=(-b 8192 -ub 8192)
else
    kind=cpu most=$(nproc)
    machine="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) processors"
fi
commit=${PHX_COMMIT:-$(git -C "$here" describe --always --dirty 2>/dev/null || echo unknown)}
[ -n "$prefix" ] || prefix=$here/bench/results/scale-$(basename "$model")-$kind
if [ -z "$list" ]; then
    for ((t = 1; t <= most; t *= 2)); do
        "$phalanx" plan -m "$model" -T "$t" --json | grep -q '"possible":true' || break
        list+=${list:+,}$t
    done
fi

mpirun=(mpirun --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none)
[ "$(id -u)" -ne 0 ] || mpirun+=(--allow-run-as-root)
tests=()
for c in ${contexts//,/ }; do tests+=(--test "0,$n_gen,$c,1"); done
for b in ${batches//,/ }; do [ "$b" = 0 ] || tests+=(--test "0,$n_gen,$context,$b"); done
for p in ${prompts//,/ }; do [ "$p" = 0 ] || tests+=(--test "$p,0,0,1"); done
mkdir -p "$(dirname "$prefix")"
rows=$prefix.rows # what a run that was cut off had measured: scale_report reads it
: >"$rows"
for ((round = 1; round <= rounds; round++)); do
    for t in ${list//,/ }; do
        echo "round $round, $t ranks" >&2
        [ "$round" -gt 1 ] && breakdown=() || breakdown=(--breakdown)
        PHX_COMMIT=$commit "${mpirun[@]}" -np "$t" "$phalanx" bench -m "$model" -o jsonl \
            -r "$repeats" "${breakdown[@]}" "${tests[@]}" "${words[@]}" >>"$rows" || failed=1
    done
done
[ -s "$rows" ] || fail "nothing could be measured"
write "$rows" --also "$also" ${nodes:+--nodes "$nodes"} --machine "$machine" \
    --date "$(date -u +%F)" --commit "$commit" --command "$command" --json "$prefix.json"
