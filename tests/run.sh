#!/usr/bin/env bash
# Every test, from a fresh Debian or Ubuntu: packages, build, ctest.
#
#   tests/run.sh                all of them
#   tests/run.sh -R placement   arguments go to ctest: those whose name matches
#   PRESET=debug tests/run.sh   another preset of CMakePresets.json
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch/setup.sh"

phx_install "${phx_build_needs[@]}"
preset=${PRESET:-release}
phx_build "$preset"
exec ctest --test-dir "$phx_root/build/$preset" --no-tests=error --output-on-failure \
    -j "$phx_test_jobs" "$@"
