"""Studies to answer for: DICOM folders and volume files, one after the other, in the form that MONAI's engines take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch.utils.data import IterableDataset

from volssl.data import checks
from volssl.data.crew import Crew, quiet_libraries
from volssl.data.dicom.series import Series
from volssl.data.discovery import discover
from volssl.data.manifest import intensities
from volssl.data.sources import Refused, Source, gather
from volssl.data.study_series import paired
from volssl.data.unforeseen import unforeseen
from volssl.data.volume import RefusedError, Volume
from volssl.errors import UserError
from volssl.progress import say, track

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Study:
    """What is answered for as one.

    Attributes:
        path: as the user named it, or what lies below: a volume file, or the folder of a DICOM study.
        identity: its StudyInstanceUID, or where it has none its whole path: what tells it from all others. Private.
        uid: its StudyInstanceUID; empty where unknown. Private.
        sources: its volumes, unread.
        refused: why files of it cannot be read, from their headers.
    """

    path: Path
    identity: str
    uid: str
    sources: tuple[Source, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A study without an answer, and why: a sentence that names no path."""

    study: Study
    reason: str


class Studies(IterableDataset[dict[str, Any]]):
    """Yields one batch a volume: `image` (1, channels, *grid), what the transform left beside it, `study`, `volume`.

    `place` beside them counts the volumes of a study from 0. `foreground` and `intensity` are as in a store's manifest.
    Where series are joined, `second_volume` is the coronal series beside the volume, which has no batch of its own, or
    None; the transform is given it as `second`.

    The headers are read first, the voxels of a volume when its turn comes. A study that cannot be read, is of another
    modality, or fails in the transform stops no other: it stands in `failures` once the iteration has passed it.

    Args:
        data: a folder with studies in it, a study, or several of either.
        transform: from a dictionary with `image`, a MetaTensor (1, R, A, S) in RAS, HU for CT, `modality`,
            `foreground` and `intensity`.
        modality: what the network was trained on, `CT`, `MR` or `CT+MR`; another is refused.
        files_modality: `CT` or `MR`, what the files are that do not say it; None tells it from the values.
        join: how the network joins an axial and a coronal series of a study; empty answers for each alone.

    Attributes:
        failures: of the last iteration.
    """

    def __init__(
        self,
        data: Paths,
        *,
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        modality: str = "CT",
        files_modality: str | None = None,
        join: str = "",
    ) -> None:
        self.data, self.transform = data, transform
        self.modality, self.files_modality, self.join = modality, files_modality, join
        self.failures: list[Failure] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.files_modality not in (None, "CT", "MR"):
            raise UserError(f"--modality {self.files_modality} is neither CT nor MR")
        self.failures = []
        studies = find_studies(self.data)
        for study in track(studies, "Answering studies", len(studies)):
            try:
                volumes = read_study(study, modality=self.modality, files_modality=self.files_modality)
            except UserError as error:
                self.failures.append(Failure(study, str(error)))
                continue
            for place, (volume, second) in enumerate(self.pairs(volumes)):
                beside = {"second": None if second is None else as_image(second)} if self.join else {}
                try:
                    sample = self.transform(
                        {"image": as_image(volume), "modality": volume.modality, **described(volume), **beside}
                    )
                # MONAI's Compose makes a RuntimeError of whatever a transform raises
                except (RuntimeError, ValueError, MemoryError) as error:
                    self.failures.append(Failure(study, first_line(error.__cause__ or error)))
                    continue
                except Exception as error:  # noqa: BLE001  (one study; the others go on)
                    self.failures.append(Failure(study, unforeseen(error, "Preparing it").sentence))
                    continue
                told = {"study": study, "volume": volume, "place": place, "second_volume": second}
                yield sample | {"image": sample["image"][None], **told}

    def pairs(self, volumes: Sequence[Volume]) -> list[tuple[Volume, Volume | None]]:
        """The volumes of a study that are answered for, each with the one that is joined to it."""
        if not self.join:
            return [(volume, None) for volume in volumes]
        pairs = paired([volume.spacing_mm for volume in volumes])
        return [(volumes[own], None if other is None else volumes[other]) for own, other in pairs.items()]


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def find_studies(data: Paths) -> list[Study]:
    """The studies below the paths, in a fixed order: each volume file, and DICOM by its StudyInstanceUID.

    Raises:
        UserError: where a path does not exist, or there is nothing to read.
    """
    paths = [Path(data)] if isinstance(data, str | Path) else [Path(path) for path in data]
    quiet_libraries()
    found: dict[str, Gathered] = {}
    for source in chain.from_iterable(gather(discover([path]).readable, Crew(0)) for path in paths):
        if isinstance(source, Refused):
            path = source.found.path.parent if source.found.format == "dicom" else source.found.path
            found.setdefault(f"refused {path}", Gathered(path)).refused.append(source.sentence)
        else:
            uid = source.first.study if isinstance(source, Series) else ""
            found.setdefault(uid or str(source.path), Gathered(source.path, uid)).take(source)
    readable = {study.path: study for study in found.values() if study.sources}
    for key, study in list(found.items()):
        if not study.sources and study.path in readable:  # a damaged file beside the slices of a scan
            readable[study.path].refused += found.pop(key).refused
    if not found:
        raise UserError(
            f"no study in {', '.join(map(str, paths))}: name a DICOM folder, or a NIfTI, NRRD or MetaImage file"
        )
    return [
        Study(as_named(study.path, paths), identity, study.uid, tuple(study.sources), tuple(study.refused))
        for identity, study in sorted(found.items(), key=lambda item: (item[1].path, item[0]))
    ]


