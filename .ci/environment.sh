# Sourced by run_eval.sh and run_tests.sh, and takes the first of their arguments if they are its own:
#   --venv DIR   use or make the environment DIR instead of .venv
#   --newest     install the newest releases that pyproject.toml allows instead of the tested set, constraints.txt
#   --oldest     install the oldest releases that it allows
# `environment EXTRAS` makes the environment, installs this checkout into it (editable, EXTRAS such as "[dev]" or "")
# and puts it on PATH. It installs once per set of versions, the newest once a day.
venv=$here/.venv
versions=tested
while [[ $# -gt 0 ]]; do
  case $1 in
    --venv) venv=${2:?--venv needs a folder} && shift 2 ;;
    --newest | --oldest) versions=${1#--} && shift ;;
    *) break ;;
  esac
done

environment() {
  local extras=$1 other python=$venv/bin/python
  [[ -x $python ]] || python=python3
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or later is needed, $python is $("$python" --version): put a later one first on PATH" >&2
    return 1
  }
  if [[ $python == python3 ]]; then
    echo "making the environment $venv" >&2
    python3 -m venv "$venv"
  fi
  venv=$(cd "$venv" && pwd)
  "$venv/bin/python" "$here/.ci/versions.py" "$versions" > "$venv/.wanted"
  for other in "$venv"/.installed*; do
    cmp -s "$other" "$venv/.wanted" || rm -f "$other" # what stands there is about to be replaced
  done
  if [[ ! -e $venv/.installed$extras && ! -e "$venv/.installed[dev]" ]]; then
    echo "installing adaptinfer-eval$extras, $versions versions, into $venv (once; at first it downloads PyTorch)" >&2
    local pip=(bin/python -m pip install -qq) # only errors: setuptools warns of any editable install
    if [[ $versions == newest ]]; then
      pip+=(--upgrade --upgrade-strategy eager)
    else # as variables they also bind what sources are built with, but may hold no path with a blank
      pip=(env PIP_CONSTRAINT=.wanted PIP_BUILD_CONSTRAINT=.wanted "${pip[@]}")
    fi
    (cd "$venv" && "${pip[@]}" --editable "$here$extras" >&2)
    mv "$venv/.wanted" "$venv/.installed$extras"
  fi
  export PATH="$venv/bin:$PATH"
}
