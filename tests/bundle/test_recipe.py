"""`volssl export RUN --bundle bundles/NAME`: weights in the folder of a recipe, which stays one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.bundle.conftest import GRID, Line
from volssl.bundle.card import looked_at, seen, stripped
from volssl.bundle.config import read_config
from volssl.bundle.export import export_run
from volssl.bundle.metadata import read_facts
from volssl.bundle.predict import predict_studies
from volssl.bundle.recipe import deviations, is_recipe
from volssl.bundle.runs import load_run
from volssl.bundle.shipped import PRETRAINING, bundle_folder, train_configs, training_files
from volssl.bundle.verify import check_bundle
from volssl.bundle.weights import refuse_other_input
from volssl.contract import InputContract
from volssl.encoders import PaperDenseNet, save_encoder
from volssl.errors import UserError
from volssl.files import write_text
from volssl.tasks import Hemorrhage
from volssl.tensors import load_tensors

NAME = "head_ct_hemorrhage_classification"
KEPT = (
    "LICENSE",
    "configs/train.yaml",
    "configs/evaluate.yaml",
    "configs/logging.conf",
    "configs/presets/train_frozen.yaml",
)


@pytest.fixture(scope="module")
def filled(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with weights, put there twice: the second time over the first."""
    folder: Path = shutil.copytree(bundle_folder(NAME), tmp_path_factory.mktemp("recipe") / NAME)
    export_run(line.run, folder, formats=["torchscript"])
    export_run(line.run, folder)
    return folder


def test_the_recipe_answers_as_the_exported_bundle_does(line: Line, filled: Path, tmp_path: Path) -> None:
    (ours,) = predict_studies(filled, line.volumes[:1], tmp_path / "ours")
    (theirs,) = predict_studies(line.bundle, line.volumes[:1], tmp_path / "theirs")
    assert ours.content["volume"] == theirs.content["volume"]


def test_train_configs_and_licence_of_the_recipe_stay_as_they_are(filled: Path) -> None:
    for name in KEPT:
        assert (filled / name).read_bytes() == (bundle_folder(NAME) / name).read_bytes(), name
    assert [path.name for path in filled.parent.iterdir()] == [NAME]
    assert not (filled / "models" / "model.ts").exists()  # of the first time, and not asked for in the second


def test_the_preset_beside_the_recipe_is_what_the_weights_were_trained_with(line: Line, filled: Path) -> None:
    preset = filled / "configs" / "presets" / "train_shipped.yaml"
    assert set(read_config(preset)) == {"max_epochs", "batch_size", "task::grid"} | (
        {"encoder_path"} & set(read_config(preset))
    )
    both = read_config([filled / "configs" / "train.yaml", preset])
    run = read_config(line.run / "config.yaml")
    assert (both["max_epochs"], both["batch_size"], both["task"]["grid"]) == (1, 4, list(GRID))
    assert {key for key in run if run[key] != both[key]} == {"dataset_dir", "labels", "output_dir"}


def test_the_card_says_whose_weights_these_are_and_can_be_filled_in_again(filled: Path) -> None:
    card = (filled / "docs" / "README.md").read_text()
    assert is_recipe(filled)
    assert card.count("**Trained on simulated data**") == 2  # of the status and of the data
    assert card.count("Other formats") == 0
    values = json.loads((filled / "configs" / "metadata.json").read_text())
    assert values["network_data_format"]["inputs"]["image"]["spatial_shape"] == list(GRID)
    assert values["volssl"]["simulated_training_data"] is True


def test_a_task_that_feeds_the_weights_otherwise_is_refused_before_it_is_evaluated(filled: Path) -> None:
    weights = filled / "models" / "model.pt"
    refuse_other_input(weights, Hemorrhage(grid=GRID))
    with pytest.raises(
        UserError, match=r"trained with .*grid \[32, 36, 12\], not \[192, 224, 40\]; lay configs/presets"
    ):
        refuse_other_input(weights, Hemorrhage())


