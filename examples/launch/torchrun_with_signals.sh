#!/usr/bin/env bash
# torchrun, but SIGTERM, SIGUSR1 and SIGINT go to the trainers only: they finish the step, save a checkpoint
# and end with status 0, and so does this. torchrun itself would end with status 1 on these signals, which
# makes a scheduler kill the other nodes while they may still be saving.
#
# The status is 138 where a step hung or another node is gone: the same command resumes. torchrun says 1
# whatever its trainers say, so they make the file TGLO_RESTART_FILE.
set -euo pipefail

STOPPED_STATUS=${STOPPED_STATUS:-0} # after a signal; Kubernetes takes 0 for a run that is finished
if [ -z "${TGLO_RESTART_FILE:-}" ]; then
    export TGLO_RESTART_FILE=${TMPDIR:-/tmp}/tglo-restart-$$
    rm -f "$TGLO_RESTART_FILE"
fi
stopped=no

# One line where nodes cannot meet. A copy of this file that lies alone does without.
if [ -e "$(dirname "$0")/meeting_point.py" ]; then
    python3 "$(dirname "$0")/meeting_point.py" "$@" || exit 1
fi

# A terminal's Ctrl-C, and a scheduler's SIGUSR1, may go to every process of the group: torchrun is to leave
# them to the trainers too.
(
    trap '' USR1
    exec torchrun --signals-to-handle SIGTERM,SIGHUP,SIGQUIT "$@"
) &
launcher=$!

stop() {
    stopped=yes
    # Its children are the trainers; before there are any, the launcher itself.
    pkill -TERM --parent "$launcher" || kill -TERM "$launcher" 2>/dev/null || true
}
trap stop TERM INT USR1

# A trapped signal ends `wait`, not the launcher: wait until that has ended.
while kill -0 "$launcher" 2>/dev/null; do
    wait "$launcher" || true
done
status=0
wait "$launcher" || status=$? # bash remembers it
if [ "$status" != 0 ] && [ -e "$TGLO_RESTART_FILE" ]; then
    status=138
elif [ "$status" = 0 ] && [ "$stopped" = yes ]; then
    status=$STOPPED_STATUS
fi
exit "$status"
