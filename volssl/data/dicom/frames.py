"""Enhanced multi-frame objects: the functional groups that all frames share, and those of each (PS3.3, C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from volssl.data.volume import RefusedError

FUNCTIONAL_GROUPS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
_CONVERSION = "ConversionSourceAttributesSequence"
_REFERENCES = {"ReferencedSOPClassUID", "ReferencedSOPInstanceUID"}


def frames_of(dataset: Dataset, count: int) -> list[tuple[Dataset, Dataset]] | None:
    """For each frame, its own tags and those of all frames, each without its nesting; None without functional groups.

    Raises:
        RefusedError: there are not as many groups as frames.
    """
    groups = dataset.get(FUNCTIONAL_GROUPS[1])
    if not groups:
        return None
    if len(groups) != count:
        raise RefusedError("multi_frame", f"The object tells of {count} frames and describes {len(groups)}.")
    shared = _flat(dataset.get(FUNCTIONAL_GROUPS[0]) or ())
    return [(_flat([group]), shared) for group in groups]


def source_sop(frame: Dataset) -> str:
    """The SOPInstanceUID of the slice that a frame was converted from; empty where none is told."""
    return str(frame.get("ReferencedSOPInstanceUID", "") or "")


def _flat(groups: Iterable[Dataset]) -> Dataset:
    """The tags in the first item of each of a group's sequences; references to the source of a frame alone."""
    flat = Dataset()
    for group in groups:
        for sequence in group:
            if sequence.VR != "SQ" or not sequence.value:
                continue
            for tag in sequence.value[0].keys():  # noqa: SIM118 - a dataset iterates over its elements
                _take(flat, sequence.value[0], tag, is_source=sequence.keyword == _CONVERSION)
    return flat


def _take(flat: Dataset, item: Dataset, tag: BaseTag, *, is_source: bool) -> None:
    element = item.get_item(tag)
    if element is not None and element.VR != "SQ" and is_source == (tag in (0x00081150, 0x00081155)):
        flat[tag] = element
