#!/usr/bin/env bash
# server_test.py, where there is a Python. Exit status 77: there is none.
#   server.sh PHALANX RANKS MPIRUN...
command -v python3 >/dev/null || { echo "skipped: there is no python3"; exit 77; }
exec python3 "$(dirname "$0")/server_test.py" "$@"
