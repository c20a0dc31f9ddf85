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
if run 2 generate -n 1 -p "KING:" && grep -qF '| generated 1 token | load' "$tmp/err"; then
    pass
else
    fail "the closing line of one token"
fi
run 2 generate -n 0 -p "KING:" --json
if grep -q '"prompt_ms":0\.0*[1-9]\|"prompt_ms":[1-9]' "$tmp/out"; then
    pass
else
    fail "no time for a prompt alone"
fi

# One prompt that cannot be run fails alone.
printf '%s\n' "ROMEO:" "to be or not to be, that is the question, whether" "JULIET:" >"$tmp/batch"
for form in --json --verbose; do
    run 2 generate --temp 0 -c 12 -n 4 --prompts "$tmp/batch" "$form"
    if [ $? -eq 0 ] || ! grep -qF "prompt 2: the prompt has" "$tmp/err"; then
        fail "a long prompt among others ($form): it is not told"
    elif ! grep -q "ROMEO" "$tmp/out" && ! grep -q '"ids":' "$tmp/out"; then
        fail "a long prompt among others ($form): they are not run"
    elif [ "$form" = --json ] &&
        { [ "$(wc -l <"$tmp/out")" -ne 3 ] || ! sed -n 2p "$tmp/out" | grep -q '^{"error":".*12' ||
            ! sed -n 3p "$tmp/out" | grep -q '"finish_reason":"length"'; }; then
        fail "a long prompt among others: not in its place"
    else
        pass
    fi
done
# The byte 0xe2 begins a character that never comes: U+FFFD, at the very end.
prints "stop text at the end" 2 '"text":"","finish_reason":"stop"' generate -n 1 --json -p x \
    --force-ids 160 --stop $'\xef\xbf\xbd'
if run 2 perplexity -f "$demo/sample.txt" --window 16 --max-num-seqs 3 -v &&
    grep -q "steps of up to 3 texts" "$tmp/err"; then
    pass
else
    fail "perplexity: --max-num-seqs"
fi

# Where ranks go: what is wrong is told, not refused.
prints "topology" 3 '"rank":2,' topology --json
prints "plan" 0 '5 ranks cannot share 4 KV heads' plan --gpu h200
prints "plan, told once by several ranks" 2 '"ranks":3,' plan -T 3 --json
prints "topology for people" 2 "rank  local  computes on" topology --device cpu
allowed=$(taskset -cp $$ | sed 's/.*: *//')
if [ "$(nproc)" -gt 1 ]; then
    bound=(taskset -c "${allowed%%[-,]*}" "$phalanx")
    if "${bound[@]}" topology --device cpu -t 2 >"$tmp/out" 2>"$tmp/err" &&
        grep -q "rank 0: 2 threads were asked for, but this rank is bound to one core" "$tmp/out"
    then
        pass
    else
        fail "topology of a rank that is bound to one core"
    fi
fi
# The driver's library is not needed to start.
if ldd "$phalanx" | grep -q 'libcuda\.so'; then fail "libcuda is linked"; else pass; fi
# A build with CUDA says in one line that there is no GPU, and computes; others have nothing to say.
run 2 --version
if grep -q "no cuda:" "$tmp/out"; then
    told=1
    ! grep -q "this build has no CUDA backend" "$tmp/out" || told=0
    run 2 generate --temp 0 -n 3 -p "First Citizen:"
    status=$?
    if [ "$status" -eq 0 ] && [ "$(grep -c 'computing on the CPU' "$tmp/err")" -eq "$told" ]; then
        pass
    else
        fail "no GPU: told other than $told times, exit status $status"
    fi
    prints "no GPU, on purpose" 2 "First Citizen:" generate --device cpu --temp 0 -n 3 \
        -p "First Citizen:"
    if grep -q "computing on the CPU" "$tmp/err"; then
        fail "--device cpu is told that there is no GPU"
    else
        pass
    fi
fi

# --- what is refused
refuses "no such verb" 2 "frobnicate" frobnicate
refuses "no such flag" 2 "--tempp" generate --tempp 1
codes=$("${mpirun[@]}" -np 3 sh -c '"$0" frobnicate 2>/dev/null; echo $?' "$phalanx" | sort -u)
if [ "$codes" = 2 ]; then
    pass
else
    fail "the ranks of a refused job end with different codes: ${codes//$'\n'/ }"
fi
for flag in --help --version; do
    if "$phalanx" "$flag" >/dev/full 2>"$tmp/err" || ! grep -q "standard output" "$tmp/err"; then
        fail "$flag to a full disk"
    else
        pass
    fi
done
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
printf 'abc\377' >"$tmp/noise"
refuses "invalid UTF-8 in a file" 2 "UTF-8" generate -f "$tmp/noise"
refuses "no prompt that fits" 2 "none of the 2 prompts" generate -c 2 -p "to be" -p "or not to be"
refuses "forced past the context" 2 "raise -c" generate -c 6 -n 9 -p "to be" --force-ids 2,3,4,5,6,7
refuses "more forced than asked for" 2 "raise -n to 3" generate -n 2 -p x --force-ids 5,6,7
refuses "stride above the context" 2 "--stride 600: must be at most the window, 512" \
    perplexity -f "$demo/sample.txt" --stride 600
