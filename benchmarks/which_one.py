"""The decision table of docs/which_one.md, from numbers that are committed: `python -m benchmarks.tables` writes it.

Speed and memory are of docs/benchmarks.csv, mAP on the synthetic shapes of docs/families.md, sizes and published AP of
the metafiles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import yaml

from localvit_det.errors import UserError

from .results import ROOT, Benchmark, markdown_table

PAGE = ROOT / "docs/which_one.md"
FAMILIES = ROOT / "docs/families.md"
NETWORKS = ("shuffle_t", "gg_t", "dwnet_t", "ddwnet_t", "iddwnet_t", "msg_t", "pcpvt_s", "svt_s", "swin_t")
# Columns of ratios to Swin-T: the benchmark, whether it is of memory, and the title.
RATIOS = (
    ("detectors", False, "detector: speed"),
    ("inference_xeon", False, "backbone: speed"),
    ("inference_msg_twins", False, "the same on another Xeon"),
    ("inference", True, "backbone: memory"),
    ("training", False, "training: speed"),
    ("training", True, "training: memory"),
)
PUBLISHED = {"mask_rcnn_{}_coco": "1x", "mask_rcnn_{}_3x_coco": "3x", "cascade_mask_rcnn_{}_3x_coco": "Cascade, 3x"}
Ratio = Callable[[Mapping[str, Benchmark], str, bool], Mapping[str, float]]


def decision(benchmarks: Mapping[str, Benchmark], ratio: Ratio) -> str:
    """Return the table, and which network is the first of each column.

    Args:
        benchmarks: Of docs/benchmarks.csv.
        ratio: Returns speed or memory of each row relative to Swin-T.

    Raises:
        UserError: A number is missing where all have one.
    """
    models = {
        model["Name"]: model["Metadata"]
        for file in sorted((ROOT / "configs/metafiles").glob("*.yml"))
        for model in yaml.safe_load(file.read_text(encoding="utf-8"))["Models"]
    }
    shapes = {
        name: (float(mean), spread)
        for name, mean, spread in re.findall(
            r"^\| (\w+)[^|]*\| ([\d.]+) \| ([\d.]+ to [\d.]+) \|", FAMILIES.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    columns = [(title, memory, ratio(benchmarks, name, memory)) for name, memory, title in RATIOS]
    rows, best = [], {}
    for network in NETWORKS:
        size = models.get(f"mask_rcnn_{network}_coco")
        family = size and size["Architecture"][1]
        if size is None or family not in shapes:
            raise UserError(f"{network} has no entry in configs/metafiles or docs/families.md: write them again.")
        mean, spread = shapes[family]
        published = [
            f"{model['Published AP'].split(' (')[0]} ({what})"
            for name, what in PUBLISHED.items()
            if (model := models.get(name.format(network))) and "Published AP" in model
        ]
        rows.append(
            [
                f"`{network}` ({family})",
                *(f"{found[network]:.2f}" if network in found else "-" for _, _, found in columns),
                f"{size['Parameters'] / 1e6:.1f}M",
                f"{size['FLOPs'] / 1e9:.0f}G",
                f"{mean:.3f} ({spread})",
                ", ".join(published) or "-",
            ]
        )
    for title, memory, found in columns:
        known = {network: value for network, value in found.items() if network in NETWORKS}
        best[title] = (min if memory else max)(known.items(), key=lambda item: item[1])
    first = [f"- {title}: `{network}`, {value:.2f} times Swin-T's" for title, (network, value) in best.items()]
    name, (mean, spread) = max(shapes.items(), key=lambda item: item[1][0])
    first.append(f"- mAP on the synthetic shapes: {name}, {mean:.3f} ({spread})")
    split = 1 + len(columns)
    speeds = markdown_table(
        ["network", *(title for title, _, _ in columns)], [[row[0].partition(" ")[0], *row[1:split]] for row in rows]
    )
    head = ["network", "parameters", "MACs", "mAP on shapes (spread)", "published AP, not reproduced here"]
    sizes = markdown_table(head, [[row[0], *row[split:]] for row in rows])
    return "\n".join([speeds, "", sizes, "", "First of each column:", "", *first])