@dataclass
class Gathered:
    """A study while its parts come together."""

    path: Path
    uid: str = ""
    sources: list[Source] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def take(self, source: Source) -> None:
        """Add a source, once, and widen the folder to hold it."""
        if source.source not in {known.source for known in self.sources}:
            self.sources.append(source)
            self.path = shared_folder(self.path, source.path)


def read_study(study: Study, *, modality: str, files_modality: str | None = None) -> list[Volume]:
    """Read and check a study's volumes of a modality; what else it holds is said.

    Args:
        files_modality: what files are that do not say it themselves.

    Raises:
        UserError: where no volume is left; the line says why.
    """
    volumes, reasons = [], list(dict.fromkeys(study.refused))
    for source in study.sources:
        try:
            volume = checked(source, files_modality)
        except RefusedError as refusal:
            reasons.append(refusal.sentence)
            continue
        if volume.modality in modality.split("+"):
            volumes.append(volume)
        elif source.says_modality or files_modality:
            reasons.append(f"It is {volume.modality} and the bundle was trained on {modality}.")
        else:
            taken = f"By its values it is {volume.modality} and the bundle was trained on {modality}"
            reasons.append(f"{taken}: say --modality {modality} where they deceive.")
    if not volumes:
        raise UserError(" ".join(reasons))
    for reason in reasons:
        say(f"{study.path}: a part was passed over: {reason}")
    return volumes


def checked(source: Source, modality: str | None = None) -> Volume:
    """Read and check a source as `volssl prepare` does; what nobody foresaw refuses this one alone, and is told."""
    try:
        return checks.check(source.read(), modality)
    except RefusedError:
        raise
    except Exception as error:
        raise unforeseen(error, "Reading it") from error


def as_image(volume: Volume) -> MetaTensor:
    """A volume as MONAI's (1, R, A, S)."""
    return MetaTensor(torch.from_numpy(volume.array[np.newaxis]), affine=torch.from_numpy(volume.affine))


def described(volume: Volume) -> dict[str, Any]:
    """What a store's manifest says of a volume and a box is placed and scaled by: `foreground` and `intensity`."""
    modality = volume.modality or ""
    box = checks.foreground(volume.array, modality)
    found = intensities(volume.array, box, modality)
    return {"foreground": box, "intensity": (found["intensity_low"], found["intensity_high"])}


def shared_folder(one: Path, other: Path) -> Path:
    """The path where they are the same, else the folder that holds both."""
    while not other.is_relative_to(one):
        one = one.parent
    return one


def as_named(path: Path, given: Sequence[Path]) -> Path:
    """A resolved path in the user's own words."""
    for root in given:
        if path.is_relative_to(root.resolve()):
            return root / path.relative_to(root.resolve())
    return path
