"""Which files of a tree are meant to be read, and which are passed over by which rule."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from volssl.data.keys import plain_name
from volssl.errors import UserError

FORMATS = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
}
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MASK_FOLDERS = {"mask", "masks", "label", "labels", "seg", "segs", "segmentation", "segmentations", "annotations"}
MASK_STEM = re.compile(r"(^|[_\-.])(mask|masks|seg|segmentation|label|labels|labelmap|roi)$", re.IGNORECASE)
PASSED_OVER = {  # rule, as the user reads it, and the suffixes it takes
    "tables": (".csv", ".tsv", ".xls", ".xlsx", ".parquet", ".json", ".yaml", ".yml"),
    "texts": (
        ".txt",
        ".md",
        ".rst",
        ".pdf",
        ".html",
        ".htm",
        ".xml",
        ".log",
        ".rtf",
        ".doc",
        ".docx",
        ".py",
        ".bval",
        ".bvec",
    ),
    "pictures": (".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".svg"),
    "keys": (".key", ".pem"),
    "archives": (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".gz", ".xz"),
    "raw parts of a header file": (".raw", ".zraw", ".img"),
}


@dataclass(frozen=True)
class Found:
    """A file to read: `format` is `dicom`, `nifti`, `nrrd` or `metaimage`; `root` the source it was found under."""

    path: Path
    root: Path
    format: str

    @property
    def names(self) -> tuple[str, ...]:
        """The file's stem and the folders it lies in, up to the source's own; any may be the study's name."""
        folders = [self.root.name, *self.path.relative_to(self.root).parts[:-1]]
        return (plain_name(self.path.name), *reversed([name for name in folders if name]))


@dataclass
class Discovery:
    """The files to read, in a fixed order, and how many were passed over by each rule."""

    files: list[Found] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def passed_over_line(self) -> str:
        """One line for the user; empty where nothing was passed over."""
        return ", ".join(f"{rule} ({count})" for rule, count in sorted(self.passed_over.items()))


def discover(sources: Sequence[Path], *, exclude: Path | None = None) -> Discovery:
    """Walk the sources; symbolic links are followed once, and a file named outright is read whatever its name.

    Args:
        exclude: a folder not to enter: the store, where it lies inside a source.

    Raises:
        UserError: a source does not exist.
    """
    discovery = Discovery()
    seen: set[Path] = set()
    for source in sources:
        if not source.exists():
            raise UserError(f"{source} does not exist: name a folder or a file that holds volumes")
        root = source.resolve()
        closed: list[OSError] = []
        for path in [root] if root.is_file() else _files(root, exclude.resolve() if exclude else None, closed):
            if path in seen:
                continue
            seen.add(path)
            rule = None if path == root else _rule(path.relative_to(root))
            kind = None if rule else _format(path)
            if kind:
                discovery.files.append(Found(path, root.parent if path == root else root, kind))
            else:
                discovery.passed_over[rule or "files of other kinds"] += 1
        if closed:
            discovery.passed_over["folders that may not be opened"] += len(closed)
    return discovery


def _files(root: Path, exclude: Path | None, closed: list[OSError]) -> Iterator[Path]:
    """Every file below `root` in a fixed order, each folder entered once however many links lead to it.

    The folders that may not be opened are added to `closed`.
    """
    entered = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=closed.append):
        here = os.path.realpath(folder)
        if here in entered or (exclude is not None and Path(here) == exclude):
            folders.clear()
            continue
        entered.add(here)
        folders.sort()
        yield from (Path(folder) / name for name in sorted(files))


def _rule(relative: Path) -> str | None:
    """The rule that passes a file over, by its name alone; None where it is to be read."""
    name = relative.name.lower()
    if name.startswith(".") or name == "dicomdir":
        return "hidden files and directory records"
    for rule, suffixes in PASSED_OVER.items():
        if name.endswith(suffixes) and not name.endswith(tuple(FORMATS)):
            return rule
    in_mask_folder = any(part.lower() in MASK_FOLDERS for part in relative.parts[:-1])
    return "masks" if in_mask_folder or MASK_STEM.search(plain_name(relative.name)) else None


def _format(path: Path) -> str | None:
    """What a file is read as: by its suffix, and where that says nothing, by the mark of a DICOM file."""
    name = path.name.lower()
    for suffix, kind in FORMATS.items():
        if name.endswith(suffix):
            return kind
    if name.endswith(DICOM_SUFFIXES):
        return "dicom"
    try:
        with path.open("rb") as file:
            return "dicom" if file.read(132)[128:] == b"DICM" else None
    except OSError:
        return "dicom"  # unreadable: the header reader says so in rejected.csv
