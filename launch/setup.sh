# shellcheck shell=bash disable=SC2034
# What demo.sh, tests/run.sh and .ci/run have in common: the packages, and a build that is quiet
# unless it fails. Sourced by bash; the caller has set -euo pipefail.

phx_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Tests at a time: some only wait.
phx_test_jobs=$(($(nproc) + 1))

phx_say()
{
    echo "${0##*/}: $*" >&2
}

phx_die()
{
    phx_say "$*"
    exit 1
}

# A package, and what shows that its content is there, from whatever source.
phx_build_needs=(
    "gcc          phx_compiles cc"
    "libc6-dev    phx_compiles cc"
    "cmake        command -v cmake"
    "ninja-build  command -v ninja"
    "pkg-config   command -v pkg-config"
    "openmpi-bin  command -v mpirun"
    "libopenmpi-dev  command -v mpicc"
    "libhwloc-dev    pkg-config --exists hwloc"
    "libjansson-dev  pkg-config --exists jansson"
    "libpcre2-dev    pkg-config --exists libpcre2-8"
    "libutf8proc-dev pkg-config --exists libutf8proc"
    "libmicrohttpd-dev pkg-config --exists libmicrohttpd"
    "libcmocka-dev   pkg-config --exists cmocka"
)

phx_compiles() # COMPILER [FLAG ...]
{
    echo '#include <stdio.h>
int main(void) { return puts("") < 0; }' | "$@" -x c -o /dev/null -
}

# Install the packages whose content is missing. Arguments: entries like those above.
phx_install()
{
    local need package check missing=()
    for need in "$@"; do
        read -r package check <<<"$need"
        $check >/dev/null 2>&1 || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then return; fi

    local as_root=()
    if ! command -v apt-get >/dev/null; then
        phx_die "these are missing (by their Debian names): ${missing[*]}; this system has no" \
            "apt-get, so install them the way it does and start again"
    fi
    if ((EUID != 0)); then
        if ! command -v sudo >/dev/null || { ! sudo -n true 2>/dev/null && [[ ! -t 0 ]]; }; then
            phx_die "these packages are missing and this user cannot install them; as root, run:" \
                "apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
        fi
        as_root=(sudo)
    fi
    phx_say "installing ${missing[*]}"
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    phx_quietly "${as_root[@]}" apt-get -q update || phx_say "going on with the lists there are"
    phx_quietly "${as_root[@]}" apt-get -q -o DPkg::Lock::Timeout=120 install -y \
        --no-install-recommends "${missing[@]}" || phx_die "the packages could not be installed"
}

# Run a command and show what it says only if it fails.
phx_quietly()
{
    local output status=0
    output=$(mktemp)
    "$@" >"$output" 2>&1 </dev/null || status=$?
    if ((status != 0)); then
        tail -n 60 "$output" >&2
        phx_say "this failed, with status $status: $*"
    fi
    rm -f "$output"
    return "$status"
}

# What else cmake is told where a preset is set up for the first time.
phx_cmake_options=()

# Build a preset of CMakePresets.json into build/PRESET: everything, or the targets named.
phx_build() # PRESET [TARGET ...]
{
    local preset=$1 target targets=()
    shift
    for target in "$@"; do targets+=(--target "$target"); done
    cd "$phx_root" || return
    if [[ ! -e build/$preset/build.ninja ]]; then
        phx_say "building, a minute or several: cmake --preset $preset ${phx_cmake_options[*]}"
        phx_quietly cmake --preset "$preset" "${phx_cmake_options[@]}" || return
    fi
    phx_quietly cmake --build "build/$preset" "${targets[@]}"
}
