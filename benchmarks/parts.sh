# shellcheck shell=bash
# What gpu_check.sh and gpu_step_check.sh share; sourced by them with `deadline`, the seconds for all parts together,
# and the output folder as "$1".
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-python3}
mkdir -p "$1"
out=$(cd "$1" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
[ -e tglo/kernels ] || ln -s ../kernels tglo/kernels # a checkout is not an installation

# Without addopts no plugin is needed: pytest-timeout's ini option is then a warning and not an error.
# shellcheck disable=SC2034 # used by the scripts
pytest=("$python" -m pytest -m gpu -q -ra -o addopts= --import-mode=importlib -p no:cacheprovider
  -W ignore::pytest.PytestConfigWarning)

failed=()
say() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

part() { # part NAME LOG SECONDS COMMAND...: run it, append to the log, remember a failure
  local name=$1 log=$out/$2 limit=$3 left=$((deadline - SECONDS)) start=$SECONDS status=0
  shift 3
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -lt 5 ]; then
    failed+=("$name")
    say "$name: FAILED, no time left"
    return 1
  fi
  printf '\n== %s: %s\n' "$name" "$*" >> "$log"
  timeout --kill-after=5 "$limit" "$@" >> "$log" 2>&1 || status=$?
  if [ "$status" -ne 0 ]; then
    failed+=("$name")
    tail -n 15 "$log"
    say "$name: FAILED with status $status after $((SECONDS - start)) s (limit $limit s; 124 is the limit)"
    return 1
  fi
  say "$name: ok in $((SECONDS - start)) s; $(tail -n 1 "$log")"
}

end() { # the last lines, and the number of failed parts as the exit status
  say "${#failed[@]} failed: ${failed[*]:-none}; $SECONDS s; see $out"
  exit "${#failed[@]}"
}
