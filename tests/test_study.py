"""The scripts of examples/study/, from end to end on tiny cohorts, and the table of the paper's rows."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.metrics import recall_score, roc_auc_score

from tests.jobs import RUN_PART, run_here
from volssl.bundle.config import bundle_config, parse_overrides, read_config, resolved
from volssl.bundle.predict import predict_studies
from volssl.bundle.recipe import is_recipe
from volssl.bundle.verify import check_bundle
from volssl.simulate.lesions import TYPES

ROOT = Path(__file__).resolve().parents[1]
STUDY, BUNDLES = ROOT / "examples" / "study", ROOT / "bundles"
COHORTS = "--unlabelled 4 --labelled 12 --validation 12 --test 12"
SHORT = "--pretraining-epochs 1 --epochs 1 --pretraining batch_size=4 workers=0"
RUNS = "--arms combined --fractions 0.5 1 --seeds 1 --cases 2 --workers 1"
HEADS = f"{COHORTS} {RUNS} --draws 1 --every 1 --grid 24 28 10 --small-grid 16 16 4 --simulated 6 9 --spacing 7 7 14"
HEADS += f" {SHORT} method::parts::swav::prototypes=6 --finetuning batch_size=4"
BRAINS = f"{COHORTS} {RUNS} --draws 0 --grid 32 32 16 --crop 24 28 8 --small-crop 16 16 4 --simulated 6 9"
BRAINS += f" --spacing 6 6 10 --scored 4 --suspect-epochs 1 --suspect-crop 16 16 8 {SHORT}"
BRAINS += " method::parts::swav::prototypes=6 --finetuning batch_size=4"

ARMS = ("scratch", "combined", "intensity rule")


@pytest.fixture(scope="module")
def study() -> Any:
    """Imports a script as the scripts import each other; the jobs of its comparison run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(STUDY)
        patch.setattr(RUN_PART, run_here)
        yield importlib.import_module


