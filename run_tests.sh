#!/usr/bin/env bash
# Lint, types, tests. Makes an environment (.venv) and installs into it first, if need be.
#
#   ./run_tests.sh [--venv DIR] [pytest arguments]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=.ci/environment.sh
source "$here/.ci/environment.sh"

venv=$here/.venv
if [[ ${1:-} == --venv ]]; then
  venv=${2:?--venv needs a folder}
  shift 2
fi
environment "$venv" "[dev]"
cd "$here"
ruff check
ruff format --check
mypy
# One thread per test process: two of them already fill two cores.
OMP_NUM_THREADS=1 python -m pytest -n 2 "$@"
