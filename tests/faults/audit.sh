#!/usr/bin/env bash
# audit and compare as people run them: what they print, their exit status, their files.
#
#   tests/faults/audit.sh PHALANX PHALANX_WITH_FAULTS MPIRUN...
set -euo pipefail

phalanx=$1 faulty=$2
shift 2
mpirun=("$@")
data=$(cd "$(dirname "${BASH_SOURCE[0]}")/../data" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
failures=0

fail() # sentence
{
    echo "FAILED: $1"
    failures=$((failures + 1))
}

run() # STATUS RANKS PROGRAM ARGS...: stdout goes to $out/text
{
    local status=$1 ranks=$2 got=0
    shift 2
    "${mpirun[@]}" -np "$ranks" "$@" >"$out/text" 2>"$out/errors" || got=$?
    if [[ $got != "$status" ]]; then
        fail "exit status $got instead of $status: $ranks ranks, ${*:2}"
        tail -n 5 "$out/text" "$out/errors"
    fi
}

has() # TEXT: a line of the output has it
{
    grep -qF -- "$1" "$out/text" || fail "not in the output: $1"
}

maps() # LINES: the map of layer 0, exactly
{
    local got
    got=$(awk '/^LAYER/ {layer = $2} layer == 0 && /^MAP/ {
        print $2 $4 $6 $7 ($NF == "ok" ? "ok" : "WRONG")}' "$out/text" | paste -sd' ')
    [[ $got == "$1" ]] || fail "the map is: $got; expected: $1"
}

# The shape of a real 0.5B model: 14 query heads, 2 KV heads of 64.
qwen2=$data/hf/qwen2-14q2kv
run 0 1 "$phalanx" audit -m "$qwen2"
has "CONFIG num_heads=14 num_kv_heads=2 head_dim=64 group_size=7 ranks=1"
has "MAP    q_head=0..6 -> kv_head=0 on rank 0 (local q 0..6 -> local kv 0)   ok"
has "MAP    q_head=7..13 -> kv_head=1 on rank 0 (local q 7..13 -> local kv 1)   ok"
has "PTRS   q_head=0  uses kv_head=0: K offset 0 in rank 0's block row (global 0), "
has "PTRS   q_head=7  uses kv_head=1: K offset 64 in rank 0's block row (global 64), "
has "stride token 256 B, head 16384 B, page 32768 B, element 4 B"
run 0 2 "$phalanx" audit -m "$qwen2" --json "$out/audit.json"
has "MAP    q_head=0..6 -> kv_head=0 on rank 0 (local q 0..6 -> local kv 0)   ok"
has "MAP    q_head=7..13 -> kv_head=1 on rank 1 (local q 0..6 -> local kv 0)   ok"
has "PTRS   q_head=7  uses kv_head=1: K offset 0 in rank 1's block row (global 64), "
has "AGG    q_head=7  uses kv_head=1: V offset 0 in rank 1's block row (global 64), "
has "SCORES q_head=7  first8=["
for gate in "1 config" "2 map" "3 pointers" "4 scores" "5 values"; do
    has "GATE $gate ... PASS"
done
has "VERDICT the head mapping is right"
grep -q '"passed":true' "$out/audit.json" || fail "--json FILE does not say that it passed"

# Uneven, no groups, one group.
uneven=$data/hf/llama-15q5kv-uneven
run 0 2 "$phalanx" audit -m "$uneven"
maps "q_head=0..2kv_head=0rank0ok q_head=3..5kv_head=1rank0ok q_head=6..8kv_head=2rank0ok\
 q_head=9..11kv_head=3rank1ok q_head=12..14kv_head=4rank1ok"
for ranks in 3 4; do run 0 $ranks "$phalanx" audit -m "$uneven" --layers 1; done
run 0 2 "$phalanx" audit -m "$data/hf/llama-mha-6q6kv" --heads all
has "PTRS   q_head=5  uses kv_head=5: K offset 32 in rank 1's block row (global 80), "
run 0 1 "$phalanx" audit -m "$data/hf/llama-mqa-7q1kv"
maps "q_head=0..6kv_head=0rank0ok"
run 0 2 "$phalanx" audit --brief # the embedded model
has "LAYER  0..3"
has "MAP    q_head=9..11 -> kv_head=3 on rank 1 (local q 3..5 -> local kv 1)   ok"
[[ $(wc -l <"$out/text") == 25 ]] || fail "--brief takes $(wc -l <"$out/text") lines"
[[ $(tail -n 1 "$out/text") == "VERDICT the head mapping is right, and so is "* ]] ||
    fail "the verdict is not the last line"
run 0 2 "$phalanx" audit --brief --layers 0,2
has "VERDICT the head mapping is right in these layers, "

# What is wrong is found, and said.
run 1 2 env PHX_FAULT=Q_MODULO_K "$faulty" audit -m "$uneven"
has "GATE 2 map ... FAIL"
has "VERDICT gate 2 (map) fails first: expected kv_head = q_head / group_size"
has "at layer 0, rank 0, q_head 1, kv_head 0, text 0, position 0: "
run 1 2 env PHX_FAULT=Q_MODULO_K "$faulty" audit -m "$uneven" --json -
has '"first_failure":"map"'
run 1 2 env PHX_FAULT=O_COLUMNS "$faulty" compare -m "$uneven"
has "FIRST  o_partial of layer 0 on rank 0"

# Dumped by one rank, compared by three; and with a fault.
run 0 1 "$phalanx" compare -m "$uneven" --prompt-ids 5,4,3,2,1,0 --dump "$out/one"
has "FIRST  none"
run 0 3 "$phalanx" compare -m "$uneven" --against "$out/one" --json "$out/compare.json"
has "FIRST  none"
grep -q '"first":null' "$out/compare.json" || fail "compare --json FILE does not say that it passed"
run 1 3 env PHX_FAULT=ROPE_PAIRS "$faulty" compare -m "$uneven" --against "$out/one"
has "FIRST  q of layer 0 on rank 0"
run 0 2 "$phalanx" compare -m "$uneven" --quick
has "FIRST  none: all 8 activations"

# Sentences.
says() # TEXT: a sentence on standard error
{
    grep -qF -- "$1" "$out/errors" || fail "no sentence: $1"
}
for verb in audit compare; do
    run 1 2 "$phalanx" $verb -m "$uneven" --json "$out/missing/file"
    says "--json $out/missing/file: No such file or directory"
    [[ ! -s $out/text ]] || fail "$verb worked before it saw that its file cannot be written"
    run 1 1 "$phalanx" $verb -m "$uneven" --json /dev/full
    says "--json /dev/full: No space left on device"
done
run 1 1 "$phalanx" compare -m "$uneven" --dump "$out/missing/folder"
says "--dump $out/missing/folder: No such file or directory"
[[ ! -s $out/text ]] || fail "compare worked before it saw that its folder cannot be made"
run 2 1 "$phalanx" audit -m "$uneven" --layers 2
says "--layers 2: must be all, or a list like 0,1 of the model's layers"
run 1 1 "$phalanx" compare -m "$uneven" --against "$out/one" --prompt-ids 1,2
says "its input_ids are not the 2 tokens of the prompt"

[[ $failures == 0 ]] && echo "audit: all as expected"
exit $((failures > 0))
