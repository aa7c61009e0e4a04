#!/usr/bin/env bash
# torchrun, but SIGTERM and SIGINT go to the trainers only: they finish the step, save a checkpoint and
# end with status 0, and so does this. torchrun itself would end with status 1 on these signals, which
# makes a scheduler kill the other nodes while they may still be saving.
set -euo pipefail

# A terminal's Ctrl-C goes to every process of the group: torchrun is to leave it to the trainers too.
torchrun --signals-to-handle SIGTERM,SIGHUP,SIGQUIT "$@" &
launcher=$!

stop() {
    # Its children are the trainers; before there are any, the launcher itself.
    pkill -TERM --parent "$launcher" || kill -TERM "$launcher" 2>/dev/null || true
}
trap stop TERM INT

# A trapped signal ends `wait`, not the launcher: wait until that has ended.
status=0
wait "$launcher" || status=$?
while kill -0 "$launcher" 2>/dev/null; do
    status=0
    wait "$launcher" || status=$?
done
exit "$status"
