"""Label tables of public head CT data sets, as volssl's own: RSNA 2019 by image, CQ500 by three readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from volssl.data.keys import keyed_hash, study_alias
from volssl.data.store import Store
from volssl.data.user_table import read_texts, required
from volssl.errors import UserError

TYPES = ("subarachnoid", "subdural", "epidural", "intraventricular", "intraparenchymal")
RSNA = {"any": "hemorrhage"} | {name: name for name in TYPES}
READERS = ("R1", "R2", "R3")
CQ500 = {
    "ICH": "hemorrhage",
    "SAH": "subarachnoid",
    "SDH": "subdural",
    "EDH": "epidural",
    "IVH": "intraventricular",
    "IPH": "intraparenchymal",
    "Fracture": "fracture",
    "MassEffect": "mass_effect",
    "MidlineShift": "midline_shift",
}


def rsna2019(csv: Path, store: Store | None) -> pd.DataFrame:
    """Kaggle's stage_2_train.csv, a line for each image and type (`ID_<image>_<type>,Label`) -> a line a study.

    An image is named by its SOPInstanceUID. A study shows what any of its slices shows; it shows nothing where every
    slice of its volumes is labelled and none shows it, and otherwise it is unknown. Studies are named by the store's
    hashes: the table knows none.

    Raises:
        UserError: without a store, for a table of another form or one that contradicts itself, or where no image of the
            table is in the store.
    """
    if store is None:
        raise UserError(f"{csv} names images, not studies: give --store, in which `volssl prepare` read the images")
    images = _rsna_images(csv)
    places = {keyed_hash(store.key, "sop", name): row for row, name in enumerate(images.index)}
    values = images[list(RSNA)].to_numpy(float)
    rows: dict[str, list[str]] = {}
    for row in store.columns("study", "modality", "sop").to_pylist():
        if row["modality"] == "CT":
            rows.setdefault(row["study"], []).extend(row["sop"])
    records = []
    for study, sops in sorted(rows.items()):
        found = [places[sop] for sop in sops if sop in places]
        if found:
            records.append(_rsna_study(study, images.index[found], values[found], whole=len(found) == len(sops)))
    if not records:
        raise UserError(
            f"{csv}: none of its {len(images)} images is in the store {store.path}: was it prepared from the DICOM "
            "files of this data set?"
        )
    return pd.DataFrame(records)


def cq500(csv: Path, store: Store | None) -> pd.DataFrame:
    """CQ500's reads.csv, columns `name` and `R1:ICH` to `R3:MidlineShift` -> a line a study, the readers' majority.

    A study is named as the folder of its archive (`CQ500CT12 CQ500CT12`); with a store, as it is named there: by that
    folder, or by the table's own name (`CQ500-CT-12`).

    Raises:
        UserError: for a table of another form, a read that is not 0 or 1, or a study that stands there twice.
    """
    table = read_texts(csv, "label")
    required(csv, table, ["name", *(f"{reader}:{finding}" for reader in READERS for finding in CQ500)])
    twice = table["name"][table["name"].duplicated()]
    if len(twice):
        raise UserError(f"{csv} names the study {twice.iloc[0]!r} twice: leave one line of it")
    result = pd.DataFrame({"study": _cq500_names(table["name"], store)})
    for finding, name in CQ500.items():
        reads = pd.DataFrame({one: _zero_or_one(csv, table[f"{one}:{finding}"]) for one in READERS})
        share = reads.mean(axis=1)  # of the readers who said something
        result[name] = np.select([share > 0.5, share < 0.5], [1.0, 0.0], np.nan)
    return result


CONVERTERS: dict[str, Callable[[Path, Store | None], pd.DataFrame]] = {"rsna2019": rsna2019, "cq500": cq500}


def convert_labels(kind: str, csv: Path, out: Path, *, store: Path | None = None) -> pd.DataFrame:
    """Write the label table of a public data set as volssl's own, and return it.

    Args:
        kind: one of `CONVERTERS`.
        out: the CSV to write; blank is unknown.

    Raises:
        UserError: see the converters.
    """
    table = CONVERTERS[kind](csv, None if store is None else Store.open(store))
    shown = table.copy()
    for column in shown.columns.difference(["study", "slice_sops"]):
        shown[column] = shown[column].map({0.0: "0", 1.0: "1"}).fillna("")
    out.parent.mkdir(parents=True, exist_ok=True)
    shown.to_csv(out, index=False)
    return table


def _rsna_images(csv: Path) -> pd.DataFrame:
    """Lines of one image and one type -> a row an image, a column a type; NaN where there is no line."""
    table = read_texts(csv, "label")
    required(csv, table, ["ID", "Label"])
    parts = table["ID"].str.rsplit("_", n=1)
    image, kind = parts.str[0], parts.str[1]
    strange = ~kind.isin(list(RSNA))
    if strange.any():
        line = int(strange.argmax())
        raise UserError(
            f"{csv}: line {line + 2}: ID holds {table['ID'].iloc[line]!r}, which ends in none of {', '.join(RSNA)}"
        )
    lines = pd.DataFrame({"image": image, "kind": kind, "label": _zero_or_one(csv, table["Label"])})
    lines = lines.drop_duplicates()  # stage 1 has some lines twice
    twice = lines.duplicated(["image", "kind"])
    if twice.any():
        raise UserError(f"{csv} labels the image {lines.loc[twice, 'image'].iloc[0]!r} twice, and the lines differ")
    return lines.pivot(index="image", columns="kind", values="label").reindex(columns=list(RSNA))


def _rsna_study(study: str, names: pd.Index, values: np.ndarray, *, whole: bool) -> dict[str, object]:
    """The line of a study from its labelled images (images, labels)."""
    record: dict[str, object] = {"study": study}
    for name, column in zip(RSNA.values(), values.T, strict=True):
        negative = whole and (column == 0).all()
        record[name] = 1.0 if (column == 1).any() else 0.0 if negative else np.nan
    bleeding = values[:, 0] == 1
    return record | {"slice_sops": ";".join(sorted(names[bleeding])) if whole else ""}


def _cq500_names(names: pd.Series, store: Store | None) -> pd.Series:
    """`CQ500-CT-12` -> the folder of the archive, or what the store knows of the two."""
    plain = names.str.replace("-", "", regex=False)
    folders = plain + " " + plain
    if store is None:
        return folders
    known = {alias for aliases in store.columns("aliases")["aliases"].to_pylist() for alias in aliases}
    return folders.where(folders.map(lambda name: study_alias(store.key, name) in known), names)


def _zero_or_one(csv: Path, column: pd.Series) -> pd.Series:
    """A column of texts 0, 1 and blank -> float."""
    values = column.map({"0": 0.0, "1": 1.0, "": np.nan})
    wrong = values.isna() & (column != "")
    if wrong.any():
        line = int(wrong.argmax())
        raise UserError(f"{csv}: line {line + 2}: {column.name} holds {column.iloc[line]!r}; it is 0, 1 or blank")
    return values.astype(float)
