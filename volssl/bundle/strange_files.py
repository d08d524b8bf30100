"""Files that a bundle of volssl does not hold: links out of it, code, configs that MONAI would prefer to its own."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

from volssl.bundle.shipped import PRETRAINING, TASK_BUNDLES, bundle_folder

LOGGING = Path("configs") / "logging.conf"
CODE = {".py", ".pyw", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".pth", ".sh", ".bat", ".exe", ".zip", ".egg", ".whl"}


def links_out(bundle: Path) -> list[str]:
    """Symbolic links of the bundle that lead out of it, or nowhere."""
    root, findings = Path(os.path.realpath(bundle)), []
    for path in (path for path in sorted(bundle.rglob("*")) if path.is_symlink()):
        if not Path(os.path.realpath(path)).is_relative_to(root):
            findings.append(f"{path.relative_to(bundle)} is a link out of the bundle")
        elif not path.exists():
            findings.append(f"{path.relative_to(bundle)} is a link to nothing")
    return findings


def strange_files(bundle: Path) -> list[str]:
    """What a bundle of volssl does not hold: code, other configs, files that are none, a logging.conf of others.

    MONAI hands logging.conf to Python's `logging.config.fileConfig`, which evaluates what stands in it, and prefers
    an inference.json to the inference.yaml that was looked through.
    """
    findings, known = [], known_configs()
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle)
        if not path.is_symlink() and not path.is_dir() and not path.is_file():
            findings.append(f"{name} is no ordinary file")
        elif {suffix.lower() for suffix in path.suffixes} & CODE:
            findings.append(f"{name} is code")
        elif name.parent == LOGGING.parent and name.name not in known:
            findings.append(f"{name} is no config of volssl")
    logging = bundle / LOGGING
    if logging.is_file() and not filecmp.cmp(logging, bundle_folder(PRETRAINING) / LOGGING, shallow=False):
        findings.append(f"{LOGGING} is not volssl's own, and Python runs what stands in one")
    return findings


def known_configs() -> set[str]:
    """What stands in the folder of configs of a bundle of volssl."""
    folders = [bundle_folder(name) / LOGGING.parent for name in (PRETRAINING, *TASK_BUNDLES.values())]
    return {path.name for folder in folders for path in folder.iterdir()}
