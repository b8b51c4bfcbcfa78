"""Pretrains a backbone as a classifier: `python tools/pretrain.py configs/pretrain/gg_t_in1k.py`.

Arguments, checks and protections are those of tools/train.py. The backbone is in `backbone.pth` of the work dir at the
end; give it to tools/train.py as --pretrained. On eight GPUs: `torchrun --nproc_per_node 8 tools/pretrain.py CONFIG
--launcher pytorch`.
"""

import _process  # noqa: F401 - settings that must stand before PyTorch starts

# isort: split
from localvit.commands.train import main

if __name__ == "__main__":
    main()
