"""Which files of a tree are meant to be read, and which are passed over by which rule."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from volssl.data.dicom.mark import begins_as_dicom
from volssl.data.formats.mark import SNIFFED_BYTES, volume_format
from volssl.data.keys import plain_name
from volssl.errors import UserError
from volssl.progress import counting

FORMATS = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".hdr": "nifti",
    ".hdr.gz": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
}
UNKNOWN = "unknown"  # the format of a file that is meant for another reader, or was a scan before it was damaged
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
}
RAW_PARTS = (".raw", ".zraw", ".raw.gz", ".img", ".img.gz")
HEADERS = (".hdr", ".hdr.gz", ".mhd", ".nhdr")
HIDDEN = "hidden files and directory records"
RAW_PART = "raw parts of a header file"


@dataclass(frozen=True, slots=True)
class Found:
    """A file to read, in few bytes, as an archive has millions.

    Attributes:
        folder, name: where it lies.
        root: the source it was found under.
        format: `dicom`, `nifti`, `nrrd`, `metaimage` or `UNKNOWN`.
    """

    folder: str
    name: str
    root: Path
    format: str

    @classmethod
    def at(cls, path: Path, root: Path, kind: str) -> Found:
        """The file at a path."""
        return cls(sys.intern(str(path.parent)), path.name, root, kind)

    @property
    def path(self) -> Path:
        """The file's path."""
        return Path(self.folder, self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """The file's stem and the folders it lies in, up to the source's own; any may be the study's name."""
        folders = [self.root.name, *self.path.relative_to(self.root).parts[:-1]]
        return (plain_name(self.name), *reversed([name for name in folders if name]))


@dataclass
class Discovery:
    """The files to read, in a fixed order, and how many were passed over by each rule.

    Attributes:
        raw_parts: those passed over because a header file lies beside them, which may name them.
    """

    files: list[Found] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    raw_parts: set[Path] = field(default_factory=set)

    @property
    def readable(self) -> list[Found]:
        """The files of a format that is known."""
        return [one for one in self.files if one.format != UNKNOWN]

    def claim(self, files: Iterable[Path]) -> None:
        """Count no longer as passed over what turned out to be raw parts of a source that is read."""
        if not self.raw_parts:
            return
        claimed = self.raw_parts.intersection(files)
        self.raw_parts -= claimed
        self.passed_over[RAW_PART] -= len(claimed)
        self.passed_over += Counter()  # drops a count of none

    def passed_over_line(self) -> str:
        """One line for the user; empty where nothing was passed over."""
        return ", ".join(f"{rule} ({count})" for rule, count in sorted(self.passed_over.items()))


def discover(sources: Sequence[Path], *, exclude: Path | None = None) -> Discovery:
    """Walk the sources; each file is read once, however many links lead to it or to a folder above it.

    A file named outright is read whatever its name.

    Args:
        exclude: a folder not to enter: the store, where it lies inside a source.

    Raises:
        UserError: a source does not exist.
    """
    for source in sources:
        if not source.exists():
            raise UserError(f"{source} does not exist: name a folder or a file that holds volumes")
    roots = list(dict.fromkeys(source.resolve() for source in sources))
    walk = Walk({str(root) for root in roots if root.is_file()}, {str(exclude.resolve())} if exclude else set())
    discovery = Discovery()
    found = ((root, *one) for root in roots for one in walk.files(root))
    for root, path, siblings in counting(found, "Files found"):
        outright = path == root
        kind, rule = (_format(path), None) if outright else _kind_or_rule(path, path.relative_to(root), siblings)
        if rule == RAW_PART:
            discovery.raw_parts.add(path)
        if rule:
            discovery.passed_over[rule] += 1
        else:
            discovery.files.append(Found.at(path, root.parent if outright else root, kind or UNKNOWN))
    discovery.passed_over.update(walk.passed_over)
    return discovery


class Walk:
    """Every file below some roots, once, in a fixed order: what lies there itself first, then what links lead to.

    Only links are resolved, so that a million files cost no system call each.

    Args:
        outright: real paths of files that are roots themselves.
        entered: real paths of folders not to enter.

    Attributes:
        passed_over: what was not entered or is no file, by rule.
    """

    def __init__(self, outright: set[str], entered: set[str]) -> None:
        self.passed_over: Counter[str] = Counter()
        self._outright, self._entered = outright, entered
        self._linked: set[str] = set()
        self._folders: list[tuple[str, str]] = []  # as they were reached, and really
        self._links: deque[tuple[str, Set[str]]] = deque()

    def files(self, root: Path) -> Iterator[tuple[Path, Set[str]]]:
        """The files of one root, each with the names beside it in lower case."""
        if root.is_file():
            yield root, frozenset()
            return
        self._folders.append((str(root), str(root)))
        while self._folders or self._links:
            if self._folders:
                yield from self._folder(*self._folders.pop())
            else:
                yield from self._link(*self._links.popleft())

    def _folder(self, folder: str, real: str) -> Iterator[tuple[Path, Set[str]]]:
        """The files of one folder; its folders and links are kept for later."""
        if real in self._entered:
            return
        self._entered.add(real)
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self.passed_over["folders that may not be opened"] += 1
            return
        siblings = frozenset(entry.name.lower() for entry in inside)
        folders = []
        for entry in inside:
            place = f"{real}{os.sep}{entry.name}"
            if entry.is_symlink():
                self._links.append((entry.path, siblings))
            elif entry.is_dir() and entry.name.startswith("."):
                self.passed_over["hidden folders"] += 1
            elif entry.is_dir():
                folders.append((entry.path, place))
            elif not entry.is_file():  # a pipe would be waited for without end
                self.passed_over["pipes, sockets and devices"] += 1
            elif place not in self._outright and place not in self._linked:
                yield Path(entry.path), siblings
        self._folders.extend(reversed(folders))

    def _link(self, path: str, siblings: Set[str]) -> Iterator[tuple[Path, Set[str]]]:
        """The file that a link leads to, where it is not read anyway; one to nowhere is a file that cannot be read."""
        real = os.path.realpath(path)
        if os.path.isdir(real):
            self._folders.append((path, real))
        elif not os.path.exists(real):
            yield Path(path), siblings
        elif not os.path.isfile(real):
            self.passed_over["pipes, sockets and devices"] += 1
        elif os.path.dirname(real) not in self._entered and real not in self._linked and real not in self._outright:
            self._linked.add(real)
            yield Path(path), siblings


def _kind_or_rule(path: Path, relative: Path, siblings: Set[str]) -> tuple[str | None, str | None]:
    """What a file is read as, or the rule that passes it over.

    Rules for names hold for what is no DICOM: that says of itself what it is, whatever it is called.
    """
    name = relative.name.lower()
    if name.startswith(".") or name == "dicomdir":
        return None, HIDDEN
    kind = _format(path)
    if kind == "dicom":
        return kind, None
    if rule := _rule_of_suffix(name, siblings):
        return None, rule
    return kind, "masks" if kind and _is_mask(relative) else None


def _rule_of_suffix(name: str, siblings: Set[str]) -> str | None:
    if name.endswith(tuple(FORMATS)):
        return None
    if name.endswith(RAW_PARTS):
        return RAW_PART if _has_header(name, siblings) else None
    return next((rule for rule, suffixes in PASSED_OVER.items() if name.endswith(suffixes)), None)


def _is_mask(relative: Path) -> bool:
    """Whether a volume file's name, or that of a folder it lies in, says that it holds labels."""
    in_mask_folder = any(part.lower() in MASK_FOLDERS for part in relative.parts[:-1])
    return in_mask_folder or MASK_STEM.search(plain_name(relative.name)) is not None


def _has_header(name: str, siblings: Set[str]) -> bool:
    """Whether a header file lies beside a raw part; parts of a list are numbered, or called as they like."""
    stem = next(name.removesuffix(suffix) for suffix in RAW_PARTS if name.endswith(suffix))
    return any(stem + suffix in siblings for suffix in HEADERS) or any(
        other.endswith((".mhd", ".nhdr")) for other in siblings
    )


def _format(path: Path) -> str | None:
    """What a file is read as: by its suffix, and where that does not say it, by its first bytes.

    What cannot be opened counts as DICOM: the reader of headers then says so in `rejected.csv`.
    """
    name = path.name.lower()
    for suffix, kind in FORMATS.items():
        if name.endswith(suffix):
            return kind
    if name.endswith(DICOM_SUFFIXES):
        return "dicom"
    try:
        data = _first_bytes(path)
    except OSError:
        return "dicom"
    return "dicom" if begins_as_dicom(data) else volume_format(data)


def _first_bytes(path: Path) -> bytes:
    """Read without a buffer: among a million files its making would cost more than the reading."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, SNIFFED_BYTES)
    finally:
        os.close(descriptor)
