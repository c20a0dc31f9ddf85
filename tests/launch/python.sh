#!/usr/bin/env bash
# A test in Python, where there is one that can run it. Exit status 77: there is none.
#   python.sh TEST.py ARGUMENTS...
command -v python3 >/dev/null || { echo "skipped: there is no python3"; exit 77; }
exec python3 "$(dirname "$0")/$1" "${@:2}"
