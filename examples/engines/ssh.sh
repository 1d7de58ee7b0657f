#!/bin/bash
# ./ssh.sh GRID HOST...: a worker for every GPU of each host. They keep running when this shell ends.
# See `sweep status GRID`; stop those of a host with: ssh HOST pkill -TERM -f "'sweep work'"
set -eu
grid=$(realpath "$1")
root=$(realpath "${EPSWEEP_ROOT:-outputs}")
shift
for host in "$@"; do
  # Only the worker is in the background: ssh waits for all that has its output.
  ssh "$host" "mkdir -p '$root/workers' && cd '$(dirname "$grid")' || exit
    gpus=\$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
    EPSWEEP_ROOT='$root' nohup '$(command -v sweep)' work '$grid' --slots \$((gpus ? gpus : 1)) \
      --idle 300 > '$root/workers/$host.log' 2>&1 < /dev/null &"
done
