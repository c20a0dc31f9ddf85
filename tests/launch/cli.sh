#!/usr/bin/env bash
# The program as a user meets it, under mpirun: what it prints, what it refuses, and that nothing
# is left running.
#   cli.sh PHALANX MPIRUN...
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
demo=$root/models/demo
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# A copy at a place of its own, laid out as installed: its path tells its processes from others.
mkdir -p "$tmp/bin" "$tmp/share/phalanx/models"
cp "$1" "$tmp/bin/phalanx"
ln -s "$demo" "$tmp/share/phalanx/models/demo"
phalanx=$tmp/bin/phalanx
shift
mpirun=("$@")
passed=0
failed=0

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$1"
    tail -q -n 5 "$tmp/out" "$tmp/err" 2>/dev/null | cut -c1-200 | sed 's/^/    /'
}

# A process that has ended but was not waited for does not count.
left_running() { pgrep -f "^$phalanx" -r R,S,D,T >/dev/null; }

# run RANKS ARGS...: stdout to out, stderr to err; returns the exit status. RANKS 0: no mpirun.
run() {
    local ranks=$1 launcher=()
    shift
    [ "$ranks" -gt 0 ] && launcher=("${mpirun[@]}" -np "$ranks")
    timeout 60 "${launcher[@]}" "$phalanx" "$@" >"$tmp/out" 2>"$tmp/err"
}

# refuses NAME RANKS SENTENCE ARGS...: a non-zero exit and a sentence, told once by all ranks.
refuses() {
    local name=$1 ranks=$2 sentence=$3 status times
    shift 3
    run "$ranks" "$@"
    status=$?
    times=$(grep '^phalanx' "$tmp/err" | grep -cF -- "$sentence") # not mpirun's own words
    if [ "$status" -eq 0 ] || [ "$status" -ge 124 ]; then
        fail "$name: exit status $status"
    elif [ "$times" -ne 1 ]; then
        fail "$name: \"$sentence\" told $times times"
    elif left_running; then
        fail "$name: ranks are left running"
    else
        pass
    fi
}

# prints NAME RANKS TEXT ARGS...: success and this text on stdout.
prints() {
    local name=$1 ranks=$2 text=$3
    shift 3
    if ! run "$ranks" "$@"; then
        fail "$name: exit status is not 0"
    elif ! grep -qF -- "$text" "$tmp/out"; then
        fail "$name: no \"$text\" on stdout"
    else
        pass
    fi
}

# A copy of the demo model to break.
broken() {
    rm -rf "$tmp/model"
    cp -r "$demo" "$tmp/model"
    chmod -R u+w "$tmp/model"
}

edit() { sed -i "$1" "$tmp/model/config.json"; }

# --- what works
speech="First Citizen:
Before we proceed any further, hear me speak."
prints "help" 0 "generate" --help
prints "version" 0 "phalanx 0." --version
prints "help of a verb" 0 "--top-k" help generate
prints "without mpirun" 0 "First Citizen:" generate --temp 0 -n 8 -p "First Citizen:"
prints "two ranks" 2 "Takes it to torture" generate --temp 0 -n 20 --no-bos -p "$speech"
prints "perplexity" 2 '"perplexity":4.69' perplexity -f "$demo/sample.txt" --window 256 --json
prints "tokenize" 0 "664,1174,27" tokenize --no-bos -p "First Citizen:"
prints "ids to text" 0 "First Citizen:" tokenize --ids 664,1174,27
prints "two prompts" 2 "JULIET:" generate --temp 0 -n 4 -p "ROMEO:" -p "JULIET:"
prints "stop text" 2 '"finish_reason":"stop"' generate --temp 0 -n 60 --stop "First" --json \
    --no-bos -p "$speech"
prints "top log-probabilities" 2 '"top":[{"id":297' generate --temp 0 -n 2 --json --logprobs 3 \
    --no-bos -p "$speech"
if printf 'ROMEO:' | run 2 generate --temp 0 -n 4 && grep -q '^ROMEO:' "$tmp/out"; then
    pass
else
    fail "prompt from standard input"
fi

