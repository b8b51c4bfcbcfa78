#!/usr/bin/env bash
# Trains on several GPUs of one machine: tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,3s/^# //p' "$0"; exit 1; }
config=$1 gpus=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/_torchrun.sh" "$gpus" "$here/train.py" "$config" --launcher pytorch "$@"