def test_a_run_of_another_task_is_refused_and_leaves_the_recipe_alone(line: Line, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle_folder("volume_pretraining"), tmp_path / "volume_pretraining")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(UserError, match="is the recipe of Volume pretraining, the run is of Head CT hemorrhage"):
        export_run(line.run, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


def test_an_encoder_fills_the_recipe_of_its_method(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "volume_pretraining"
    shutil.copytree(bundle_folder("volume_pretraining"), folder)
    contract = InputContract(modality="CT", window_hu=(55, 200), spacing_mm=(7, 7, 14), grid=(24, 28, 8))
    save_encoder(run / "encoder.pt", PaperDenseNet(), contract=contract, patients=["a" * 24], method="SimCLR")
    configs = folder / "configs"
    values = read_config([configs / "base.yaml", configs / "simclr.yaml"])
    values |= {"crop_size": [24, 28, 8], "dataset_dir": str(tmp_path / "gone")}
    write_text(run / "config.yaml", json.dumps(values))
    export_run(run, folder)
    presets = [path.name for path in (configs / "presets").glob("*_shipped.yaml")]
    assert presets == ["simclr_shipped.yaml"]
    assert read_config(configs / "presets" / presets[0]) == {"crop_size": [24, 28, 8]}
    trained = read_config(configs / "train.yaml")
    places = {"dataset_dir": "store", "encoder_path": "", "resume": False}
    assert trained == values | places
    assert "train.yaml" not in [path.name for path in training_files(folder)]
    export_run(run, folder)  # over the first, whose train.yaml is none of the methods
    assert [path.name for path in (configs / "presets").glob("*_shipped.yaml")] == presets
    assert check_bundle(folder).facts.dim == 1024
    assert str(tmp_path) not in "".join(path.read_text() for path in configs.rglob("*.*"))


def test_deviations_are_the_values_that_differ_at_any_depth() -> None:
    shipped = {"a": 1, "b": {"c": 2, "d": {"e": [1, 2]}}, "g": 3}
    config = {"a": 1, "b": {"c": 2, "d": {"e": [1, 3], "f": 4}}, "g": {"h": 5}}
    assert deviations(config, shipped) == {"b::d::e": [1, 3], "b::d::f": 4, "g": {"h": 5}}


def test_the_weights_are_the_runs(line: Line, filled: Path) -> None:
    state = torch.load(filled / "models" / "model.pt", weights_only=True)
    trained = load_tensors(line.run / "model.pt")["network"]
    assert all(torch.equal(state[key], trained[key]) for key in trained)
    assert load_run(line.run).network.state_dict().keys() == state.keys()


def test_the_train_config_beside_those_of_methods_is_that_of_the_shipped_weights() -> None:
    configs = bundle_folder(PRETRAINING) / "configs"
    (preset,) = (configs / "presets").glob("*_shipped.yaml")
    method = preset.stem.removesuffix("_shipped")
    assert method in train_configs(PRETRAINING)
    assert read_config(configs / "train.yaml") == read_config(
        [configs / "base.yaml", configs / f"{method}.yaml", preset]
    )
    assert "train" not in train_configs(PRETRAINING)


def test_a_bundle_that_learnt_from_stripped_brains_says_so_wherever_its_input_is_told() -> None:
    folder = bundle_folder("brain_mr_metastasis_classification")
    card = (folder / "docs" / "README.md").read_text()
    preprocessing = card[card.index("## Preprocessing") : card.index("## Input and output")]
    assert "**These weights were trained on skull-stripped brains: strip a study of its skull before" in preprocessing
    assert "The 240 skull-stripped volumes of this training" in card
    assert "Input: one channel of MR of skull-stripped brains, percentiles" in card
    told = json.loads((folder / "configs" / "metadata.json").read_text())["image_classes"]
    assert told == (
        "one channel of MR of skull-stripped brains, percentiles .5 and 99.5 mapped to [0, 1]; strip a study of its "
        "skull first"
    )


def test_what_is_not_known_to_be_stripped_is_not_called_so() -> None:
    facts = read_facts(bundle_folder("brain_mr_metastasis_classification"))
    assert stripped(facts)
    assert facts.ranges is not None
    whole = replace(facts.ranges, values=facts.ranges.values | {"median": (0.23, 0.33, 0.02)})
    others = [
        replace(facts, ranges=whole),
        replace(facts, simulated=False),
        replace(facts, simulated=None, ranges=None),
        replace(facts, task="classification"),
    ]
    assert [stripped(other) for other in others] == [False] * 4
    assert not any("skull" in looked_at(other) + seen(other) for other in others)