# The same text on any number of ranks, alone and in a batch, with a fixed seed.
run 1 generate -s 7 -n 40 -p "KING:" && cp "$tmp/out" "$tmp/one"
for ranks in 2 3 4; do
    if run "$ranks" generate -s 7 -n 40 -p "KING:" && cmp -s "$tmp/out" "$tmp/one"; then
        pass
    else
        fail "the text of seed 7 with $ranks ranks differs"
    fi
done
if run 2 generate -s 7 -n 40 -p "A" -p "KING:" -p "The" &&
    grep -qF "$(sed -n 2p "$tmp/one")" "$tmp/out"; then
    pass
else
    fail "the text of seed 7 in a batch differs"
fi
if run 2 generate -n 3 -p "KING:" --logits-out "$tmp/logits.safetensors" --force-ids 5,6,7 &&
    head -c 400 "$tmp/logits.safetensors" | grep -q '"logits"'; then
    pass
else
    fail "logits to a file"
fi
closing='prompt [0-9]+ tokens.*tok/s.*generated.*load.*GB/s.*peak memory.*last logits [0-9a-f]{16}'
if grep -qE "$closing" "$tmp/err"; then
    pass
else
    fail "the closing line"
fi

# --- what is refused
refuses "no such verb" 2 "frobnicate" frobnicate
refuses "no such flag" 2 "--tempp" generate --tempp 1
refuses "value out of range" 2 "--top-p" generate --top-p 1.5 -p x
refuses "no such folder" 2 "$tmp/nowhere" generate -m "$tmp/nowhere" -p x
refuses "too many ranks" 5 "5 ranks cannot share 4 KV heads" generate -p x
refuses "-tp that disagrees" 2 "-tp 3" generate -tp 3 -p x
refuses "too long a prompt" 2 "the context holds 4" generate -c 4 -p "to be or not to be"
refuses "context longer than the model's" 2 "-c 4096" generate -c 4096 -p x
refuses "empty prompt" 2 "must not be empty" generate -p ""
: >"$tmp/empty"
refuses "empty file" 2 "the text is empty" generate -f "$tmp/empty"
refuses "invalid UTF-8" 2 "UTF-8" generate -p $'abc\xff'
refuses "missing prompt file" 2 "$tmp/none.txt" generate -f "$tmp/none.txt"
refuses "token out of range" 2 "4096" generate --prompt-ids 1,4096
refuses "bias of no token" 2 "9999" generate -p x --logit-bias 9999+1
refuses "no GPU" 2 "--device cuda" generate --device cuda -p x
refuses "unwritable logits" 2 "$tmp/no/file" generate -n 2 -p x --logits-out "$tmp/no/file"

broken
rm "$tmp/model/config.json"
refuses "no config" 2 "config.json" generate -m "$tmp/model" -p x
broken
rm "$tmp/model/model.safetensors"
refuses "no weights" 2 "model.safetensors" generate -m "$tmp/model" -p x
broken
rm "$tmp/model/tokenizer.json"
refuses "no tokenizer" 2 "tokenizer.json" generate -m "$tmp/model" -p x
broken
truncate -s 1000000 "$tmp/model/model.safetensors"
refuses "truncated weights" 2 "model.safetensors" generate -m "$tmp/model" -p x
broken
printf '\377\377\377\377\377\377\377\177' |
    dd of="$tmp/model/model.safetensors" conv=notrunc 2>/dev/null
refuses "header that overruns" 2 "model.safetensors" generate -m "$tmp/model" -p x
broken
sed -i 's/q_proj/q_prox/' "$tmp/model/model.safetensors"
refuses "missing tensor" 2 "q_proj" generate -m "$tmp/model" -p x
broken
edit 's/"intermediate_size": 512/"intermediate_size": 520/'
refuses "wrong shape" 2 "gate_proj" generate -m "$tmp/model" -p x
broken
edit 's/"num_key_value_heads": 4/"num_key_value_heads": 5/'
refuses "heads that do not divide" 2 "12 is not a multiple of num_key_value_heads 5" generate -m "$tmp/model" -p x
broken
edit 's/"hidden_size": 288/"hidden_size": -288/'
refuses "config value out of range" 2 "hidden_size" generate -m "$tmp/model" -p x
broken
edit 's/"model_type": "llama"/"model_type": "perceptron"/'
refuses "unknown family" 2 "perceptron" generate -m "$tmp/model" -p x
broken
printf '{"a": ' >"$tmp/model/config.json"
refuses "broken JSON" 2 "config.json" generate -m "$tmp/model" -p x
broken
sed -i 's/"type": "BPE"/"type": "Bag"/; s/"type":"BPE"/"type":"Bag"/' "$tmp/model/tokenizer.json"
refuses "unknown tokenizer" 2 "Bag" generate -m "$tmp/model" -p x
mkdir -p "$tmp/huge"
big=$root/tests/data/dummy/llama-1b-2layers/config.json
sed -e 's/"hidden_size": 2048/"hidden_size": 65536/' \
    -e 's/"num_hidden_layers": 2/"num_hidden_layers": 100/' "$big" >"$tmp/huge/config.json"