refuses "missing prompt file" 2 "$tmp/none.txt" generate -f "$tmp/none.txt"
refuses "prompts of no text" 2 "bytes that are 0" generate --prompts "$phalanx"
refuses "token out of range" 2 "4096" generate --prompt-ids 1,4096
refuses "bias of no token" 2 "9999" generate -p x --logit-bias 9999+1
refuses "a GPU option of another verb" 2 "--share-gpu" tokenize --share-gpu -p x
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
refuses "missing tensor, before all else" 2 "q_proj" generate -m "$tmp/model" -f "$tmp/none.txt"
broken
edit 's/"intermediate_size": 512/"intermediate_size": 520/'
refuses "wrong shape" 2 "gate_proj" generate -m "$tmp/model" -p x
broken
edit 's/"num_key_value_heads": 4/"num_key_value_heads": 5/'
refuses "heads that do not divide" 2 "12 is not a multiple of num_key_value_heads 5" \
    generate -m "$tmp/model" -p x
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
refuses "unwritable logits, before all else" 2 "$tmp/no/file" generate -m "$tmp/huge" \
    --load-format dummy --prompt-ids 1 -n 1 --logits-out "$tmp/no/file"
mkdir -p "$tmp/wide"
sed -e 's/"hidden_size": 2048/"hidden_size": 64/' -e 's/_token_id": [0-9]*/_token_id": 0/' \
    -e 's/"vocab_size": 128256/"vocab_size": 8000000/' "$big" >"$tmp/wide/config.json"
refuses "out of memory for logits" 2 "positions, which rank 0 keeps, need" \
    generate -m "$tmp/wide" --load-format dummy --prompt-ids 1 -n 100000 --logits-out "$tmp/wide/l"
sed -e 's/"vocab_size": 128256/"vocab_size": 2048/' -e 's/_token_id": [0-9]*/_token_id": 0/' \
    -e 's/"num_hidden_layers": 2/"num_hidden_layers": 8/' "$big" >"$tmp/huge/config.json"
# Sanitizers take all addresses there are, and CUDA's libraries many.
if ! nm -D "$phalanx" | grep -q '__[at]san_'; then
    limit=200000 # KiB
    runs_within() {
        (ulimit -S -v "$1" && "$phalanx" generate --device cpu -m "$demo" --prompt-ids 1 -n 1)
    }
    until runs_within "$limit" >"$tmp/out" 2>&1 || [ "$limit" -gt 4000000 ]; do
        limit=$((limit + 200000))
    done
    ulimit -S -v "$limit"
    refuses "a limit on addresses" 0 "(ulimit -v)" generate --device cpu -m "$tmp/huge" \
        --load-format dummy --prompt-ids 1 -n 1
    ulimit -S -v unlimited
fi
# The last weight is one of the final norm: no logit is a number.
broken
printf '\300\177' | dd of="$tmp/model/model.safetensors" bs=1 conv=notrunc \
    seek=$(($(wc -c <"$tmp/model/model.safetensors") - 2)) 2>/dev/null
refuses "logits that are no numbers" 2 "prompt 1: the logits for token" generate -m "$tmp/model" \
    -p x --json --logprobs 2
if grep -q '"ids":\[\],"text":"","finish_reason":"error"' "$tmp/out" &&
    grep -q '"error":"the logits for' "$tmp/out"; then
    pass
else
    fail "logits that are no numbers: not in the JSON"
fi
refuses "logits that are no numbers, scored" 2 "no finite log-probability" perplexity \
    -m "$tmp/model" -f "$demo/sample.txt"
# A weight of layer 0's k_proj: every score that it has a part in is no number.
broken
weights=$tmp/model/model.safetensors
header=$(od -An -tu8 -N8 "$weights" | tr -d ' ')
end=$(head -c $((8 + header)) "$weights" | tr '{}' '\n\n' |
    grep -aA1 'layers\.0\.self_attn\.k_proj' |
    sed -n 's/.*"data_offsets": *\[[0-9]*, *\([0-9]*\)\].*/\1/p')
printf '\300\177' | dd of="$weights" bs=1 conv=notrunc seek=$((8 + header + end - 2)) 2>/dev/null
refuses "keys that are no numbers" 2 "prompt 1: the logits for token" generate -m "$tmp/model" \
    -p x -n 4

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
    -e 's/"vocab_size": 128256/"vocab_size": 2048/' -e 's/_token_id": [0-9]*/_token_id": 0/' \
    "$big" >"$tmp/endless/config.json"
cp "$demo"/tokenizer*.json "$tmp/endless"
long=(generate -m "$tmp/endless" --load-format dummy -s 3 -p "ROMEO:" --ignore-eos -n 100000
    -c 100100)
