"""A fine-tuned run becomes a bundle that MONAI's own checks pass and that says what is in it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

import volssl.bundle.export as export
import volssl.bundle.packing as packing
import volssl.bundle.ranges as ranges
from tests.bundle.conftest import GRID, Line
from volssl.bundle.export import export_run
from volssl.bundle.verify import config_findings
from volssl.contract import InputContract
from volssl.data import Store
from volssl.encoders import PaperDenseNet, save_encoder
from volssl.errors import UserError
from volssl.heads import TaskNetwork
from volssl.tensors import load_tensors, save_tensors

SCHEMA_MD5 = "06954cad2cc5d3784e72077ac76f0fc8"
SHIPPED = ("head_ct_hemorrhage_classification", "brain_mr_metastasis_classification", "volume_pretraining")
PARTS = (
    "LICENSE",
    "configs/metadata.json",
    "configs/inference.yaml",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
)
SECTIONS = (  # of the model zoo's template, and the commands
    "Authors",
    "Tags",
    "Model overview",
    "Data",
    "Preprocessing",
    "Commands",
    "Performance",
    "System configuration",
    "Limitations",
    "Citation",
    "References",
    "License",
)
RECIPES = Path(__file__).resolve().parents[2] / "bundles"


@pytest.fixture(scope="module")
def metadata(line: Line) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((line.bundle / "configs" / "metadata.json").read_text())
    return values


@pytest.fixture(scope="module")
def schema(shared_data: Path) -> Path:
    return shared_data.parent / "schema" / "meta_schema_20240725.json"


def check_schema(bundle: Path, schema: Path) -> None:
    verify_metadata(
        meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema), hash_val=SCHEMA_MD5, hash_type="md5"
    )


def test_metadata_pass_monais_schema(line: Line, schema: Path) -> None:
    check_schema(line.bundle, schema)


@pytest.mark.parametrize("recipe", SHIPPED)
def test_a_recipes_metadata_pass_monais_schema_and_list_their_version(recipe: str, schema: Path) -> None:
    check_schema(RECIPES / recipe, schema)
    values = json.loads((RECIPES / recipe / "configs" / "metadata.json").read_text())
    assert values["version"] in values["changelog"]


@pytest.mark.parametrize("recipe", SHIPPED)
def test_a_recipe_has_the_files_that_the_model_zoo_asks_for(recipe: str) -> None:
    assert [name for name in PARTS if not (RECIPES / recipe / name).is_file()] == []
    inference = yaml.safe_load((RECIPES / recipe / "configs" / "inference.yaml").read_text())
    assert config_findings(inference) == []
    assert {"bundle_root", "device", "network_def", "inferer", "output_dir", "dataset_dir"} <= set(inference)


@pytest.mark.parametrize("exported", [True, False])
def test_no_required_property_of_an_inference_workflow_is_missing(line: Line, exported: bool) -> None:
    root = line.bundle if exported else RECIPES / "head_ct_hemorrhage_classification"
    workflow = ConfigWorkflow(
        config_file=str(root / "configs" / "inference.yaml"),
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(root),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_monai_verifies_the_networks_input_and_output(line: Line) -> None:
    files = {name: str(line.bundle / "configs" / name) for name in ("metadata.json", "inference.yaml")}
    verify_net_in_out(
        "network_def", meta_file=files["metadata.json"], config_file=files["inference.yaml"], device="cpu"
    )
    with pytest.raises(ValueError, match="doesn't match: `17`"):  # the check looks at the number of columns
        verify_net_in_out(
            "network_def",
            meta_file=files["metadata.json"],
            config_file=files["inference.yaml"],
            device="cpu",
            **{"_meta_::network_data_format::outputs::pred::num_channels": 17},
        )


def test_the_inference_config_holds_no_expression_and_nothing_unknown(line: Line) -> None:
    text = (line.bundle / "configs" / "inference.yaml").read_text()
    assert config_findings(yaml.safe_load(text)) == []
    assert not re.search(r"^[^#]*\$", text, re.MULTILINE)
    assert len(text.splitlines()) < 80


def test_weights_are_the_runs_as_a_plain_state_dict_named_by_their_hash(line: Line, metadata: dict[str, Any]) -> None:
    path = line.bundle / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    trained = load_tensors(line.run / "model.pt")["network"]
    assert state.keys() == trained.keys()
    assert all(torch.equal(state[key], trained[key]) for key in trained)
    assert metadata["volssl"]["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_metadata_name_every_column_and_the_input(metadata: dict[str, Any]) -> None:
    image, pred = (
        metadata["network_data_format"][side][name] for side, name in (("inputs", "image"), ("outputs", "pred"))
    )
    assert (image["num_channels"], image["spatial_shape"], image["value_range"]) == (1, list(GRID), [0, 1])
    assert pred["num_channels"] == 1 + 5 + GRID[2]
    assert [pred["channel_def"][str(i)] for i in (0, 1, 5, 6, 17)] == [
        "hemorrhage",
        "subarachnoid",
        "intraparenchymal",
        "slice 0 of the grid",
        "slice 11 of the grid",
    ]
    assert metadata["volssl"]["input_contract"]["spacing_mm"] == pytest.approx([168 / 32, 196 / 36, 140 / 12])
    assert "volssl" in metadata["required_packages_version"]


def test_the_ranges_are_those_of_the_volumes_of_training_patients_alone(line: Line, metadata: dict[str, Any]) -> None:
    rows = [row for row in Store.open(line.store).rows.to_pylist() if row["split"] == "train"]
    ranges = metadata["volssl"]["training_ranges"]
    assert ranges["volumes"] == len(rows) == 9
    assert ranges["spacing_mm"] == [[4.1, 4.1], [4.1, 4.1], [8.2, 8.2]]
    heights = [row["shape"][2] * 8.2 for row in rows]
    assert ranges["extent_mm"][2] == pytest.approx([min(heights), max(heights)])


def test_the_first_lines_of_the_card_say_simulated_no_medical_device_and_volssl(line: Line) -> None:
    lines = (line.bundle / "docs" / "README.md").read_text().splitlines()
    assert lines[2].startswith("**Trained on simulated data**")
    assert "no medical device" in lines[2]
    assert "`volssl`, which must be installed" in lines[3]
    assert "<!--" not in "".join(lines)
    patients = len(load_tensors(line.run / "model.pt")["patients"])
    told = next(text for text in lines if "The weights were trained from scratch." in text)
    assert (
        f"In all they saw {patients} patients. The 9 volumes of this training had voxels of 4.1 × 4.1 × 8.2 mm" in told
    )
    assert "volssl simulate" in (line.bundle / "docs" / "data_license.txt").read_text()


def test_neither_paths_nor_patients_leave_the_run(line: Line) -> None:
    patients = load_tensors(line.run / "model.pt")["patients"]
    assert patients
    for path in line.bundle.rglob("*.*"):
        content = path.read_bytes()
        assert str(line.run.parent).encode() not in content, path
        assert not any(patient.encode() in content for patient in patients), path
    train = yaml.safe_load((line.bundle / "configs" / "train.yaml").read_text())
    assert (train["dataset_dir"], train["labels"], train["task"]["grid"]) == ("store", "labels.csv", list(GRID))


def test_a_path_anywhere_in_the_runs_config_is_left_out() -> None:
    config = {
        "cache": {"folder": "/home/anna/cache", "memory_mb": 4.0},
        "list": ["C:\\anna"],
        "e": "$1 / 2",
        "mode": "full",
    }
    cleaned = export.without_paths(config)
    assert cleaned == {"cache": {"folder": None, "memory_mb": 4.0}, "list": [None], "e": "$1 / 2", "mode": "full"}


def test_the_figures_of_an_evaluation_stand_in_card_and_metadata(run_copy: Path, tmp_path: Path) -> None:
    figure = {"value": 0.912, "low": 0.88, "high": 0.941}
    undefined = {"value": None, "low": None, "high": None}
    outputs = {"hemorrhage": {"n": 40, "positives": 17, "metrics": {"auc": figure, "sensitivity": undefined}}}
    (run_copy / "test").mkdir()
    weights = hashlib.sha256((run_copy / "model.pt").read_bytes()).hexdigest()
    figures = {"split": "test", "n_studies": 40, "n_patients": 31, "outputs": outputs, "model_sha256": weights}
    (run_copy / "test" / "metrics.json").write_text(json.dumps(figures))
    export_run(run_copy, tmp_path / "out")
    card = (tmp_path / "out" / "docs" / "README.md").read_text()
    assert "40 simulated studies of 31 test patients" in card
    assert "| hemorrhage | 17 of 40 | 0.912 (0.880–0.941) |" in card
    kept = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())["eval_metrics"]
    assert kept["outputs"] == {"hemorrhage": {"auc": figure}}


def test_without_the_store_nothing_is_claimed_of_the_training_data(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_copy / "config.yaml"
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(values | {"dataset_dir": str(tmp_path / "gone")}))
    (run_copy / "training.pt").unlink()
    export_run(run_copy, tmp_path / "out")
    assert "no ranges" in capsys.readouterr().err
    section = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())["volssl"]
    assert (section["training_ranges"], section["simulated_training_data"]) == (None, None)
    assert "not recorded" in (tmp_path / "out" / "docs" / "README.md").read_text().splitlines()[2]


def test_a_run_without_types_or_slices_is_exported_as_it_is(run_copy: Path, tmp_path: Path) -> None:
    config = run_copy / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values["task"] |= {"types": False, "slices": False}
    config.write_text(yaml.safe_dump(values))
    network = TaskNetwork(PaperDenseNet(), volume=1, types=0, slices=0)
    model = load_tensors(run_copy / "model.pt")
    save_tensors(run_copy / "model.pt", model | {"network": network.state_dict()})
    export_run(run_copy, tmp_path / "out")
    values = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())
    assert values["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "hemorrhage"}
    assert values["volssl"]["slices"] == 0


def test_a_run_that_answers_for_mirror_images_says_so_in_its_metadata(run_copy: Path, tmp_path: Path) -> None:
    config = run_copy / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"flips": True}))
    export_run(run_copy, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())["volssl"]["flips"] is True
    assert yaml.safe_load((tmp_path / "out" / "configs" / "inference.yaml").read_text())["flips"] is True


def test_a_folder_with_something_else_is_refused_and_left_alone(line: Line, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no bundle of volssl; name another folder"):
        export_run(line.run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_earlier_bundle_is_replaced_whole(line: Line, bundle_copy: Path) -> None:
    (bundle_copy / "docs" / "stale.txt").write_text("of the earlier bundle")
    written = export_run(line.run, bundle_copy)
    assert not (bundle_copy / "docs" / "stale.txt").exists()
    assert all(path.is_file() for path in written)
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["bundle"]


def test_a_bundle_that_answers_otherwise_than_the_run_is_not_put_in_place(
    line: Line, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (bundle_copy / "models" / "model.pt").read_bytes()

    def wrong_weights(path: Path, values: dict[str, torch.Tensor]) -> None:
        save_tensors(path, {key: value + 0.01 * value.is_floating_point() for key, value in values.items()})

    monkeypatch.setattr(export, "save_tensors", wrong_weights)
    with pytest.raises(UserError, match="differs from the run's"):
        export_run(line.run, bundle_copy)
    assert (bundle_copy / "models" / "model.pt").read_bytes() == before
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["bundle"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no fine-tuned run there"):
        export_run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_span_gives_the_lowest_and_highest_along_each_axis() -> None:
    values = [[1.0, 5.0, 3.0], [2.0, 4.0, 3.0]]
    assert ranges.span(values) == ((1.0, 2.0), (4.0, 5.0), (3.0, 3.0))


def test_the_figures_of_other_weights_are_not_taken(run_copy: Path, tmp_path: Path) -> None:
    (run_copy / "test").mkdir()
    stale = {"split": "test", "n_studies": 4, "n_patients": 3, "outputs": {}, "model_sha256": "0" * 64}
    (run_copy / "test" / "metrics.json").write_text(json.dumps(stale))
    assert packing.evaluation_of(run_copy, "model.pt") is None


def test_what_the_weights_began_as_is_told_by_method_and_not_by_path(run_copy: Path, tmp_path: Path) -> None:
    config, encoder = run_copy / "config.yaml", tmp_path / "anna" / "encoder.pt"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"encoder_path": str(encoder)}))
    gone = "The weights were fine-tuned from an encoder that was no longer at hand when the bundle was written."
    assert packing.beginning(run_copy) == gone
    contract = InputContract(modality="CT", window_hu=(55, 200), spacing_mm=(7, 7, 14), grid=(24, 28, 8))
    save_encoder(encoder, PaperDenseNet(), contract=contract, patients=[], method="SimCLR")
    assert packing.beginning(run_copy) == "The weights were fine-tuned from an encoder trained by `SimCLR`."
    assert (
        packing.beginning(run_copy, "SwAV") == "The weights were trained by `SwAV` from an encoder trained by `SimCLR`."
    )


@pytest.mark.parametrize("recipe", sorted(path.parents[1].name for path in RECIPES.glob("*/docs/README.md")))
def test_a_card_has_the_sections_of_the_zoo(recipe: str) -> None:
    card = (RECIPES / recipe / "docs" / "README.md").read_text()
    places = [card.index(f"## {name}\n") for name in SECTIONS]
    assert min(places) > 0
    cited = {int(number) for number in re.findall(r"\[(\d)\](?! [A-Z][a-z]+,)", card)}
    listed = {int(number) for number in re.findall(r"^\[(\d)\] ", card, re.MULTILINE)}
    assert cited == listed
    for command in ("torchrun", "verify_net_in_out", "ckpt_export", "onnx_export", "evaluate.yaml", "inference.yaml"):
        assert command in card
