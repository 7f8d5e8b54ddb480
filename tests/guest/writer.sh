#!/bin/sh
# The writer's switch: writer start [PAUSE_MS] | stop | status
pid_file=/run/writer.pid
alive() { [ -f $pid_file ] && kill -0 "$(cat $pid_file)" 2>/dev/null; }
case "$1" in
start)
  alive && { echo "the writer runs already" >&2; exit 1; }
  setsid /bin/lab-guest __lab-guest write /mnt/a/journal /mnt/b/journal "${2:-5}" </dev/null >/run/writer.log 2>&1 &
  echo $! > $pid_file
  sleep 0.1
  alive || { cat /run/writer.log >&2; exit 1; }
  ;;
stop)
  alive || { echo "the writer does not run" >&2; exit 1; }
  kill "$(cat $pid_file)"
  left=100
  while alive; do left=$((left - 1)); [ $left -gt 0 ] || { echo "the writer does not end" >&2; exit 1; }; sleep 0.1; done
  rm $pid_file
  sync
  ;;
status)
  if alive; then echo running; else echo idle; fi
  ;;
*)
  echo "usage: writer start [PAUSE_MS] | stop | status" >&2
  exit 2
  ;;
esac
