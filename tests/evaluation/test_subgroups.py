"""Subgroups: the whole's threshold, their own patients, and a mark where there are too few."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from volssl.evaluation.bootstrap import bootstrap_interval
from volssl.evaluation.metrics import roc_auc
from volssl.evaluation.predictions import evaluate_predictions


def subgroups(predictions: pd.DataFrame, validation: pd.DataFrame | None, *by: str) -> dict:
    found = evaluate_predictions(predictions, outputs=["hemorrhage"], validation=validation, by=by, resamples=30)
    return found["outputs"]["hemorrhage"]


def test_each_group_has_the_figures_of_its_own_rows_at_the_threshold_of_all(predictions, validation) -> None:
    found = subgroups(predictions, validation, "sex")
    threshold = found["operating_points"]["equal"]["threshold"]
    assert list(found["subgroups"]["sex"]) == ["F", "M"]
    for sex, figures in found["subgroups"]["sex"].items():
        rows = predictions[predictions["sex"] == sex]
        y, p = rows["y_hemorrhage"].to_numpy(), rows["p_hemorrhage"].to_numpy()
        assert (figures["n"], figures["n_patients"], figures["positives"]) == (40, 20, int(y.sum()))
        told = figures["metrics"]
        assert told["auc"]["value"] == pytest.approx(roc_auc_score(y, p))
        assert told["sensitivity"]["value"] == pytest.approx(recall_score(y, p >= threshold))
        assert told["specificity"]["value"] == pytest.approx(recall_score(y, p >= threshold, pos_label=0))
        alone = bootstrap_interval(roc_auc, y, p, rows["patient"], resamples=30)
        assert (told["auc"]["low"], told["auc"]["high"]) == pytest.approx((alone.low, alone.high))


def test_groups_cover_all_cases_and_a_blank_cell_is_a_group_of_its_own(predictions, validation) -> None:
    groups = subgroups(predictions, validation, "age_band")["subgroups"]["age_band"]
    assert list(groups) == ["40-59", "80+", "unknown"]
    assert sum(figures["n"] for figures in groups.values()) == len(predictions)
    assert groups["unknown"]["n_patients"] == 1


@pytest.mark.parametrize(("positive_patients", "small"), [(9, True), (10, False), (30, False), (31, True)])
def test_a_group_is_small_below_ten_patients_of_a_class(positive_patients: int, small: bool) -> None:
    y = np.repeat(np.arange(40) < positive_patients, 2).astype(float)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": [str(i) for i in range(80)], "patient": np.arange(80) // 2, "sex": "F"})
    table = table.assign(y_hemorrhage=y, p_hemorrhage=rng.random(80))
    assert subgroups(table, None, "sex")["subgroups"]["sex"]["F"]["small"] is small


def test_a_group_of_one_class_has_a_reason_and_a_figure_where_one_can_be(predictions, validation) -> None:
    negative = (predictions["sex"] == "M").to_numpy()
    predictions.loc[negative, "y_hemorrhage"] = 0.0
    group = subgroups(predictions, validation, "sex")["subgroups"]["sex"]["M"]
    assert group["metrics"]["auc"]["value"] is None
    assert group["metrics"]["sensitivity"]["value"] is None
    assert 0 < group["metrics"]["specificity"]["value"] < 1
    assert group["reason"] == "all 40 labelled cases are negative"
    assert group["small"]


def test_a_column_that_is_not_there_is_named(predictions) -> None:
    with pytest.raises(ValueError, match="lacks site"):
        subgroups(predictions, None, "site")
