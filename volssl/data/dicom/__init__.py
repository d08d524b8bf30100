"""DICOM: headers, the stacks that slices make, their pixels, and their place in space."""
