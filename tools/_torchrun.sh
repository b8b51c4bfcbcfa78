#!/usr/bin/env bash
# Starts a script once per GPU: _torchrun.sh GPUS SCRIPT [arguments]. On one machine torchrun picks a free port,
# so that two runs never meet; across machines (NNODES > 1) all have to agree on MASTER_ADDR and PORT.
set -euo pipefail
gpus=$1
shift
if [ "${NNODES:-1}" -gt 1 ]; then
  meeting=(--nnodes "$NNODES" --node_rank "${NODE_RANK:-0}"
    --master_addr "${MASTER_ADDR:?set MASTER_ADDR}" --master_port "${PORT:-29500}")
else
  meeting=(--standalone)
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${meeting[@]}" --nproc_per_node "$gpus" "$@"