refuses "out of memory" 2 "GB are free" generate -m "$tmp/huge" --load-format dummy \
    --prompt-ids 1 -n 1

# A launcher of another MPI: every process believes that it is alone.
if PMI_SIZE=4 PMI_RANK=0 timeout 20 "$phalanx" generate -p x >"$tmp/out" 2>"$tmp/err" ||
    ! grep -q "4" "$tmp/err"; then
    fail "a launch by another MPI is not explained"
else
    pass
fi

# --- a rank that dies takes the others with it, within two seconds
mkdir -p "$tmp/endless"
sed -e 's/"hidden_size": 2048/"hidden_size": 256/' \
    -e 's/"intermediate_size": 8192/"intermediate_size": 512/' \
    -e 's/"vocab_size": 128256/"vocab_size": 512/' -e 's/_token_id": [0-9]*/_token_id": 0/' \
    "$big" >"$tmp/endless/config.json"
long=(generate -m "$tmp/endless" --load-format dummy --ignore-eos --prompt-ids 1,2,3
    -n 100000 -c 100100 --json)
for victim in 0 1; do
    "${mpirun[@]}" -np 2 "$phalanx" "${long[@]}" >"$tmp/out" 2>"$tmp/err" &
    launcher=$!
    sleep 4
    rank=$(pgrep -f "^$phalanx" | sed -n "$((victim + 1))p")
    if [ -z "$rank" ]; then
        fail "no rank to kill"
        kill "$launcher" 2>/dev/null
        wait "$launcher"
        continue
    fi
    kill -9 "$rank"
    begin=$(date +%s%N)
    wait "$launcher"
    took=$((($(date +%s%N) - begin) / 1000000))
    sleep 0.2
    if left_running; then
        fail "a killed rank leaves others running"
    elif [ "$took" -gt 2000 ]; then
        fail "a killed rank: the job ended after $took ms"
    else
        pass
    fi
done

# --- Ctrl-C: nothing is left running, and every text that was finished is there. mpirun forwards
# little of what comes after it; without mpirun the text under way is there too.
for i in $(seq 2000); do echo "ROMEO:"; done >"$tmp/many"
"${mpirun[@]}" -np 2 "$phalanx" generate --prompts "$tmp/many" -n 400 --max-num-seqs 1 --json \
    --ignore-eos >"$tmp/out" 2>"$tmp/err" &
launcher=$!
sleep 4
before=$(wc -l <"$tmp/out")
kill -INT "$launcher"
begin=$(date +%s%N)
wait "$launcher"
took=$((($(date +%s%N) - begin) / 1000000))
sleep 0.2
if left_running; then
    fail "Ctrl-C leaves ranks running"
elif [ "$took" -gt 3000 ]; then
    fail "Ctrl-C: the job ended after $took ms"
elif [ "$before" -eq 0 ] || [ "$(wc -l <"$tmp/out")" -lt "$before" ] ||
    head -n "$before" "$tmp/out" | grep -vq '^{.*}$'; then
    fail "Ctrl-C: what was made is lost"
else
    pass
fi
# A job of its own, since a script's background commands ignore SIGINT.
set -m
"$phalanx" "${long[@]}" >"$tmp/out" 2>"$tmp/err" &
alone=$!
set +m
sleep 2
kill -INT "$alone"
wait "$alone"
status=$?
if [ "$status" -eq 130 ] && grep -q '^{.*"finish_reason":"cancelled".*}$' "$tmp/out"; then
    pass
else
    fail "Ctrl-C without mpirun: exit status $status"
fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
