"""Train every nano config under one budget with several seeds: `python -m benchmarks.families`.

Writes means and ranges to docs/families.md and docs/families.png. Finished trainings are skipped, stopped ones go on;
`--summary-only` trains nothing; `--names NAME` adds a family's row to the table, and leaves the others and the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from localvit_det.cli import handle_user_errors
from localvit_det.config import load_config
from localvit_det.errors import ConfigError, UserError
from localvit_det.files import check_writable_folder, write_text

from .results import ROOT, describe, headline, markdown_table, with_block
from .tables import dot_plot

BUDGET = ("train_cfg", "param_scheduler", "optim_wrapper", "train_dataloader", "randomness")
RUN_FILE = "run.json"  # written when a training has ended well
BASELINES = ("PyramidVisionTransformer", "SwinTransformer")  # MMDetection's
HEAD = (
    *("backbone", "bbox mAP", "lowest to highest", "segm mAP", "lowest to highest"),
    *("peak memory, MiB", "parameters"),
)


def budget(epochs: int) -> dict[str, int]:
    """Return options that let a nano config train for so many epochs, with one validation at the end."""
    return {"train_cfg.max_epochs": epochs, "train_cfg.val_interval": epochs, "param_scheduler.1.end": epochs}


def settings_of(cfg: Config, seed: int) -> dict:
    """Return what a finished training must have been made with: model, budget and seed."""
    return json.loads(json.dumps({key: cfg.get(key) for key in ("model", *BUDGET)} | {"seed": seed}, default=str))


def check_equal_budgets(configs: dict[Path, Config]) -> None:
    """Refuse to compare configs that differ in data, schedule or optimizer."""
    first, *others = configs
    for key in BUDGET:
        for path in others:
            if configs[path].get(key) != configs[first].get(key):
                raise ConfigError(f"{path.name} and {first.name} differ in {key}; families are compared at one budget.")


def train(config: Path, cfg: Config, seed: int, work_dir: Path) -> None:
    """Train one config in a process of its own, going on where an earlier one stopped.

    Raises:
        UserError: The training failed; its own messages say why.
    """
    environment = describe("cuda" if torch.cuda.is_available() else "cpu")
    command = [sys.executable, str(ROOT / "tools/train.py"), str(config), "--seed", str(seed), "--resume"]
    command += ["--work-dir", str(work_dir), "--cfg-options"]
    command += [f"{name}={value}" for name, value in budget(cfg.train_cfg.max_epochs).items()]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
    if process.returncode:
        raise UserError(f"The training of {config.name} failed; what it printed last says why. Fix it and run again.")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    record = {"settings": settings_of(cfg, seed), "environment": environment, "resident": usage.ru_maxrss / unit}
    write_text(work_dir / RUN_FILE, json.dumps(record, indent=1))


def is_finished(config: Path, cfg: Config, seed: int, work_dir: Path) -> bool:
    """Return whether the training has ended well.

    Raises:
        UserError: It has, with another config.
    """
    file = work_dir / RUN_FILE
    if file.is_file() and json.loads(file.read_text())["settings"] != settings_of(cfg, seed):
        raise UserError(f"{work_dir} was trained with an older {config.name}; delete the folder to train again.")
    return file.is_file()


def read_run(work_dir: Path) -> dict:
    """Return `bbox`, `segm`, `memory` in MiB and `environment` of a finished training, resumed parts included.

    Raises:
        UserError: The logs hold no validation.
    """
    record = json.loads((work_dir / RUN_FILE).read_text())
    lines: list[dict] = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):  # folders are named by time
        lines += map(json.loads, file.read_text().splitlines())
    validations = [line for line in lines if "coco/bbox_mAP" in line]
    if not validations:
        raise UserError(f"The logs under {work_dir} hold no validation; delete the folder, train again.")
    last = max(reversed(validations), key=lambda line: line["step"])  # of a resumed training the later log holds
    memory = max((line["memory"] for line in lines if "memory" in line), default=record["resident"])  # on a GPU, in MiB
    scores = {"bbox": last["coco/bbox_mAP"], "segm": last["coco/segm_mAP"]}
    return {**scores, "memory": memory, "environment": record["environment"]}


def summary(families: dict[str, list[dict]], parameters: dict[str, int], before: str = "") -> str:
    """Return the table and the machines, in Markdown.

    Args:
        families: The runs of each backbone.
        parameters: Of each whole detector.
        before: A page with such a table, whose other rows and machines stay.
    """
    table = [line.strip("| ").split(" | ") for line in before.splitlines() if line.startswith("| ")]
    rows = {row[0]: row for row in table[2:]}  # after head and rule
    for name, runs in families.items():
        scores = []
        for values in ([run[metric] for run in runs] for metric in ("bbox", "segm")):
            scores += [f"{mean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}"]
        shown = f"{name} (MMDetection's, a baseline)" if name in BASELINES else name
        memory = max(run["memory"] for run in runs)
        rows[shown] = [shown, *scores, f"{memory:.0f}", f"{parameters[name] / 1e6:.2f}M"]
    ordered = sorted(rows.values(), key=lambda row: (row[0].split(" ")[0] in BASELINES, row[0]))
    environments = [run["environment"] for runs in families.values() for run in runs]
    loads = sorted((environment["load"] for environment in environments), key=float)
    load = f"{loads[0]} to {loads[-1]}"  # differs from run to run; the rest of a line should not
    lines = [line for line in before.splitlines() if line.startswith("- ")]
    lines += [f"- {headline({**environment, 'load': load})}" for environment in environments]
    return f"{markdown_table(HEAD, ordered)}\n\nMachine and versions:\n\n" + "\n".join(dict.fromkeys(lines))


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not finished, then write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=ROOT / "work_dirs/families", help="where the trainings go")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of families.md and families.png")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training of each family for each")
    parser.add_argument("--epochs", type=int, default=3, help="of each training, %(default)s by default")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="only these backbones, whose rows join the table")
    parser.add_argument("--summary-only", action="store_true", help="train nothing")
    args = parser.parse_args(argv)
    paths = sorted((ROOT / "configs").glob("mask_rcnn_*_nano_shapes.py"))
    configs = {path: load_config(path, budget(args.epochs)) for path in paths}
    check_equal_budgets(configs)
    if args.names:
        known = {cfg.model.backbone.type: path for path, cfg in configs.items()}
        if unknown := sorted(set(args.names) - known.keys()):
            raise ConfigError(
                f"--names: no nano config has {', '.join(unknown)}; there are {', '.join(sorted(known))}."
            )
        paths = [known[name] for name in args.names]
    folders = {
        (path, seed): args.work_dir.resolve() / path.stem / f"seed_{seed}" for seed in args.seeds for path in paths
    }
    unfinished = [key for key, folder in folders.items() if not is_finished(key[0], configs[key[0]], key[1], folder)]
    if args.summary_only and unfinished:
        names = ", ".join(f"{path.stem} (seed {seed})" for path, seed in unfinished)
        raise UserError(f"Not trained yet: {names}; run it without --summary-only.")
    page = ROOT / "docs/families.md"
    check_writable_folder(args.out, "--out")
    for path, seed in unfinished:  # seed by seed, so that a stopped comparison has seen every family
        train(path, configs[path], seed, folders[path, seed])
    runs = {configs[path].model.backbone.type: [read_run(folders[path, seed]) for seed in args.seeds] for path in paths}
    runs = dict(sorted(runs.items(), key=lambda item: (item[0] in BASELINES, item[0])))
    models = {configs[path].model.backbone.type: MODELS.build(configs[path].model) for path in paths}
    parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    text = page.read_text(encoding="utf-8")
    text = with_block(text, "families", summary(runs, parameters, before=text if args.names else ""))
    write_text(args.out / "families.md", text)
    if args.names:
        print(f"wrote {args.out / 'families.md'}; the figure is drawn with all families only")
        return
    metrics = {"box": "bbox", "mask": "segm"}
    series = {
        f"{key} mAP": {name: [run[of] for run in rows] for name, rows in runs.items()} for key, of in metrics.items()
    }
    dot_plot(
        {f"mAP of the last validation: mean, range and each of {len(args.seeds)} seeds": series},
        args.out / "families.png",
        mean,
    )
    print(f"wrote {args.out / 'families.md'} and families.png")


if __name__ == "__main__":
    main()
