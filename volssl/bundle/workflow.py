"""Runs a bundle's config as `python -m monai.bundle run` does, and keeps the config in the run."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigWorkflow

from volssl.bundle.config import (
    SEPARATOR,
    bundle_config,
    nearest,
    parse_overrides,
    read_config,
    read_mapping,
    resolved,
    stated,
)
from volssl.bundle.shipped import PRESETS, PRETRAINING, SINGLE, TASK_BUNDLES
from volssl.bundle.simulated import simulated_notice
from volssl.bundle.targets import told_task, with_target
from volssl.data import Store
from volssl.encoders import encoder_like
from volssl.engine.distributed import rank, world_size
from volssl.errors import UsageError, UserError, user_error_in
from volssl.evaluation.history import read_history
from volssl.evaluation.report import write_pretrain_report
from volssl.evaluation.validation import MODEL
from volssl.files import write_text
from volssl.progress import say

CONFIG = "config.yaml"
MAY_CHANGE = (
    "dataset_dir",
    "output_dir",
    "encoder_path",
    "labels",
    "features",
    "resume",
    "workers",
    "device",
    "checkpoint_steps",
)
FIRST_STAGE = "suspects"  # folder of a run whose task has two stages
FROZEN, FROZEN_MODES = "frozen", ("probe", "knn")  # the preset that these lay over a task's config
TRAINING_KEYS = (  # and have no use for these
    "max_epochs",
    "batch_size",
    "learning_rate",
    "encoder_rate",
    "layer_decay",
    "last_levels",
    "balance",
    "patience",
    "ema",
    "precision",
)
CLASSIFICATION = "classification"  # the task whose label columns the user names
METASTASIS = "metastasis"  # the task in two stages, whose networks see slabs


def pretrain(
    method: str,
    *,
    store: Path,
    out: Path,
    encoder: Path | None = None,
    labels: Path | None = None,
    target: str = "",
    preset: str = SINGLE,
    resume: bool = False,
    words: Sequence[str] = (),
) -> None:
    """`volssl pretrain`: run a config of `volume_pretraining` on a store's training patients.

    Args:
        encoder: what to go on from.
        labels: a table whose training rows the hybrid method learns from, and every method is probed with.
        target: its label columns, parted by commas, of CT or MR; those of hemorrhage where left out.
        preset: `single`, the config as it stands, or other values for it, such as the paper's.

    Raises:
        UserError: for a method, preset or option that does not exist, or whatever stops the run.
    """
    given = {"dataset_dir": str(store), "output_dir": str(out)} | from_encoder(encoder, words)
    if labels is not None:
        given["labels"] = str(labels)
    config, told, words = with_target(
        bundle_config(PRETRAINING, method, preset=preset), target, store=store, labels=labels, words=words
    )
    run_training(config, given=given | told, words=words, resume=resume)
    write_run_report(out, title=f"Pretraining: {method}", store=store)


def finetune(
    task: str,
    *,
    store: Path,
    labels: Path,
    out: Path,
    encoder: Path | None = None,
    mode: str = "full",
    fraction: float = 1.0,
    target: str = "",
    preset: str = SINGLE,
    resume: bool = False,
    words: Sequence[str] = (),
    ranges: bool = True,
) -> None:
    """`volssl finetune`: run the train config of a task's bundle.

    Args:
        mode: `full`, `last` or `frozen` train, `probe` and `knn` look at features of the encoder as it is.
        target: label columns of a classification, parted by commas.
        preset: `single`, the config as it stands, or `shipped`, what the weights that volssl ships were trained with.
        ranges: measure the training data at the end, for a bundle that tells scans unlike them. Without, `volssl
            export` measures them, if store and labels are still where they were.

    Raises:
        UserError: for a task, preset or option that does not exist, labels that do not fit, or whatever stops the run.
    """
    if task not in TASK_BUNDLES:
        raise UserError(f"{task}: no such task{nearest(task, list(TASK_BUNDLES))}; there are {', '.join(TASK_BUNDLES)}")
    given = {
        "dataset_dir": str(store),
        "labels": str(labels),
        "output_dir": str(out),
        "mode": mode,
        "fraction": fraction,
    } | from_encoder(encoder, words)
    if task == CLASSIFICATION:
        if target or not any(word.startswith("task::columns=") for word in words):  # a comparison has told its jobs
            told, words = told_task(target, store=store, labels=labels, encoder=encoder, words=words)
            given |= told
    elif target:
        raise UsageError(f"--target {target}: {task} knows its columns; leave it out, or run {CLASSIFICATION}")
    frozen = mode in FROZEN_MODES
    if frozen and task == METASTASIS:
        raise UsageError(
            f"--mode {mode}: metastasis is told slab by slab, by a head that is trained; take --mode frozen"
        )
    if frozen and (idle := [word for word in words if word.partition("=")[0] in TRAINING_KEYS]):
        say(f"mode {mode} trains no encoder: {', '.join(idle)} changes nothing")
    if preset != SINGLE and FROZEN in (preset, FROZEN if frozen else ""):
        raise UsageError(f"--preset {preset}: no preset for --mode {mode}; take --mode probe or knn, or another preset")
    config = bundle_config(TASK_BUNDLES[task], "train", preset=FROZEN if frozen else preset)
    run_training(config, given=given, words=words, resume=resume)
    if ranges and mode != "knn" and rank() == 0:  # whose run is not exported
        from volssl.bundle.training_data import keep_training_data  # which imports this module

        keep_training_data(out)
    write_run_report(out, title=f"Fine-tuning: {task}", store=store)


def from_encoder(encoder: Path | None, words: Sequence[str]) -> dict[str, Any]:
    """What a run takes from the encoder that it begins with: where it is, and its architecture if no word names one."""
    if encoder is None:
        return {}
    if any(word.startswith("network=") for word in words):
        return {"encoder_path": str(encoder)}
    name, settings = encoder_like(encoder)
    settings = {key: value for key, value in settings.items() if key != "in_channels"}
    return {"encoder_path": str(encoder), "network": name, "network_settings": settings}


def write_run_report(run: Path, *, title: str, store: Path) -> None:
    """The page of a training run: its curves, and what the network saw. Of several ranks the first writes it."""
    if rank() > 0:
        return
    captions = {
        "views": "Views of the first batch, a row a scan: what the network really saw. Middle slices, the patient's "
        "right on the left.",
        "input": "What the classifier is fed, before random changes: axial, coronal and sagittal cuts of eight scans.",
        "last_batch": "What the last batch was fed, what the network made of it, and what it should have made.",
        "curve": "Loss of each step, and its mean over an epoch.",
    }
    write_pretrain_report(run, title=title, captions=captions, simulated=simulated_notice(Store.open(store)))


def run_training(
    config: Sequence[Path], *, given: Mapping[str, Any], words: Sequence[str], resume: bool
) -> ConfigWorkflow:
    """Train what a config describes.

    Args:
        config: a train config of a bundle: its files, each laid over the ones before.
        given: values of the command's own options, keys of the config; `output_dir` among them.
        words: `KEY=VALUE` overrides.
        resume: go on with the run in `output_dir`, with the config that stands there.

    Returns:
        The workflow, after its run.

    Raises:
        UserError: for overrides that do not fit, or whatever the run raises.
    """
    run = Path(given["output_dir"])
    kept = run / CONFIG
    if resume and not run.is_dir():
        raise UserError(f"{run}: no run there to go on with; leave --resume out to begin one")
    if not resume and ((run / "checkpoints").is_dir() or (run / MODEL).is_file()):
        raise UserError(f"{run}: holds a run already; add --resume to go on with it, or name another folder")
    source = [kept] if resume and kept.is_file() else list(config)
    values = read_config(source)
    overrides = {**given, **parse_overrides(values, words), "resume": resume}
    if source == [kept]:
        refuse_changes(kept, config, overrides)
    say(f"the same with MONAI alone: {monai_line(source, overrides)}")
    with nothing_left_if_refused(run):
        if source != [kept] and rank() == 0:
            write_text(kept, yaml.safe_dump(resolved(values, overrides), sort_keys=False, allow_unicode=True))
        return run_workflow(source, meta=config[0].parent / "metadata.json", override=overrides)


@contextmanager
def nothing_left_if_refused(run: Path) -> Iterator[None]:
    """Where a run ends by an error before its first step is done, take away what it wrote until then."""
    before = {path for path in (run, *run.parents, *run.rglob("*")) if path.exists()}
    try:
        yield
    except BaseException:
        logs = [run / "metrics.jsonl", run / FIRST_STAGE / "metrics.jsonl"]
        begun = any(
            log in before or (log.is_file() and any(row["step"] > 0 for row in read_history(log))) for log in logs
        )
        if rank() == 0 and not begun:
            for path in (*sorted(run.rglob("*"), reverse=True), run, *run.parents):
                if path not in before:
                    with suppress(OSError):  # a folder that someone else uses meanwhile
                        path.rmdir() if path.is_dir() else path.unlink()
        raise


def refuse_changes(kept: Path, config: Sequence[Path], overrides: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of another method, or with other values than it was begun with.

    Where things are may change, and how many hands make views: none of it is in the weights.
    """
    begun, asked = read_config(kept), read_config(config)
    if method_of(begun) != method_of(asked):
        raise UserError(f"{kept.parent}: holds a run of another method; go on with that, or name another folder")
    preset = {key: value for path in config if path.parent.name == PRESETS for key, value in read_mapping(path).items()}
    for key, value in {**preset, **overrides}.items():
        said_otherwise = key not in overrides and any(
            word.startswith(key) or key.startswith(f"{word}{SEPARATOR}") for word in overrides
        )
        if said_otherwise or key.split(SEPARATOR)[-1] in MAY_CHANGE:
            continue
        if isinstance(value, Mapping) and "_target_" in value:  # of a preset; what stands in it may have been changed
            key, value = f"{key}{SEPARATOR}_target_", value["_target_"]
        was = stated(begun, key)
        if was != value:
            raise UserError(f"{kept}: the run was begun with {key} {was}, not {value}; a resumed run cannot change it")