@pytest.fixture(scope="module")
def heads(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("study") / "heads"
    study("hemorrhage").main(["--out", str(out), *HEADS.split()])
    return out


@pytest.fixture(scope="module")
def brains(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("study") / "brains"
    study("metastasis").main(["--out", str(out), *BRAINS.split()])
    return out


@pytest.fixture
def nothing_more(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever trains, evaluates or prepares fails."""

    def refused(*given: object, **named: object) -> None:
        raise AssertionError("this was done already")

    for place in ("hemorrhage.pretrain", "hemorrhage.prepare", "metastasis.finetune"):
        name, function = place.split(".")
        monkeypatch.setattr(study(name), function, refused)
    monkeypatch.setattr(RUN_PART, refused)


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_comparison(folder: Path, outputs: tuple[str, ...]) -> None:
    """A row for every arm, share and output, and AUCs of the first output within their bounds."""
    results, summary = pd.read_parquet(folder / "results.parquet"), pd.read_csv(folder / "summary.csv")
    wanted = {(arm, share, output) for arm in ARMS for share in (0.5, 1.0) for output in outputs}
    for table in (results, summary):
        assert set(zip(table["encoder"], table["fraction"], table["output"], strict=True)) == wanted
        assert len(table) == len(wanted)
        main = table[table["output"] == outputs[0]]
        assert ((main["auc_low"] <= main["auc"]) & (main["auc"] <= main["auc_high"])).all()


@pytest.mark.slow
def test_the_study_of_hemorrhage_fills_its_tables(heads: Path) -> None:
    check_comparison(heads / "comparison", ("hemorrhage", *TYPES, "slices"))
    table = pd.read_csv(heads / "table5.csv")
    assert [row.split()[0] for row in table["row"]] == ["1", "2", "3", "4", "intensity"]
    assert table["row"].iloc[3] == "4  + combined"
    for name in ("auc", "sensitivity", "specificity"):
        assert table[[f"{name}_low", name, f"{name}_high"]].apply(lambda row: row.is_monotonic_increasing, axis=1).all()
        assert table[name].between(0, 1).all()
    gains = table["to_row_before"].to_numpy()
    assert np.allclose(gains[1:4], np.diff(table["auc"])[:3])
    assert np.isnan(gains[[0, 4]]).all()


@pytest.mark.slow
def test_the_study_of_hemorrhage_does_nothing_twice(study: Any, heads: Path, nothing_more: None) -> None:
    before = hashes(heads)
    study("hemorrhage").main(["--out", str(heads), *HEADS.split()])
    assert hashes(heads) == before


@pytest.mark.slow
def test_the_study_of_metastasis_fills_its_tables(brains: Path) -> None:
    check_comparison(brains / "comparison", ("metastasis", "slices"))


@pytest.mark.slow
def test_the_study_of_metastasis_does_nothing_twice(study: Any, brains: Path, nothing_more: None) -> None:
    before = hashes(brains)
    study("metastasis").main(["--out", str(brains), *BRAINS.split()])
    assert hashes(brains) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "words", "filled"),
    [
        ("hemorrhage", HEADS, {"volume_pretraining": "CT", "head_ct_hemorrhage_classification": "CT"}),
        ("metastasis", BRAINS, {"brain_mr_metastasis_classification": "MR"}),
    ],
)
def test_weights_fill_the_recipes_that_are_named(
    study: Any, request: pytest.FixtureRequest, tmp_path: Path, task: str, words: str, filled: dict[str, str]
) -> None:
    out: Path = request.getfixturevalue("heads" if task == "hemorrhage" else "brains")
    bundles, shipped = tmp_path / "bundles", hashes(BUNDLES)
    shutil.copytree(BUNDLES, bundles)
    pretrained = hashes(out / "pretraining" / "combined")
    given = [f"--{task}", str(out), f"--{task}-options", words, "--bundles", str(bundles)]
    study("weights").main(given)
    again = hashes(out / "pretraining" / "combined")
    assert again.items() >= pretrained.items()  # and beside it what the encoder's features were scored at
    assert hashes(BUNDLES) == shipped
    for name, modality in filled.items():
        assert is_recipe(bundles / name)
        assert check_bundle(bundles / name).facts.contract.modality == modality
        card = (bundles / name / "docs" / "README.md").read_text()
        assert "Trained on simulated data" in card
        volume = min((out / "test" / "volumes").glob("*.nii.gz"))
        (answer,) = predict_studies(bundles / name, [volume], tmp_path / name)
        assert answer.content is not None
    changed = {name.split("/")[0] for name, digest in hashes(bundles).items() if shipped.get(name) != digest}
    assert changed == set(filled)


@pytest.mark.parametrize("name", ["SimCLR", "SwAV-med", "SwAV-paper", "SwAV", "restoration", "combined"])
def test_what_an_arm_states_is_known_to_its_config(study: Any, name: str) -> None:
    script: ModuleType = study("hemorrhage")
    method, preset, stated = script.ARMS[name]
    config = read_config(bundle_config("volume_pretraining", method, preset=preset))
    words = [*script.look(script.options().parse_args(["--out", "x"])), *stated]
    values = resolved(config, parse_overrides(config, words))
    assert (values["crop_size"], values["small_crop_size"]) == ([48, 56, 20], [32, 38, 14])


def written(run: Path, y: list[int], scores: list[float], patients: list[str], threshold: float) -> None:
    """The predictions of a job on the test patients, and the point that validation chose."""
    run.mkdir(parents=True)
    ids = [f"{k:03d}" for k in range(len(y))]
    table = pd.DataFrame({"id": ids, "patient": patients, "y_hemorrhage": y, "p_hemorrhage": scores})
    table.sample(frac=1, random_state=0).to_parquet(run / "test.parquet")
    points = {"equal": {"threshold": threshold}, "sensitivity_80": {"threshold": 0.0}}
    figures = {"outputs": {"hemorrhage": {"operating_points": points}}}
    (run / "test_metrics.json").write_text(json.dumps(figures))


def test_table_5_has_means_of_the_repeats_at_their_own_thresholds(study: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat([f"P{k}" for k in range(40)], 3).tolist()  # each with two positive studies and a negative one
    y = [1, 1, 0] * 40
    whole, first = tmp_path / "whole", tmp_path / "first"
    drawn = {}
    for folder, encoder, repeats in ((first, "scratch", 2), (whole, "scratch", 2), (whole, "swav-med", 2)):
        for repeat in range(repeats):
            score = np.clip(np.repeat(rng.normal(0.5, 0.2, 40), 3) + 0.1 * np.array(y), 0, 1).tolist()
            drawn[folder.name, encoder, repeat] = score, 0.5 + 0.1 * repeat
            written(folder / "runs" / f"{encoder}-full-1-{repeat}", y, score, patients, 0.5 + 0.1 * repeat)
    written(whole / "runs" / "scratch-full-0.5-0", y, [0.5] * 120, patients, 0.5)  # of another share: not looked at
    written(whole / "runs" / "worse-full-1-0", y, [0.5] * 120, patients, 0.5)
    aucs = {"scratch": 0.9, "worse": 0.6, "SwAV-med": 0.7}
    rows = [{"encoder": name, "mode": "full", "validation_auc": auc} for name, auc in aucs.items()]
    pd.DataFrame(rows).assign(fraction=1.0, output="hemorrhage").to_csv(whole / "summary.csv", index=False)
    rule = {f"{name}{end}": 0.5 for name in ("auc", "sensitivity", "specificity") for end in ("", "_low", "_high")}
    rules = [{"encoder": "intensity rule", "fraction": share, "output": "hemorrhage", **rule} for share in (0.1, 1.0)]
    rules[1] |= {"auc": 0.55, "specificity_high": 0.6}
    pd.DataFrame(rules).to_csv(whole / "results.csv", index=False)

    table = study("hemorrhage").table5({"1  3D": first, "3  + slices": whole}, "test")

    assert table["row"].tolist() == ["1  3D", "3  + slices", "4  + SwAV-med", "intensity rule"]
    models = [("first", "scratch"), ("whole", "scratch"), ("whole", "swav-med")]
    for (_, row), key in zip(table.iterrows(), models, strict=False):
        repeats = [drawn[*key, repeat] for repeat in range(2)]
        called = [np.array(score) >= threshold for score, threshold in repeats]
        assert row["auc"] == pytest.approx(np.mean([roc_auc_score(y, score) for score, _ in repeats]))
        assert row["sensitivity"] == pytest.approx(np.mean([recall_score(y, c) for c in called]))
        assert row["specificity"] == pytest.approx(np.mean([recall_score(y, c, pos_label=0) for c in called]))
        assert row["auc_low"] < row["auc"] < row["auc_high"]
    assert table["to_row_before"].iloc[1:3].to_numpy() == pytest.approx(np.diff(table["auc"])[:2])
    assert table[["to_row_before"]].iloc[[0, 3]].isna().all(axis=None)
    assert table.iloc[3][["auc", "specificity_high", "sensitivity"]].tolist() == [0.55, 0.6, 0.5]


def test_intervals_of_table_5_are_of_patients_not_of_studies(study: Any, tmp_path: Path) -> None:
    """Each of 50 patients has four positive studies scored alike: of 50 drawn, those found are binomial."""
    whole = tmp_path / "whole"
    y, patients = [1, 1, 1, 1, 0] * 50, np.repeat([f"P{k}" for k in range(50)], 5).tolist()
    scores = [0.9 if k < 30 else 0.1 for k in range(50) for _ in range(5)]  # 30 of 50 are called positive throughout
    for encoder in ("scratch", "swav"):
        written(whole / "runs" / f"{encoder}-full-1-0", y, scores, patients, 0.5)
    summary = {"encoder": "SwAV", "mode": "full", "validation_auc": 0.7, "fraction": 1.0, "output": "hemorrhage"}
    pd.DataFrame([summary]).to_csv(whole / "summary.csv", index=False)
    pd.DataFrame([{"encoder": "intensity rule", "fraction": 1.0, "output": "hemorrhage"}]).to_csv(
        whole / "results.csv", index=False
    )
    row = study("hemorrhage").table5({"3  + slices": whole}, "test").iloc[0]
    assert (row["sensitivity"], row["specificity"]) == (0.6, 0.4)
    bounds = binom.ppf([0.025, 0.975], 50, 0.6) / 50
    assert [row["sensitivity_low"], row["sensitivity_high"]] == pytest.approx(bounds, abs=0.021)
    assert [row["specificity_low"], row["specificity_high"]] == pytest.approx(1 - bounds[::-1], abs=0.021)
