#!/usr/bin/env bash
# What must hold on a GPU: builds with CUDA, runs every test labelled gpu, then the op and device
# tests and a generation under compute-sanitizer. Whatever hangs is ended and named, and the rest
# goes on. Prints a summary, which also goes to bench/results/.
#
#   tests/gpu.sh [BUILD_FOLDER]        default: build/gpu
#
# PHX_GPU_PARTS: only these parts (default: "tests sanitizers").
# PHX_GPU_TARGETS: only these targets are built (default: all). PHX_RESULTS: where the summary goes.
# PHX_COMMIT: what the summary calls the commit where git does not know.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
build=${1:-build/gpu}
results=${PHX_RESULTS:-bench/results}
log=$build/gpu-tests.log
failed=0
side_by_side=6 # tests that share the GPUs
limit_s=900 # of a program; a test of ctest has its own, which is less

mkdir -p "$build" "$results"
cmake -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DPHX_CUDA=ON >"$build/configure.log" 2>&1 ||
    { cat "$build/configure.log"; exit 1; }
# shellcheck disable=SC2086
cmake --build "$build" --target ${PHX_GPU_TARGETS:-all} >"$build/build.log" 2>&1 ||
    { tail -50 "$build/build.log"; exit 1; }

step() { # NAME COMMAND...: one line of the summary
    local name=$1 start=$SECONDS verdict=ok code
    shift
    echo "begins       $name"
    echo "== $name: $*" >>"$log"
    "$@" >>"$log" 2>&1
    code=$?
    case $code in
        0) ;;
        77) verdict=skipped ;;
        *) verdict="FAILED ($code)" failed=1 ;;
    esac
    printf '%-12s %-44s %5d s\n' "$verdict" "$name" $((SECONDS - start)) | tee -a "$summary"
    [[ $verdict != FAILED* ]]
}

run_test() { # NAME: one test of ctest, which ends it at its TIMEOUT; 77 if it is skipped
    local output=$build/gpu-test-$1.log
    timeout -k 10 "$limit_s" ctest --test-dir "$build" -R "^$1\$" --output-on-failure \
        --no-tests=error | tee "$output" || return
    ! grep -q '\*\*\*Skipped' "$output" || return 77
}

sanitize() { # TOOL PROGRAM...
    local options=(--tool "$1" --error-exitcode 9)
    # A test asks for more memory than there is, and is told so.
    [ "$1" != memcheck ] || options+=(--report-api-errors no)
    shift
    timeout -k 10 "$limit_s" compute-sanitizer "${options[@]}" "$@"
}

sanitize_ops() { # TOOL: the ops side by side
    local test=$build/tests/kernels/test_ops_cuda
    "$test" --ops | xargs -P 8 -I{} env PHX_TEST_ONCE=1 PHX_TEST_OP={} \
        timeout -k 10 "$limit_s" compute-sanitizer --tool "$1" --error-exitcode 9 "$test"
}

sanitize_generate() { # TOOL: steps as graphs where the tool is quick enough with them
    local steps=()
    [ "$1" = memcheck ] || steps=(--enforce-eager)
    sanitize "$1" "$build/launch/phalanx" generate --device cuda -c 256 --temp 0 -n 12 \
        -m models/demo -p "First Citizen:" "${steps[@]}"
}

sanitize_all() { # TOOL
    local failed=0
    step "$1, test_device_cuda" sanitize "$1" "$build/tests/kernels/test_device_cuda"
    step "$1, test_ops_cuda" sanitize_ops "$1"
    step "$1, generate" sanitize_generate "$1"
    return $failed
}

summary=$(mktemp)
: >"$log"
names() { # OPTION...: of the tests on GPUs
    ctest --test-dir "$build" -N -L gpu "$@" | sed -n 's/^ *Test *#[0-9]*: //p'
}
tests=$(names)
[ -n "$tests" ] || { echo "no test is labelled gpu"; exit 1; }
shares=$(names -L shares | tr '\n' ' ')
parts=${PHX_GPU_PARTS:-tests sanitizers}
if [[ $parts != *tests* ]]; then
    echo "not run      tests" | tee -a "$summary"
    tests=
fi
for test in $tests; do
    [[ " $shares " == *" $test "* ]] || continue
    while [ "$(jobs -rp | wc -l)" -ge $side_by_side ]; do wait -n || failed=1; done
    step "$test" run_test "$test" &
done
for job in $(jobs -p); do wait "$job" || failed=1; done
for test in $tests; do
    [[ " $shares " == *" $test "* ]] || step "$test" run_test "$test"
done
if [[ $parts != *sanitizers* ]]; then
    echo "not run      sanitizers" | tee -a "$summary"
elif command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
        sanitize_all $tool &
    done
    for job in $(jobs -p); do wait "$job" || failed=1; done
else
    echo "skipped      compute-sanitizer is not installed" | tee -a "$summary"
fi

gpus=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sort | uniq -c)
commit=$(git rev-parse --short HEAD 2>/dev/null || echo "${PHX_COMMIT:-not known here}")
git diff --quiet HEAD 2>/dev/null || [ -n "${PHX_COMMIT:-}" ] || commit+=", with changes"
{
    echo "# GPU tests"
    echo
    echo "- machine: ${gpus#"${gpus%%[! ]*}"}"
    echo "- CUDA: $(nvcc --version | sed -n 's/.*release \([^,]*\),.*/\1/p')"
    echo "- date: $(date -u +%F)"
    echo "- commit: $commit"
    echo "- command: tests/gpu.sh"
    echo
    echo '```'
    cat "$summary"
    echo '```'
} >"$results/gpu-tests.md"
rm -f "$summary"
wrong='ERROR|FAILED|\*\*\*(Failed|Timeout|Exception|Not Run)|has not come to an end'
wrong+='|========= (Error|Invalid|Race|Uninit)|case [0-9]+'
[ $failed -eq 0 ] || grep -nE "$wrong" "$log" | head -60
exit $failed
