"""What each reason code of `rejected.csv` means, for people."""

from __future__ import annotations

REASONS = {
    # files
    "unreadable": "The file could not be opened, or its header is damaged.",
    "unknown_format": "Neither its name nor its first bytes are those of a format that is read.",
    "missing_part": "Of a pair of files, the header or the voxels are missing or cut short.",
    "analyze": "An Analyze file: it does not say which side is left.",
    "failed": "Reading it raised an error that nobody foresaw: please report it.",
    "crash": "Reading it killed its process, or came to no end.",
    # DICOM objects
    "not_an_image": "A DICOM object that holds no image.",
    "secondary_capture": "A picture taken of a screen or made by a program, without a place in space.",
    "localizer": "A scout, which shows where the scan was planned.",
    "derived": "A projection, rendering, subtraction or map that was computed from scans.",
    "mosaic": "Slices side by side in one picture, which only the maker's own tags take apart.",
    "segmentation": "Labels of a scan, not the scan.",
    "presentation_state": "How to show an image, not an image.",
    "structured_report": "A report, without a picture.",
    "dose_report": "What dose was given, without a picture.",
    "encapsulated_document": "A document, such as a PDF, in a DICOM file.",
    "key_objects": "A list of pictures that somebody marked.",
    "waveform": "A curve, such as an ECG.",
    "spectroscopy": "Spectra, not a picture.",
    "raw_data": "What the scanner measured, before it is a picture.",
    "rt_object": "Plans, doses and contours of radiotherapy.",
    "multi_frame": "Several frames in a file, and nothing says where each lies.",
    "modality": "A modality other than CT and MR.",
    "colour": "Pixels in colour: a rendering, no measurement.",
    # pixels
    "pixels": "The pixels are missing, cut short or damaged.",
    "transfer_syntax": "Pixels compressed in a way for which no decoder is installed.",
    "rescale": "No way from the stored numbers to Hounsfield units.",
    # stacks of slices
    "few_slices": "Fewer slices, or voxels along an axis, than `store.json` asks for.",
    "missing_slices": "Slices are missing in the middle of the stack.",
    "duplicate_slices": "Several different slices lie at one place.",
    "uneven_slices": "The gaps between the slices differ, or the slices do not lie on a line.",
    # grids
    "geometry": "Nothing tells where the voxels lie in space, or what tells it contradicts itself.",
    "dimensions": "The array has not the three axes of a volume.",
    "time_series": "More volumes in one file than `store.json` admits.",
    "too_large": "More voxels than `store.json` admits.",
    "voxel_size": "Voxels smaller or larger than `store.json` admits.",
    "extent": "Fewer mm from side to side than `store.json` asks for.",
    # values
    "constant": "Every voxel has the same value.",
    "mask": "Two values and no more: a mask, not a scan.",
    "empty": "Nothing but air.",
    "not_finite": "No voxel has a finite value.",
    "intensity_range": "Values outside of the range that `store.json` admits.",
    "not_hu": "A CT whose values are not Hounsfield units.",
    "modality_unknown": "The values fit neither CT with air nor MR: say `--modality`.",
    "duplicate": "The same voxels are stored already, under another name.",
}
