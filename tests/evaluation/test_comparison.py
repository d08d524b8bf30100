"""The tables and the page of a comparison, from invented predictions of models whose worth is known."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from tests.pages import CHROMIUM, Elements, opened_in_a_browser
from volssl.evaluation.comparison import (
    RULE,
    Group,
    convergence_table,
    interval_of,
    pooled,
    robustness_table,
    summarise,
)
from volssl.evaluation.comparison_figures import robustness_figure
from volssl.evaluation.comparison_page import Found, headline, write_comparison_page
from volssl.evaluation.convergence import Course
from volssl.evaluation.delong import delong_test
from volssl.evaluation.examples import worked_examples

FRACTIONS = {0.1: 12, 1.0: 120}
PERTURBED = ("Gamma", "Rotation")


def table(strength: float, seed: int, patients: int = 60) -> pd.DataFrame:
    """Two studies a patient; scores tell positives apart the better the stronger; the labels are always the same."""
    y = (np.arange(2 * patients) % 3 == 0).astype(float)
    score = np.random.default_rng(seed).normal(strength * y)
    ids = [f"{i:04d}" for i in range(2 * patients)]
    return pd.DataFrame(
        {
            "id": ids,
            "patient": [f"p{i // 2}" for i in range(2 * patients)],
            "y_bleed": y,
            "p_bleed": 1 / (1 + np.exp(-score)),
            "y_epidural": np.where(np.arange(2 * patients) % 2, y, np.nan),
            "p_epidural": 1 / (1 + np.exp(-score / 2)),
        }
    )


def groups() -> list[Group]:
    strengths = {("scratch", 0.1): 0.3, ("swav", 0.1): 1.8, ("scratch", 1.0): 1.5, ("swav", 1.0): 1.55}
    seeds = {("swav", 1.0): (11, 12)}  # other noise, so that a small difference is not clear
    made = [
        Group(
            *(name, "full", fraction, FRACTIONS[fraction]),
            [table(strength, seed) for seed in seeds.get((name, fraction), (1, 2))],
            0.6 + strength / 10,
        )
        for (name, fraction), strength in strengths.items()
    ]
    return made + [Group(RULE, RULE, f, n, [table(0.5, 7), table(0.5, 8)]) for f, n in FRACTIONS.items()]


def courses() -> dict[str, list[Course]]:
    epochs = np.arange(1.0, 11)
    slow, fast = 0.5 + 0.03 * epochs, np.minimum(0.5 + 0.1 * epochs, 0.82)
    return {
        "scratch": [Course(epochs, slow), Course(epochs, slow)],
        "swav": [Course(epochs, fast), Course(epochs, fast)],
    }


def answers(spread: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "case": c,
            "perturbation": way,
            "before": 0.3 + 0.1 * c,
            "after": 0.3 + 0.1 * c + spread * rng.normal(),
            "y": c % 2,
        }
        for way in PERTURBED
        for c in range(4)
        for _ in range(20)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def found() -> Found:
    changed = {"scratch": [answers(0.1)], "swav": [answers(0.02)]}
    return Found(
        summary=summarise(groups(), ["bleed", "epidural"], reference="scratch", resamples=200),
        output="bleed",
        reference="scratch",
        courses={"full": courses()},
        convergence={"full": convergence_table(courses(), "scratch")},
        answers={"full": changed},
        robustness={"full": robustness_table(changed)},
    )


@pytest.fixture
def page(found: Found, tmp_path: Path) -> Path:
    told = {
        "title": "Did it help?",
        "facts": {"Split": "test"},
        "equal": ["Budget: 5 steps."],
        "notes": ["Opened once."],
    }
    return write_comparison_page(tmp_path, found, simulated="These scans are simulated.", **told)


def row(found: Found, encoder: str, fraction: float, output: str = "bleed") -> dict[str, float]:
    summary = found.summary
    chosen = summary[
        (summary["encoder"] == encoder) & (summary["fraction"] == fraction) & (summary["output"] == output)
    ]
    assert len(chosen) == 1
    return dict(chosen.iloc[0])


def test_delongs_test_stands_beside_the_bootstrap_where_each_patient_has_one_case() -> None:
    made = groups()
    summary = summarise(made, ["bleed"], reference="scratch", resamples=20)
    assert summary["to_reference_delong_p"].isna().all()  # two studies a patient: not independent
    alone = [replace(group, tables=[one.assign(patient=one["id"]) for one in group.tables]) for group in made]
    summary = summarise(alone, ["bleed"], reference="scratch", resamples=20).set_index(["encoder", "fraction"])
    of = {(group.encoder, group.fraction): pooled(group.tables, "bleed") for group in alone}
    for fraction in FRACTIONS:
        y, mine, _ = of["swav", fraction]
        for name, other in (("to_reference", "scratch"), ("to_rule", RULE)):
            expected = delong_test(y, mine, of[other, fraction][1]).p
            assert summary.loc[("swav", fraction), f"{name}_delong_p"] == pytest.approx(expected)
    assert math.isnan(summary.loc[("scratch", 0.1), "to_reference_delong_p"])
    assert (
        summary.loc[("swav", 0.1), "to_reference_delong_p"]
        < 0.001
        < summary.loc[("swav", 1.0), "to_reference_delong_p"]
    )


def test_the_figure_of_several_repeats_is_the_mean_of_theirs(found: Found) -> None:
    areas = [roc_auc_score(t["y_bleed"], t["p_bleed"]) for t in (table(1.8, 1), table(1.8, 2))]
    assert row(found, "swav", 0.1)["auc"] == pytest.approx(np.mean(areas))
    assert row(found, "swav", 0.1)["auc_sd"] == pytest.approx(np.std(areas, ddof=1))
    assert row(found, "swav", 0.1)["n_patients"] == 60


def test_cases_without_a_label_are_left_out(found: Found) -> None:
    one = table(1.8, 1).dropna()
    two = table(1.8, 2).dropna()
    areas = [roc_auc_score(t["y_epidural"], t["p_epidural"]) for t in (one, two)]
    assert row(found, "swav", 0.1, "epidural")["auc"] == pytest.approx(np.mean(areas))
    assert row(found, "swav", 0.1, "epidural")["n"] == 60


def test_a_difference_is_taken_to_scratch_with_as_many_labels(found: Found) -> None:
    for fraction in FRACTIONS:
        mine, theirs = row(found, "swav", fraction), row(found, "scratch", fraction)
        assert mine["to_reference"] == pytest.approx(mine["auc"] - theirs["auc"])
        assert mine["to_rule"] == pytest.approx(mine["auc"] - row(found, RULE, fraction)["auc"])
    few = interval_of(row(found, "swav", 0.1), "to_reference")
    many = interval_of(row(found, "swav", 1.0), "to_reference")
    assert few is not None
    assert many is not None
    assert (few.clear_of_zero, many.clear_of_zero) == (True, False)
    assert math.isnan(row(found, "scratch", 0.1)["to_reference"])


def test_the_order_of_a_table_does_not_matter_and_other_cases_are_refused() -> None:
    y, scores, patients = pooled([table(1, 1), table(1, 2).sample(frac=1, random_state=0)], "bleed")
    assert scores[:, 1] == pytest.approx(table(1, 2)["p_bleed"])
    assert len(y) == len(patients) == 120
    with pytest.raises(ValueError, match="different cases"):
        pooled([table(1, 1), table(1, 2, patients=50)], "bleed")


def test_the_table_of_convergence_holds_the_papers_measure(found: Found) -> None:
    rows = found.convergence["full"].set_index("encoder")
    # scratch: 98 % of .80 is .784, epoch 10 (.77 at 9); swav: 98 % of .82 is .8036, epoch 4; .80 at epoch 3
    assert rows["epochs_to_98_percent"].to_dict() == {"scratch": 10, "swav": 4}
    assert rows.loc["swav", "saved_percent"] == pytest.approx(60)
    assert rows.loc["swav", "epochs_to_reference_best"] == 3
    assert rows.loc["swav", "saved_to_reference_best_percent"] == pytest.approx(70)


def test_a_smaller_spread_shows_in_the_table_of_robustness(found: Found) -> None:
    rows = found.robustness["full"].set_index(["encoder", "perturbation"])
    width = rows["change_p75"] - rows["change_p25"]
    for way in PERTURBED:
        assert width["scratch", way] == pytest.approx(5 * width["swav", way])  # the same draws, five times as far
    changed = answers(0.1)
    gamma = changed[changed["perturbation"] == "Gamma"]
    assert rows.loc[("scratch", "Gamma"), "change_p50"] == pytest.approx(
        np.median(100 * (gamma["after"] / gamma["before"] - 1))
    )


def test_the_headline_names_the_model_that_validation_favours(found: Found) -> None:
    told = headline(found)
    assert [name for name, _, _ in told] == [
        "AUC gained by swav at 10 % of labels",
        "AUC gained by swav at 100 % of labels",
        "Fewer epochs to scratch’s best, swav",
    ]
    assert told[2][1:] == ("70 %", "reached by 2 of 2 repeats")
    assert told[0][2].endswith(", clear of zero")
    assert told[1][2].endswith(", not clear of zero")


def test_the_page_shows_the_numbers_and_is_whole(page: Path, found: Found) -> None:
    elements = Elements(page)
    for encoder in ("scratch", "swav", RULE):
        for fraction in FRACTIONS:
            figures = row(found, encoder, fraction)
            assert f"{figures['auc']:.3f} {figures['auc_low']:.3f} to {figures['auc_high']:.3f}" in elements.text
    assert "These scans are simulated." in elements.text
    assert "Opened once." in elements.text
    assert "scratch at 10 %" in re.findall(r"No evidence: .* beyond chance", elements.text)[0]
    assert "swav at 10 %" not in re.findall(r"No evidence: .* beyond chance", elements.text)[0]
    pictures = elements.pictures()
    assert len(pictures) == 3
    assert all(len(picture["alt"] or "") > 60 for picture in pictures)
    assert "swav converges at epoch 4" in (pictures[1]["alt"] or "")


def test_the_same_page_twice_is_the_same_file(page: Path, found: Found, tmp_path: Path) -> None:
    told = {
        "title": "Did it help?",
        "facts": {"Split": "test"},
        "equal": ["Budget: 5 steps."],
        "notes": ["Opened once."],
    }
    again = write_comparison_page(tmp_path / "again", found, simulated="These scans are simulated.", **told)
    assert again.read_bytes() == page.read_bytes()


def test_the_page_shows_the_studies_that_it_is_given_and_whose_scores_they_have(found: Found, tmp_path: Path) -> None:
    cases = table(1.0, 1)
    image = np.random.default_rng(0).random((6, 8, 3))
    outputs = ["bleed", "epidural"]
    names = dict(zip(outputs, outputs, strict=True))
    examples = worked_examples(cases, outputs, names=names, threshold=0.5, image_of=lambda _: image, of_each=1)
    told = ("swav, 100 % of labels, repeat 1", examples)
    page = write_comparison_page(
        tmp_path, found, title="Did it help?", facts={}, equal=[], notes=[], simulated=None, examples=told
    )
    elements = Elements(page)
    assert "Of “swav, 100 % of labels, repeat 1”" in elements.text
    highest = cases[cases["y_bleed"] == 1]["p_bleed"].max()
    assert f"Highest true · score {highest:.3f}" in elements.text
    assert len(elements.pictures()) == 3 + 3 * 3  # of three studies, three slices each


@pytest.mark.parametrize(("spread", "shown"), [(0.004, {"-1", "0", "1"}), (0.5, {"0", "100", "200"})])
def test_the_axis_of_robustness_has_numbers_whether_the_changes_are_small_or_large(
    spread: float, shown: set[str]
) -> None:
    svg = robustness_figure({"scratch": [answers(spread)]}, reference="scratch")
    numbers = {text.replace("\N{MINUS SIGN}", "-") for text in re.findall(r"<!-- (\S+) -->", svg)}
    assert shown <= numbers


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_it_opens_in_a_browser_without_an_error_and_every_figure_loads(page: Path) -> None:
    assert opened_in_a_browser(page) == {"errors": 0, "pictures": 3, "loaded": 3, "over": 0}
