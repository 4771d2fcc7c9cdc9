# Sourced by run_eval.sh and run_tests.sh: `environment DIR EXTRAS` makes the virtual environment DIR, installs this
# checkout into it (editable, EXTRAS such as "[dev]" or "") and puts it on PATH. Installs once per pyproject.toml.
environment() {
  local venv=$1 extras=$2 python=python3 stamp
  if [[ ! -x $venv/bin/python ]]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
      echo "Python 3.10 or later is needed, $("$python" --version) was found: install it, or put it first on PATH" >&2
      return 1
    }
    echo "making the environment $venv" >&2
    "$python" -m venv "$venv"
  fi
  stamp=$("$venv/bin/python" -c 'import hashlib, sys; print(hashlib.sha256(repr([open(sys.argv[1]).read(), sys.argv[1:]]).encode()).hexdigest())' \
    "$here/pyproject.toml" "$extras")
  if [[ ! -e $venv/.installed-$stamp ]]; then
    echo "installing adaptinfer-eval$extras into $venv (once; the first time downloads PyTorch)" >&2
    "$venv/bin/python" -m pip install --quiet --editable "$here$extras" >&2
    touch "$venv/.installed-$stamp"
  fi
  export PATH="$venv/bin:$PATH"
}
