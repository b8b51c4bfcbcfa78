"""Writes an official checkpoint in this package's layout, or a dataset of another format in COCO's.

localvit convert dwnet_tiny_224.pth dwnet_t.safetensors
localvit convert cascade_mask_rcnn_dwnet_tiny.pth cascade_dwnet_t.pth \
    --config cascade_mask_rcnn_dwnet_t_3x_coco
localvit convert /data/yolo /data/coco        (or /data/yolo/data.yaml)

Every command loads official files as they are; a converted one is for those who want a file of tensors alone. A folder
is a dataset of YOLO, Pascal VOC, labelme, VIA or CVAT, which trainings and tests also take as it is (data_root=FOLDER);
images are linked where the disk allows it, and nothing in it changes.
Images that cannot be used are named and left out: then the exit code is 3.
"""

import argparse
from collections.abc import Sequence

from localvit_det.cli import Parser, check_given
from localvit_det.config_names import existing_config


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = Parser(__doc__)
    parser.add_argument("source", help="checkpoint in any known layout, or folder of a dataset (its data.yaml)")
    parser.add_argument("target", help="file to write, .pth or .safetensors; for a dataset a new folder")
    parser.add_argument("--config", help="config of the model; needed for detectors and for sizes of your own")
    args = parser.parse_args(argv)
    check_given("The source", args.source)
    if args.config:
        existing_config(args.config)
    return args
