"""Bundles from elsewhere: what could run code, reach other files or fill the memory is refused before it runs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.bundle.conftest import Line
from volssl.bundle.agreement import refuse_other_labels
from volssl.bundle.predict import predict_studies
from volssl.bundle.verify import check_bundle, config_findings, string_findings
from volssl.errors import UserError

Edited = Callable[[str, str], Path]
INFERER = "inferer: {_target_: monai.inferers.SimpleInferer}"
RUN = "run:\n"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that hostile bundles try to make."""
    return tmp_path / "ran"


def refused(line: Line, bundle: Path, marker: Path, match: str) -> None:
    """The bundle is refused in one line that says what was found; nothing has run, nothing was written."""
    out = marker.parent / "out"
    with pytest.raises(UserError, match=match) as caught:
        predict_studies(bundle, [line.volumes[0]], out)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert not out.exists()


HOSTILE = {
    "a shell as a target": ("{_target_: os.system, command: 'touch MARKER'}", "_target_ os.system is not on the list"),
    "a shell under a name of MONAI": ("{_target_: monai.utils.run_cmd, cmd_list: [a]}", "run_cmd is not"),
    "another name of a known module": ("{_target_: volssl.files.write_text, path: MARKER, text: x}", "write_text"),
    "a method of a class that is known": ("{_target_: monai.transforms.Compose.__init__, transforms: []}", "__init__"),
    "a short name that MONAI looks up": ("{_target_: Lambdad, keys: image, func: x}", "_target_ Lambdad"),
    "a target that is an expression": ("{_target_: $os.system, command: 'touch MARKER'}", "_target_"),
    "a target that is a reference": ("{_target_: '@device'}", "_target_ @device"),
    "a target that is no text": ("{_target_: [os.system]}", "_target_"),
    "an expression": ("\"$open('MARKER', 'w')\"", r"inferer: the expression \$open"),
    "an import": ("$import os", "the expression"),
    "an expression in nested lists": ("[[1, [\"$open('MARKER', 'w')\"]]]", "inferer::0::1::0: the expression"),
    "a macro into another file": ("'%/etc/passwd::x'", "the macro"),
    "a macro into its own file": ("'%device'", "the macro"),
    "a reference inside a text": ("'x @device y'", "the reference"),
    "a debugger": ("{_target_: monai.inferers.SimpleInferer, _mode_: debug}", "SimpleInferer with _mode_"),
    "a partial call": ("{_target_: monai.transforms.Compose, _mode_: callable, transforms: []}", "_mode_"),
    "an unknown argument": ("{_target_: monai.transforms.Compose, transforms: [], log_stats: 1}", "log_stats"),
    "a path upwards": ("{_target_: monai.transforms.Compose, transforms: ../../other}", r"the path \.\./\.\./other"),
    "an absolute path": ("{_target_: monai.transforms.Compose, transforms: /etc/passwd}", "the path /etc/passwd"),
    "a path of Windows": ("'C:\\secrets'", "the path C:"),
    "a path home": ("~/.ssh", "the path ~"),
    "a huge number": ("{_target_: volssl.encoders.PaperDenseNet, growth: 100000}", "100000 is larger"),
    "a number without end": (".inf", "the number inf"),
    "not a number": (".nan", "the number nan"),
    "a date": ("2020-01-01", "a date"),
    "a key that is no word": ("{'a::b': 1}", "the key 'a::b'"),
    "an underscore without a target": ("{_requires_: '@device'}", "the key _requires_"),
    "a Python object in YAML": ("!!python/object/apply:os.system ['touch MARKER']", "not a readable YAML"),
    "an alias that grows": ("[&a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &b [*a, *a, *a, *a, *a, *a, *a, *a, *a], "
        "&c [*b, *b, *b, *b, *b, *b, *b, *b, *b], &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]]", "has an alias"),
    "an alias of itself": ("&a [*a]", "has an alias"),
    "lists without end": ("[" * 5000 + "]" * 5000, "nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_is_refused(line: Line, edited: Edited, marker: Path, name: str) -> None:
    text, match = HOSTILE[name]
    bundle = edited(INFERER, f"inferer: {text.replace('MARKER', str(marker))}")
    refused(line, bundle, marker, match)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("output_dir: '@output_dir'", "output_dir: elsewhere"),
        ("data: '@dataset_dir'", "data: elsewhere"),
        ("bundle_root: '@bundle_root'", "bundle_root: elsewhere"),
    ],
)
def test_places_of_the_user_cannot_be_exchanged(line: Line, edited: Edited, marker: Path, old: str, new: str) -> None:
    refused(line, edited(old, new), marker, "'elsewhere' in place of '@")


