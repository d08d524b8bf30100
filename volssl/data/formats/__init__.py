"""Volume files: NIfTI, NRRD and MetaImage, their headers before their voxels."""
