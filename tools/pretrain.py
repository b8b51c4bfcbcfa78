"""Pretrains a backbone as a classifier: `python tools/pretrain.py configs/pretrain/gg_t_in1k.py`.

Arguments, checks and protections are those of tools/train.py. The backbone is in `backbone.pth` of the work dir at the
end; give it to tools/train.py as --pretrained. On eight GPUs: `torchrun --nproc_per_node 8 tools/pretrain.py CONFIG
--launcher pytorch`.
"""

from functools import partial

from localvit.__main__ import run

main = partial(run, "train")

if __name__ == "__main__":
    main()
