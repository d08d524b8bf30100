"""What the commands suggest to run next, so that it starts. No torch at import, for `prepare` has none."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import yaml

from volssl.bundle.shipped import TASK_BUNDLES
from volssl.data import Store


def pretraining_line(store: Path) -> str:
    """`volssl pretrain swav …` with what it needs to start on this store: its modality, a batch that can be filled."""
    config = importlib.resources.files("volssl.bundles") / "volume_pretraining" / "configs" / "base.yaml"
    usual = yaml.safe_load(config.read_text(encoding="utf-8"))
    rows = Store.open(store).columns("id", "modality", "split", "group").to_pandas()
    words = []
    modality = usual["modality"]
    if modality not in set(rows["modality"]) and len(rows):
        modality = rows["modality"].iloc[0]
        words.append(f"modality={modality}")
    group, in_training = rows["group"].fillna(rows["id"]), rows["split"] == "train"
    # of near-duplicates one is taken, and none where another is in validation or test
    volumes = set(group[in_training & (rows["modality"] == modality)]) - set(group[~in_training])
    if 0 < len(volumes) < usual["batch_size"]:
        words.append(f"batch_size={len(volumes)}")
    return " ".join(["volssl pretrain swav --store", str(store), "--out runs/swav", *words])


def finetuning_line(run: Path, store: Path) -> str:
    """`volssl finetune …` from the encoder of a pretraining, by its columns or its modality's task."""
    from volssl.bundle.config import read_config
    from volssl.bundle.workflow import CONFIG

    config = read_config(run / CONFIG)
    if columns := config["task"].get("columns"):
        options = f"--target {','.join(columns)} --store {store} --labels {config['labels']}"
        return f"volssl finetune classification {options} --encoder {run} --out runs/classification"
    task = "metastasis" if config["modality"] == "MR" else "hemorrhage"
    return f"volssl finetune {task} --store {store} --labels labels.csv --encoder {run} --out runs/{task}"


def export_line(run: Path) -> str:
    """`volssl export …` of a fine-tuned run, into a folder called as the bundle of its task; "" for one without a net.

    Neighbours are looked up among the training scans, which no bundle holds.
    """
    from monai.bundle import ConfigParser

    from volssl.bundle.config import read_config
    from volssl.bundle.workflow import CONFIG

    config = read_config(run / CONFIG)
    if config.get("mode") == "knn":
        return ""
    name = ConfigParser(config).get_parsed_content("task").name
    return f"volssl export {run} --bundle out/{TASK_BUNDLES[name]}"
