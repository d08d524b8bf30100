"""What cards say: lines for stock MONAI, right for their folder and run as they are; thresholds; logits; installing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bundle.conftest import Line
from volssl.bundle.card import behind, figure_table, shortened, training
from volssl.bundle.metadata import read_facts
from volssl.bundle.shipped import bundle_folder

HEAD, BRAIN, ENCODER, OWN = (
    "head_ct_hemorrhage_classification",
    "brain_mr_metastasis_classification",
    "volume_pretraining",
    "volume_classification",
)
SMALL = "--max_epochs=1 --batch_size=4 --workers=0"
CONFIGS = {
    HEAD: ["train.yaml", "presets/train_shipped.yaml"],
    BRAIN: ["base.yaml", "train.yaml", "presets/train_shipped.yaml"],
    ENCODER: ["train.yaml"],
    OWN: ["train.yaml"],
}


def printed(card: Path) -> list[str]:
    """The commands that train and score."""
    text = card.read_text().replace("\\\n", "")
    return [line for line in text.splitlines() if line.startswith("python -m monai.bundle run --bundle_root")]


def configs_of(command: str) -> list[str]:
    """The configs that a command lays over each other."""
    return re.findall(r"BUNDLE/configs/([\w/]+\.yaml)", command)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_card_trains_with_what_trained_and_scores_what_came_out(name: str) -> None:
    folder = bundle_folder(name)
    train, evaluate = printed(folder / "docs" / "README.md")
    assert configs_of(train) == CONFIGS[name]
    assert configs_of(evaluate) == [*CONFIGS[name], "evaluate.yaml"]
    assert all((folder / "configs" / file).is_file() for file in configs_of(evaluate))
    (run,) = re.findall(r"--output_dir=(\S+)", train)
    assert f"--weights={run}/{'encoder.pt' if name == ENCODER else 'model.pt'}" in evaluate
    assert ("--labels=" in train) is (name != ENCODER)
    assert "Where there is a" not in (folder / "docs" / "README.md").read_text()


@pytest.mark.parametrize("name", [HEAD, BRAIN, ENCODER])
def test_the_lines_of_a_shipped_card_are_those_that_export_writes(name: str) -> None:
    facts = read_facts(bundle_folder(name))
    lines = training(CONFIGS[name], facts, labels=name != ENCODER, methods=name == ENCODER)
    assert f"<!-- training -->\n{lines}\n<!-- /training -->" in (bundle_folder(name) / "docs" / "README.md").read_text()


def test_an_exported_card_trains_with_the_one_config_that_is_there(line: Line) -> None:
    train, evaluate = printed(line.bundle / "docs" / "README.md")
    assert (configs_of(train), configs_of(evaluate)) == (["train.yaml"], ["train.yaml", "evaluate.yaml"])
    assert "--weights=runs/hemorrhage/model.pt" in evaluate
    assert "presets" not in (line.bundle / "docs" / "README.md").read_text()


def run_printed(bundle: Path, store: Path, labels: Path, work: Path, *, words: str, column: str = "hemorrhage") -> None:
    """Run the lines of a card in a folder; the figures of what was trained are there in the end."""
    places = {"BUNDLE": bundle, "STORE": store, "LABELS.csv": labels, "COLUMN": column}
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in printed(bundle / "docs" / "README.md"):
        line = re.sub("|".join(places), lambda found: str(places[found[0]]), f"{command} {words}")
        done = subprocess.run(["bash", "-c", line], cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((work / "evaluation" / "metrics.json").read_text())
    assert metrics["n_studies"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_lines_of_a_shipped_card_run(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    kind = "brain_" if name == BRAIN else ""
    store, cohort = (request.getfixturevalue(f"{kind}{part}") for part in ("store", "cohort"))
    more = {
        BRAIN: " --suspect_epochs=1 --scored=4",
        OWN: " --task::grid='[32, 32, 16]' --task::spacing_mm='[7.0, 7.0, 12.0]'",
    }
    words = f"{SMALL}{more.get(name, '')}"
    run_printed(bundle_folder(name), store, cohort / "labels.csv", tmp_path, words=words)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["head", "brain", "encoder"])
def test_the_lines_of_an_exported_card_run(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "head":
        line: Line = request.getfixturevalue("line")
        places = (line.bundle, line.store, line.cohort)
    else:
        names = {
            "brain": ("brain_bundle", "brain_store", "brain_cohort"),
            "encoder": ("swav_bundle", "store", "cohort"),
        }
        places = tuple(request.getfixturevalue(name) for name in names[kind])
    bundle, store, cohort = places
    run_printed(bundle, store, cohort / "labels.csv", tmp_path, words="--max_epochs=1 --workers=0")


def test_the_threshold_stands_beside_its_figures_and_on_whose_cases_it_was_chosen() -> None:
    figure = {"value": 0.8, "low": 0.7, "high": 0.9}
    point = {"rule": "sensitivity and specificity are equal", "threshold": 0.3388, "chosen_on": "validation", "tp": 7}
    known = {"n": 20, "positives": 9, "metrics": {"auc": figure, "sensitivity": figure}}
    output = known | {"operating_points": {"equal": point, "sensitivity_80": point | {"threshold": 0.1}}}
    other = known | {"operating_points": {"equal": point | {"chosen_on": "the evaluated cases themselves"}}}
    figures = {"split": "test", "n_studies": 20, "n_patients": 15, "outputs": {"a": output, "b": known}}
    facts = read_facts(bundle_folder(HEAD))
    table = figure_table(figures, facts)
    assert "at which both are equal on validation patients." in table
    assert "| output | positives | AUC | sensitivity | threshold |\n|---|---|---|---|---|\n" in table
    assert "| a | 9 of 20 | 0.800 (0.700–0.900) | 0.800 (0.700–0.900) | 0.339 |" in table
    assert table.endswith("| 0.800 (0.700–0.900) | – |")
    assert shortened(figures)["outputs"]["a"]["threshold"] == {
        "value": 0.3388,
        "rule": "sensitivity and specificity are equal",
        "chosen_on": "validation",
    }
    assert "threshold" not in shortened(figures)["outputs"]["b"]
    assert "validation patients; of b on these patients themselves, which flatters." in figure_table(
        figures | {"outputs": {"a": output, "b": other}}, facts
    )
    without = figure_table(figures | {"outputs": {"b": known}}, replace(facts, simulated=None))
    assert "threshold" not in without


@pytest.mark.parametrize("name", [HEAD, BRAIN])
def test_the_thresholds_of_the_shipped_figures_are_in_card_and_metadata(name: str) -> None:
    metrics = json.loads((bundle_folder(name) / "configs" / "metadata.json").read_text())["eval_metrics"]["outputs"]
    card = (bundle_folder(name) / "docs" / "README.md").read_text()
    for output, figures in metrics.items():
        assert figures["threshold"]["chosen_on"] == "validation"
        assert re.search(rf"^\| {output} \|.* \| {figures['threshold']['value']:.3f} \|$", card, re.MULTILINE)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [([], "a sigmoid"), (["binary", "binary"], "a sigmoid"), (["binary", "ordinal"], "`postprocessing`")],
)
def test_what_stands_behind_logits_is_a_sigmoid_only_where_all_is_yes_or_no(kinds: list[str], said: str) -> None:
    assert said in behind({"kinds": kinds})
    assert ("sigmoid" in behind({"kinds": kinds})) is (said == "a sigmoid")


@pytest.mark.parametrize("name", [HEAD, BRAIN, OWN])
def test_metadata_call_the_networks_output_logits_and_the_answers_probabilities(name: str) -> None:
    data = json.loads((bundle_folder(name) / "configs" / "metadata.json").read_text())["network_data_format"]
    raw, answer = data["outputs"]["pred"], data["post_processed_outputs"]["pred"]
    assert (raw["type"], raw["value_range"]) == ("logits", [])
    assert (answer["type"], answer["value_range"]) == ("probabilities", [0, 1])
    assert (answer["num_channels"], answer["channel_def"]) == (raw["num_channels"], raw["channel_def"])


def test_cards_say_how_volssl_is_installed_as_the_readme_does() -> None:
    command = "pip install -c constraints.txt ."
    root = Path(__file__).resolve().parents[2]
    assert command in (root / "README.md").read_text()
    for name in CONFIGS:
        assert f"`{command}`" in "\n".join((bundle_folder(name) / "docs" / "README.md").read_text().splitlines()[:9])
