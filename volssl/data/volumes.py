"""Volume files: NIfTI through nibabel, NRRD and MetaImage through SimpleITK."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK

from volssl.data.discovery import Found
from volssl.data.volume import Origin, RefusedError, Volume, oriented

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class VolumeFile:
    """A source of one volume that is one file."""

    found: Found

    @property
    def path(self) -> Path:
        """Where the volume comes from."""
        return self.found.path

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file it is made of."""
        return (self.found.path,)

    @property
    def source(self) -> str:
        """What names this source among all others; private."""
        return str(self.found.path)

    @property
    def stamp(self) -> str:
        """Changes when the file does."""
        try:
            status = self.found.path.stat()
        except OSError:  # a link to nowhere: reading it says so
            return "absent"
        return f"{status.st_size} {status.st_mtime_ns}"

    @property
    def says_modality(self) -> bool:
        """Whether the source itself tells CT from MR."""
        return False

    def read(self) -> Volume:
        """Read the file to RAS.

        Raises:
            RefusedError: the file is damaged, is not one 3D volume of single values, or has no place in space.
        """
        origin = Origin(names=self.found.names, source_format=self.found.format)
        try:
            read = _read_nifti if self.found.format == "nifti" else _read_itk
            return read(self.found.path, origin)
        except RefusedError:
            raise
        except MemoryError as error:
            raise RefusedError("unreadable", "The header asks for more memory than there is.") from error
        # A damaged file makes readers raise nearly anything; their texts may hold the path: only the class is told.
        except Exception as error:
            raise RefusedError(
                "unreadable", f"The {self.found.format} reader failed with {type(error).__name__}."
            ) from error


def _read_nifti(path: Path, origin: Origin) -> Volume:
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    image = nib.load(path)
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    _check_shape(shape)
    if image.get_data_dtype().fields is not None or image.get_data_dtype().kind == "c":
        raise RefusedError("colour", "The voxels are colours or complex numbers, not single values.")
    array = np.asanyarray(image.dataobj).reshape(shape)
    notes = [] if _has_orientation(image) else ["the header gives no orientation: its axes were taken as they stand"]
    return oriented(array, np.asarray(image.affine, dtype=np.float64), modality=None, origin=origin, notes=tuple(notes))


def _has_orientation(image: nib.nifti1.Nifti1Image) -> bool:
    return int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0


def _read_itk(path: Path, origin: Origin) -> Volume:
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() > 1:
        raise RefusedError("colour", "The voxels are vectors or colours, not single values.")
    size = reader.GetSize()
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    _check_shape(size)
    reader.SetExtractSize([*size, *[0] * (reader.GetDimension() - len(size))])
    image = reader.Execute()
    array = SimpleITK.GetArrayViewFromImage(image).transpose(2, 1, 0)
    return oriented(array.copy(), itk_affine(image), modality=None, origin=origin)


def itk_affine(image: SimpleITK.Image) -> np.ndarray:
    """The affine of a 3D ITK image: index (i, j, k) to RAS millimetres, 4 x 4."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        times = " x ".join(map(str, shape))
        raise RefusedError("dimensions", f"The array is {times}: one volume has three axes.")