def method_of(config: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """What a config trains: the method's class, and the names of its parts."""
    method = config.get("method", {})
    return method.get("_target_"), sorted(method.get("parts", {}))


def run_workflow(config: Sequence[Path], *, meta: Path, override: Mapping[str, Any]) -> ConfigWorkflow:
    """Initialize, run and finalize a train config with MONAI's `ConfigWorkflow`."""
    # MONAI tells of a missing logging.conf, Ignite of every epoch; what stops a run is raised, and shown once.
    for name in ("monai.bundle.workflows", "ignite.engine.engine.MethodTrainer"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        workflow = ConfigWorkflow(
            config_file=[str(path) for path in config],
            meta_file=str(meta),
            logging_file=False,
            workflow_type="train",
            **override,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        # MONAI wraps what its components raise; the line meant for the user lies below.
        if (cause := user_error_in(error)) is not None:
            raise type(cause)(str(cause)) from error  # not `cause` itself: a chain that bites its tail hangs readers
        raise
    return workflow


def monai_line(config: Sequence[Path], overrides: Mapping[str, Any]) -> str:
    """The `python -m monai.bundle run` line that does the same, or under `torchrun` the line of that."""
    start = ["python"]
    if world_size() > 1:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
        machines = [f"--nnodes={world_size() // here}"] if here < world_size() else []
        start = ["torchrun", *machines, f"--nproc_per_node={here}"]
    words = [f"--{key}={value if isinstance(value, str) else repr(value)}" for key, value in overrides.items()]
    files = str(config[0]) if len(config) == 1 else str([str(path) for path in config])
    return shlex.join([*start, "-m", "monai.bundle", "run", f"--config_file={files}", *words])
