# shellcheck shell=bash
# What gpu_check.sh and gpu_step_check.sh share; sourced by them with `deadline`, the seconds for all parts together,
# `rehearse`, yes or no, and the output folder as "$1".
: "${deadline:?}" "${rehearse:?}"
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-python3}
mkdir -p "$1"
out=$(cd "$1" && pwd)
rm -f "$out/summary.txt"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
[ -e tglo/kernels ] || ln -s ../kernels tglo/kernels # a checkout is not an installation

# Without addopts no plugin is needed: pytest-timeout's ini option is then a warning and not an error. A line for each
# test, so that a run which is cut off tells how far it came; and where a test that hangs is, before it is cut off.
# shellcheck disable=SC2034 # used by the scripts
pytest=("$python" -m pytest -m gpu -v -ra -o addopts= -o faulthandler_timeout=40 --import-mode=importlib
  -p no:cacheprovider -W ignore::pytest.PytestConfigWarning)

failed=()
current='' running='' beside=''
say() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

run_in() { # run_in SECONDS LOG COMMAND...: interrupted, then killed, and given up if even that does not end it
  local limit=$1 log=$2 last=$((SECONDS + $1 + 20))
  shift 2
  # The interrupt lets pytest report what it has; a background process would ignore it.
  env --default-signal=INT timeout --signal=INT --kill-after=8 "$limit" "$@" >> "$log" 2>&1 < /dev/null &
  running=$!
  while kill -0 "$running" 2> /dev/null; do
    if [ "$SECONDS" -ge "$last" ]; then
      running=''
      return 125
    fi
    sleep 0.1
  done
  local status=0
  wait "$running" || status=$?
  running=''
  return "$status"
}

wanted() { # a rehearsal can be of some parts
  [[ -z ${REHEARSE_ONLY:-} || " $REHEARSE_ONLY " == *" $1 "* ]]
}

part() { # part NAME LOG SECONDS COMMAND...: run it, append to the log, remember a failure
  wanted "$1" || return 0
  local name=$1 log=$out/$2 limit=$3 left=$((deadline - SECONDS)) start=$SECONDS status=0
  shift 3
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -lt 5 ]; then
    failed+=("$name")
    say "$name: FAILED, no time left"
    return 1
  fi
  [ "$name" = "${REHEARSE_FAIL:-}" ] && set -- sh -c 'echo this fails on purpose; exit 3'
  [ "$name" = "${REHEARSE_HANG:-}" ] && limit=${REHEARSE_LIMIT:-1} && set -- sh -c 'echo this hangs on purpose; sleep 999'
  current=$name
  printf '\n== %s: %s\n' "$name" "$*" >> "$log"
  run_in "$limit" "$log" "$@" || status=$?
  current=''
  if [ "$status" -ne 0 ]; then
    failed+=("$name")
    tail -n 15 "$log"
    say "$name: FAILED with status $status after $((SECONDS - start)) s (limit $limit s; 124 and 137 are the limit)"
    return 1
  fi
  say "$name: ok in $((SECONDS - start)) s; $(sed '/^$/d' "$log" | tail -n 1)"
}

end() { # the last lines, and the number of failed parts as the exit status
  say "${#failed[@]} failed: ${failed[*]:-none}; $SECONDS s; see $out"
  exit "${#failed[@]}"
}

stop() { # what was measured is in the files; say where the rest is missing, and end what runs
  trap '' TERM INT HUP
  local pid
  failed+=("${current:-the rest}")
  say "${current:-between two parts}: STOPPED by a signal; what comes after it did not run"
  for pid in $running $beside; do
    kill -TERM "$pid" 2> /dev/null
  done
  end
}
trap stop TERM INT HUP

[ "$rehearse" = yes ] || unset REHEARSE_ONLY REHEARSE_FAIL REHEARSE_HANG
if [ "$rehearse" = yes ]; then
  say "A REHEARSAL: nothing here was measured on a GPU"
  export PATH="$PWD/benchmarks/rehearsal/bin:$PATH" PYTHONPATH="$PWD/benchmarks/rehearsal/site:$PYTHONPATH"
fi