def test_an_entry_that_nobody_asks_for_is_looked_through_too(line: Line, edited: Edited, marker: Path) -> None:
    refused(
        line,
        edited(RUN, f"unused: [{{_target_: os.mkdir, path: '{marker}'}}]\nrun:\n"),
        marker,
        "unused::0: _target_ os.mkdir",
    )


def test_a_text_that_only_looks_like_a_reference_is_found() -> None:
    assert string_findings("@network_def") == string_findings("@grid::2") == string_findings("image") == []
    for text in ("@a b", "@", "@a::", "@::a", "a@b"):
        assert string_findings(text) == [f"the reference {text}"]


def test_the_expression_would_have_run_in_a_bundle_that_is_trusted(line: Line, edited: Edited, marker: Path) -> None:
    bundle = edited(INFERER, f"inferer: \"$open('{marker}', 'w')\"")
    with pytest.raises((UserError, TypeError)):  # an open file is no inferer
        predict_studies(bundle, [line.volumes[0]], marker.parent / "out", trust=True)
    assert marker.exists()


def test_what_export_writes_has_no_finding(line: Line) -> None:
    assert config_findings(yaml.safe_load((line.bundle / "configs" / "inference.yaml").read_text())) == []
    assert check_bundle(line.bundle).facts.labels[0] == "hemorrhage"


def test_metadata_of_before_there_was_a_mirror_image_mean_that_there_is_none(bundle_copy: Path) -> None:
    path = bundle_copy / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    assert metadata["volssl"].pop("flips") is False
    del metadata["volssl"]["join"]
    path.write_text(json.dumps(metadata))
    assert check_bundle(bundle_copy).facts.flips is False


@pytest.mark.parametrize(
    ("labels", "kinds", "match"),
    [
        (("metastasis",), ["binary", "multi-class"], "kinds binary, multi-class; those of metastasis are all binary"),
        (("tumour",), ["binary", "binary"], "labels tumour; those of metastasis are metastasis"),
    ],
)
def test_a_task_has_labels_and_kinds_of_its_own(
    line: Line, labels: tuple[str, ...], kinds: list[str], match: str
) -> None:
    facts = replace(check_bundle(line.bundle).facts, task="metastasis", labels=labels, volume=1)
    refuse_other_labels(replace(facts, labels=("metastasis",)), ["binary", "binary"])
    with pytest.raises(ValueError, match=match):
        refuse_other_labels(facts, kinds)


def test_a_config_without_one_of_its_parts_is_an_error_of_one_line(line: Line, edited: Edited, marker: Path) -> None:
    refused(line, edited("writer:\n", "answerer:\n"), marker, "writer is missing; answerer is no entry")


def test_a_config_that_feeds_another_grid_than_the_weights_were_trained_on_is_refused(
    line: Line, edited: Edited, marker: Path
) -> None:
    refused(line, edited("grid: [32, 36, 12]", "grid: [32, 36, 24]"), marker, r"feeds grid \[32, 36, 24\]")


@pytest.mark.parametrize(
    ("old", "new"), [("grid: '@grid'", "grid: [4096, 4096, 4096]"), ("keys: image", "keys: other")]
)
def test_the_head_box_is_made_as_the_contract_says(
    line: Line, edited: Edited, marker: Path, old: str, new: str
) -> None:
    refused(line, edited(old, new), marker, "HeadBoxd with (grid|keys) .* in place of")


def test_a_box_of_another_extent_is_refused(line: Line, edited: Edited, marker: Path) -> None:
    refused(line, edited("extent_mm: [168", "extent_mm: [200"), marker, r"feeds extent_mm \[200\.0, 196\.0, 140\.0\]")


def test_a_network_of_another_size_is_refused_without_being_made(line: Line, edited: Edited, marker: Path) -> None:
    bundle = edited("growth: 7", "growth: 4096")  # 100 GB of weights
    refused(line, bundle, marker, "the weights do not fit")


def set_weights(bundle: Path, content: bytes) -> Path:
    """Exchange the weights and their hash, as whoever writes a hostile bundle would."""
    (bundle / "models" / "model.pt").write_bytes(content)
    return set_metadata(bundle, weights_sha256=hashlib.sha256(content).hexdigest())


def set_metadata(bundle: Path, **values: Any) -> Path:
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["volssl"] |= values
    path.write_text(json.dumps(metadata))
    return bundle


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_weights_of_another_hash_are_refused(line: Line, bundle_copy: Path, marker: Path) -> None:
    path = bundle_copy / "models" / "model.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    refused(line, bundle_copy, marker, "the weights were exchanged")


