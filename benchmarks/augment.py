"""What `--augment` brings on the synthetic shapes: AP of the same short training with each recipe, over several seeds.

    python -m benchmarks.augment --names none flip mosaic --seeds 3 --epochs 12 --images 120

Prints a table in Markdown: the mean of the last validation, and the standard deviation over the seeds.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.predict import Detector

from .results import markdown_table

CONFIG = "mask_rcnn_shuffle_nano_shapes"
COLUMNS = ("coco/bbox_mAP", "coco/segm_mAP")


def main(argv: Sequence[str] | None = None) -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=["none", "flip", "mosaic"], help="recipes")
    parser.add_argument("--seeds", type=int, default=3, help="trainings with each (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=120, help="that are trained on; half as many are validated on")
    parser.add_argument("--size", type=int, default=96, help="of the images, in pixels")
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = make_shapes(Path(folder, "shapes"), num_train=args.images, num_val=args.images // 2, size=args.size)
        for name in args.names:
            found: dict[str, list[float]] = {column: [] for column in COLUMNS}
            for seed in range(args.seeds):
                settings = {"train_cfg.val_interval": args.epochs, "image_size": args.size}
                own = {"seed": seed, "augment": name, "work_dir": str(Path(folder, f"{name}-{seed}"))}
                run = Detector(CONFIG).train(data=root, epochs=args.epochs, workers=0, options=settings, **own)
                for column, values in found.items():
                    values.append(float(run.metrics[column]))
                sys.stderr.write(f"{name}, seed {seed}: {[values[-1] for values in found.values()]}\n")
            cells = (f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" for values in found.values())
            rows.append([f"`{name}`", *cells])
    print(markdown_table(("recipe", "bbox mAP", "segm mAP"), rows))


if __name__ == "__main__":
    main()