for order in "0 KILL 2000" "1 KILL 2000" "1 TERM 3500"; do # SIGTERM leaves 0.7 s to end in order
    read -r victim signal limit <<<"$order"
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
    kill "-$signal" "$rank"
    begin=$(date +%s%N)
    wait "$launcher"
    took=$((($(date +%s%N) - begin) / 1000000))
    sleep 0.2
    if left_running; then
        fail "a killed rank leaves others running"
    elif [ "$took" -gt "$limit" ]; then
        fail "a rank with SIG$signal: the job ended after $took ms"
    elif grep -q "Alarm clock" "$tmp/err"; then
        fail "a rank that was told to end speaks of an alarm"
    else
        pass
    fi
done

# --- Ctrl-C: nothing is left running, and all that was made is there, as many tokens as the closing
# line counts. The text under way may be far longer than what an interrupted mpirun forwards.
yes ROMEO: | head -n 300 >"$tmp/many"
mkdir -p "$tmp/slow"
sed -e 's/"vocab_size": 128256/"vocab_size": 2048/' -e 's/_token_id": [0-9]*/_token_id": 0/' \
    "$big" >"$tmp/slow/config.json"

made() { sed -nE 's/.* generated ([0-9]+) tokens?.*/\1/p' "$tmp/err"; }
# Whole objects only: their ids, one a line.
shown_ids() {
    sed -nE 's/^\{.*"ids":\[([0-9,]+)\].*"timings":\{.*\}\}$/\1/p' "$tmp/out" | tr , '\n'
}

# interrupted NAME [MPIRUN...] -- ARGS...: Ctrl-C a second after the model was loaded.
interrupted() {
    local name=$1 under=() pid begin took
    shift
    while [ "$1" != -- ]; do under+=("$1") && shift; done
    # mpirun's two seconds are not for a sanitizer's call chains and its search for leaks.
    local -x ASAN_OPTIONS=detect_leaks=0
    : >"$tmp/err" # what was told before is not this job's
    set -m # a job of its own: a script's background commands ignore SIGINT
    "${under[@]}" "$phalanx" "${@:2}" --verbose >"$tmp/out" 2>"$tmp/err" &
    pid=$!
    set +m
    for _ in $(seq 1000); do
        grep -q "weights: .* read" "$tmp/err" && break
        sleep 0.1
    done
    sleep 1
    begin=$(date +%s%N)
    kill -INT "$pid"
    wait "$pid"
    status=$?
    took=$((($(date +%s%N) - begin) / 1000000))
    for _ in $(seq 20); do
        left_running || break
        sleep 0.1
    done
    if [ "$status" -eq 0 ] || { [ ${#under[@]} -gt 0 ] && [ "$took" -gt 3000 ]; }; then
        fail "Ctrl-C, $name: exit status $status after $took ms"
    elif left_running; then
        fail "Ctrl-C, $name: ranks are left running"
    elif ! grep -q ' generated [1-9]' "$tmp/err"; then
        fail "Ctrl-C, $name: nothing was made"
    else
        return 0
    fi
    return 1
}

# nothing_lost NAME LEAST MOST: all tokens are there in objects, from LEAST to MOST bytes of them.
nothing_lost() {
    local bytes
    bytes=$(wc -c <"$tmp/out")
    if [ "$(shown_ids | wc -l)" -ne "$(made)" ]; then
        fail "Ctrl-C, $1: $(shown_ids | wc -l) tokens of $(made) are there"
    elif [ "$bytes" -lt "$2" ] || [ "$bytes" -gt "$3" ]; then
        fail "Ctrl-C, $1: $bytes bytes prove nothing"
    else
        pass
    fi
}

cancelled_last() {
    if tail -n 1 "$tmp/out" | grep -q '^{.*"finish_reason":"cancelled".*}}$'; then
        pass
    else
        fail "Ctrl-C, $1: the text under way is not the last line"
    fi
}

for ranks in 0 2; do
    under=()
    [ "$ranks" -gt 0 ] && under=("${mpirun[@]}" -np "$ranks")
    name="a long object, $ranks ranks"
    interrupted "$name" "${under[@]}" -- "${long[@]}" --json --logprobs 20 &&
        nothing_lost "$name" 20000 100000000 && cancelled_last "$name"
    name="a short object, $ranks ranks"
    interrupted "$name" "${under[@]}" -- generate -m "$tmp/slow" --load-format dummy \
        --prompt-ids 1,2,3 --ignore-eos -n 2000 -c 2100 --json &&
        nothing_lost "$name" 1 12000 && cancelled_last "$name"
    name="many objects, $ranks ranks"
    interrupted "$name" "${under[@]}" -- generate --prompts "$tmp/many" -n 400 --ignore-eos \
        --json --logprobs 5 --max-num-seqs 3 && nothing_lost "$name" 20000 100000000
    name="a streamed text, $ranks ranks"
    if interrupted "$name" "${under[@]}" -- "${long[@]}"; then
        cp "$tmp/out" "$tmp/streamed"
        run "$ranks" "${long[@]}" -n "$(made)"
        if cmp -s "$tmp/out" "$tmp/streamed"; then
            pass
        else
            fail "Ctrl-C, $name: it is not as the same text without"
        fi
    fi
    if [ "$ranks" -eq 0 ] && [ "$status" -ne 130 ]; then
        fail "Ctrl-C without mpirun: exit status $status"
    fi
done

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
