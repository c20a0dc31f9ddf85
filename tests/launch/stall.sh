#!/usr/bin/env bash
# A rank that hangs, is stopped or dies in the middle of a step or of the start: the watchdog, or
# mpirun, ends the job in time, with the sentence that tells, and leaves nothing running.
#   stall.sh STALLING RANKS "ARGS OF PHALANX" MPIRUN...
# STALLING: phalanx, linked with stalling.c. On GPUs the arguments must hold --enforce-eager:
# a replayed graph makes no calls. Exit status 77: there are fewer GPUs than ranks.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# A copy at a place of its own: its path tells its processes from others.
mkdir -p "$tmp/bin" "$tmp/share/phalanx/models"
cp "$1" "$tmp/bin/phalanx"
ln -s "$root/models/demo" "$tmp/share/phalanx/models/demo"
phalanx=$tmp/bin/phalanx
ranks=$2
read -ra arguments <<<"$3"
shift 3
mpirun=("$@")
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
if [[ " ${arguments[*]} " == *" cuda "* ]] && [ "$gpus" -lt "$ranks" ]; then
    echo "skipped: there are fewer than $ranks GPUs"
    exit 77
fi
# On a GPU the others have given it all of the step and cannot tell whether it is through.
vague=
[[ " ${arguments[*]} " != *" cuda "* ]] || vague='s/missing in or past/missing in/'
timeout_s=3
grace_ms=5000
passed=0
failed=0

fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s: %s\n' "$name" "$1"
    tail -n 12 "$tmp/err" | cut -c1-240 | sed 's/^/    /'
}
pass() { passed=$((passed + 1)); }

now_ms() { date +%s%3N; }

# A process that has ended but was not waited for does not count.
ranks_left() { pgrep -f "^$phalanx" -r R,S,D,T; }

# start "RANK WAY PLACE N" WATCHDOG_SECONDS: a job in the background, as $launcher
start() {
    : >"$tmp/err"
    PHX_TEST_STALL=$1 "${mpirun[@]}" -x PHX_TEST_STALL -np "$ranks" "$phalanx" generate -p ROMEO: \
        --temp 0 -n 24 --watchdog-timeout "$2" ${arguments[@]+"${arguments[@]}"} \
        >"$tmp/out" 2>"$tmp/err" </dev/null &
    launcher=$!
}

# Until the rank has stalled; its time goes to $stalled.
await_stall() {
    stalled=
    for ((i = 0; i < 600 && ${#stalled} == 0; i++)); do
        stalled=$(sed -n 's/^stalling: //p' "$tmp/err")
        kill -0 "$launcher" 2>/dev/null || break
        sleep 0.1
    done
    stalled=$(sed -n 's/^stalling: //p' "$tmp/err")
    [ -n "$stalled" ]
}

# await_end FROM_MS: the exit status to $status, the time from then to $took_ms
await_end() {
    wait "$launcher"
    status=$?
    took_ms=$(($(now_ms) - $1))
}

# ends NAME "RANK WAY PLACE N" SENTENCE MIN_MS MAX_MS: the job fails so long after the stall, with
# the watchdog's sentence told once; SENTENCE none: with no word of it.
ends() {
    local told sentence expected=1
    name=$1
    start "$2" "$timeout_s"
    await_stall
    await_end "${stalled:-0}"
    sentence=$(sed "$vague" <<<"$3")
    told=$(grep -c -- '--watchdog-timeout' "$tmp/err")
    [ "$3" != none ] || expected=0
    if [ -z "$stalled" ]; then
        fail "the rank never stalled"
    elif [ "$status" -eq 0 ]; then
        fail "exit status 0"
    elif [ -n "$(ranks_left)" ]; then
        fail "ranks are left running"
    elif [ "$took_ms" -lt "$4" ] || [ "$took_ms" -gt "$5" ]; then
        fail "it took $took_ms ms"
    elif [ "$told" -ne "$expected" ]; then
        fail "$told sentences"
    elif [ "$expected" -eq 1 ] && ! sed "$vague" "$tmp/err" | grep -qF -- "$sentence"; then
        fail "not this sentence: $3"
    else
        pass
    fi
}

hangs() { ends "$1" "$2" "$3" $((timeout_s * 1000)) $((timeout_s * 1000 + grace_ms)); }
dies() { ends "$1" "$2" none 0 "$grace_ms"; }

# The demo model has four layers: its third step's layer 2 is the tenth call.
last=$((ranks - 1))
hangs "hung in attention" "1 hang attention 10" \
    "for $timeout_s s: rank 1 runs and is missing in the sum after the attention of layer 2"
hangs "rank 0 hung in an MLP" "0 hang mlp 4" \
    "rank 0 runs and is missing in the sum after the MLP of layer 0"
hangs "hung at the embedding" "$last hang embed 1" \
    "rank $last runs and is missing in the sum of the embeddings"
hangs "hung at the draw" "$last hang candidates 2" \
    "rank $last runs and is missing in the gather of the logits or their candidates"
hangs "stopped" "1 stop attention 11" \
    "rank 1 does not run (is it stopped?) and is missing in the sum after the attention of layer 3"
hangs "rank 0 stopped" "0 stop mlp 5" \
    "rank 0 does not run (is it stopped?) and is missing in the sum after the MLP of layer 1"
hangs "rank 0 stopped before it announces a step" "0 stop announce 2" \
    "rank 0 does not run (is it stopped?) and is missing in or past the gather of the logits"
hangs "stopped at the start" "$last stop start 0" \
    "the start has not gone on for $timeout_s s: rank $last does not run (is it stopped?)"
dies "killed in a step" "1 kill attention 10"
dies "rank 0 killed in a step" "0 kill mlp 0"
dies "killed while the others wait at the start" "$last kill start 0"
dies "rank 0 killed while the others wait at the start" "0 kill start 0"

# No watchdog: the job waits, and ends with mpirun even if that cannot say so.
name="mpirun killed"
start "1 hang attention 10" 0
if ! await_stall; then
    fail "the rank never stalled"
    wait "$launcher"
else
    sleep $((timeout_s + 1))
    left=$(ranks_left | wc -l)
    kill -9 "$launcher"
    wait "$launcher" 2>/dev/null
    for ((i = 0; i < grace_ms / 100; i++)); do
        [ -n "$(ranks_left)" ] || break
        sleep 0.1
    done
    if [ "$left" -ne "$ranks" ] || grep -q 'watchdog' "$tmp/err"; then
        fail "--watchdog-timeout 0: $left ranks were left after $((timeout_s + 1)) s"
    elif [ -n "$(ranks_left)" ]; then
        fail "ranks outlive mpirun"
    else
        pass
    fi
fi

# Stopped as a whole and continued, it goes on, though more time than the time-out went by.
name="all stopped and continued"
start "1 nap attention 10" "$timeout_s"
if ! await_stall; then
    fail "the rank never stalled"
    wait "$launcher"
else
    mapfile -t pids < <(ranks_left)
    kill -STOP "${pids[@]}"
    sleep $((timeout_s + 1))
    kill -CONT "${pids[@]}"
    await_end "$stalled"
    if [ "$status" -ne 0 ] || [ "${#pids[@]}" -ne "$ranks" ] || [ ! -s "$tmp/out" ]; then
        fail "${#pids[@]} ranks were stopped; exit status $status"
    elif [ "$took_ms" -lt $((timeout_s * 1000 + 1000)) ]; then
        fail "it was not stopped: $took_ms ms"
    else
        pass
    fi
fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