def test_a_pickle_in_the_weights_is_not_run(line: Line, bundle_copy: Path, marker: Path) -> None:
    set_weights(bundle_copy, pickle.dumps(Payload(marker)))
    refused(line, bundle_copy, marker, "something other than tensors")


def test_a_pickle_in_torchs_own_archive_is_not_run(line: Line, bundle_copy: Path, marker: Path, tmp_path: Path) -> None:
    torch.save({"weight": Payload(marker)}, tmp_path / "x.pt")
    set_weights(bundle_copy, (tmp_path / "x.pt").read_bytes())
    refused(line, bundle_copy, marker, "something other than tensors")


def test_trust_does_not_run_a_pickle_either(line: Line, bundle_copy: Path, marker: Path) -> None:
    set_weights(bundle_copy, pickle.dumps(Payload(marker)))
    with pytest.raises(UserError, match="something other than tensors"):
        predict_studies(bundle_copy, [line.volumes[0]], marker.parent / "out", trust=True)
    assert not marker.exists()


def test_a_tensor_that_claims_ten_gigabytes_is_refused(
    line: Line, bundle_copy: Path, marker: Path, tmp_path: Path
) -> None:
    torch.save({"weight": torch.zeros(1).expand(2_500_000_000)}, tmp_path / "x.pt")
    set_weights(bundle_copy, (tmp_path / "x.pt").read_bytes())
    refused(line, bundle_copy, marker, "tensors are larger than the file")


def test_weights_that_grow_when_unpacked_are_refused(
    line: Line, bundle_copy: Path, marker: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    set_weights(bundle_copy, (tmp_path / "x.pt").read_bytes())
    refused(line, bundle_copy, marker, "is compressed, or claims more bytes than it has")


def test_an_input_of_ten_gigabytes_is_refused(line: Line, edited: Edited, marker: Path) -> None:
    bundle = edited("grid: [32, 36, 12]", "grid: [1400, 1400, 1400]")
    contract = json.loads((bundle / "configs" / "metadata.json").read_text())["volssl"]["input_contract"]
    set_metadata(bundle, input_contract=contract | {"grid": [1400, 1400, 1400]})
    refused(line, bundle, marker, "more than volssl makes")


@pytest.mark.parametrize("part", ["models/model.pt", "configs", "configs/inference.yaml", "docs/README.md"])
def test_a_link_out_of_the_bundle_is_refused(line: Line, bundle_copy: Path, marker: Path, part: str) -> None:
    inside, outside = bundle_copy / part, marker.parent / "outside"
    shutil.move(inside, outside)
    inside.symlink_to(outside)
    refused(line, bundle_copy, marker, f"{part} is a link out of the bundle")


def test_a_link_within_the_bundle_is_no_harm(bundle_copy: Path) -> None:
    (bundle_copy / "models" / "model.pt").rename(bundle_copy / "weights.pt")
    (bundle_copy / "models" / "model.pt").symlink_to(Path("..") / "weights.pt")
    assert check_bundle(bundle_copy).facts.slices == 12


@pytest.mark.parametrize(
    ("values", "match"),
    [({"input_contract": {"modality": "CT"}}, "damaged"), ({"labels": 3}, "damaged"), ({"format": 9}, "this version")],
)
def test_damaged_metadata_are_an_error_of_one_line(
    line: Line, bundle_copy: Path, marker: Path, values: dict[str, Any], match: str
) -> None:
    refused(line, set_metadata(bundle_copy, **values), marker, match)


@pytest.mark.parametrize("part", ["configs/metadata.json", "configs/inference.yaml", "models/model.pt"])
def test_a_part_that_is_missing_is_named(line: Line, bundle_copy: Path, marker: Path, part: str) -> None:
    (bundle_copy / part).unlink()
    refused(line, bundle_copy, marker, part)


def test_a_bundle_that_is_trusted_runs_and_says_what_was_found(
    line: Line, edited: Edited, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (usual,) = predict_studies(line.bundle, [line.volumes[0]], tmp_path / "usual")
    bundle = edited("slices: 12", "slices: $6 * 2")
    key = tmp_path / "usual" / "private.key"
    (trusted,) = predict_studies(bundle, [line.volumes[0]], tmp_path / "trusted", key=key, trust=True)
    assert trusted.content == usual.content
    assert "trusted: slices: the expression $6 * 2" in capsys.readouterr().err
