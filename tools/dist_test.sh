#!/usr/bin/env bash
# Evaluates on several GPUs of one machine: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2s/^# //p' "$0"; exit 1; }
config=$1 checkpoint=$2 gpus=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/_torchrun.sh" "$gpus" "$here/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
