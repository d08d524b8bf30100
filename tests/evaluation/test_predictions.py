"""The figures of a table of predictions: which cases count, where the threshold comes from, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from volssl.evaluation.delong import delong_interval
from volssl.evaluation.operating_points import equal_point
from volssl.evaluation.predictions import cases_of, evaluate_predictions, write_metrics_json

OUTPUTS = ("hemorrhage", "subdural", "slices")


def test_figures_of_a_volume_output_are_those_of_scikit_learn(predictions) -> None:
    result = evaluate_predictions(predictions, outputs=OUTPUTS, resamples=20)
    figures = result["outputs"]["hemorrhage"]["metrics"]
    y, score = predictions["y_hemorrhage"], predictions["p_hemorrhage"]
    assert figures["auc"]["value"] == pytest.approx(roc_auc_score(y, score))
    assert figures["average_precision"]["value"] == pytest.approx(average_precision_score(y, score))
    assert figures["brier"]["value"] == pytest.approx(brier_score_loss(y, score))
    assert (result["n_studies"], result["n_patients"], result["split"]) == (80, 40, "test")
    assert result["outputs"]["hemorrhage"]["positives"] == int(y.sum())


def test_slices_are_counted_one_by_one_and_grouped_by_patient(predictions) -> None:
    result = evaluate_predictions(predictions, outputs=OUTPUTS, resamples=20)["outputs"]["slices"]
    y, score = (np.concatenate(list(predictions[column])) for column in ("y_slices", "p_slices"))
    known = ~np.isnan(y)
    assert result["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(y[known], score[known]))
    assert (result["n"], result["n_patients"], result["unlabelled"]) == (4 * 80, 40, 80)


def test_the_threshold_of_validation_is_applied_unchanged(predictions, validation) -> None:
    result = evaluate_predictions(predictions, outputs=["hemorrhage"], validation=validation, resamples=20)
    point = result["outputs"]["hemorrhage"]["operating_points"]["equal"]
    expected = equal_point(validation["y_hemorrhage"].to_numpy(), validation["p_hemorrhage"].to_numpy())
    called, positive = predictions["p_hemorrhage"] >= expected, predictions["y_hemorrhage"] == 1
    assert (point["threshold"], point["chosen_on"]) == (expected, "validation")
    assert (point["tp"], point["fp"]) == (int((called & positive).sum()), int((called & ~positive).sum()))
    sensitivity = result["outputs"]["hemorrhage"]["metrics"]["sensitivity"]["value"]
    assert sensitivity == pytest.approx(point["tp"] / (point["tp"] + point["fn"]))


def test_an_undefined_figure_is_none_with_its_own_reason_and_the_json_is_strict(
    predictions, validation, tmp_path
) -> None:
    low = predictions.assign(p_hemorrhage=predictions["p_hemorrhage"] / 1000)  # nobody reaches a threshold
    result = evaluate_predictions(low, outputs=["hemorrhage"], validation=validation, resamples=20)
    found = result["outputs"]["hemorrhage"]["metrics"]
    assert (found["ppv"]["value"], found["ppv"]["low"], found["ppv"]["reason"]) == (
        None,
        None,
        "no case is called positive",
    )
    assert found["mcc"]["reason"] == "the cases, or the calls, are all of one class"
    assert (found["sensitivity"]["value"], found["specificity"]["value"], found["f1"]["value"]) == (0, 1, 0)
    assert '"ppv"' in write_metrics_json(result, tmp_path / "metrics.json").read_text()


def test_why_a_threshold_was_not_chosen_on_validation_is_told(predictions, validation) -> None:
    none = validation.assign(y_hemorrhage=0.0)
    for held_out, reason in ((None, "no validation cases were given"), (none, "all 80 labelled cases are negative")):
        found = evaluate_predictions(predictions, outputs=["hemorrhage"], validation=held_out, resamples=20)
        output = found["outputs"]["hemorrhage"]
        assert {point["why_not_on_validation"] for point in output["operating_points"].values()} == {reason}
        assert (output["calibration"]["temperature"], output["calibration"]["reason"]) == (None, reason)
        assert output["calibration"]["after"] is None


def test_patients_with_several_studies_have_no_delong_error_and_others_do(predictions) -> None:
    several = evaluate_predictions(predictions, outputs=["hemorrhage"], resamples=20)["outputs"]["hemorrhage"]
    assert "patients have several cases" in several["auc_delong"]["reason"]
    single = evaluate_predictions(predictions[::2], outputs=["hemorrhage"], resamples=20)["outputs"]["hemorrhage"]
    expected, _, _ = delong_interval(predictions["y_hemorrhage"][::2], predictions["p_hemorrhage"][::2])
    assert single["auc_delong"]["standard_error"] == pytest.approx(expected)


@pytest.mark.parametrize("with_useless_validation", [False, True])
def test_a_threshold_chosen_on_the_evaluated_cases_says_so(predictions, validation, with_useless_validation) -> None:
    held_out = validation.assign(y_hemorrhage=0.0) if with_useless_validation else None
    result = evaluate_predictions(predictions, outputs=["hemorrhage"], validation=held_out, resamples=20)
    assert result["outputs"]["hemorrhage"]["operating_points"]["equal"]["chosen_on"] == "the evaluated cases themselves"


def test_a_missing_label_drops_its_study_from_that_output_alone(predictions) -> None:
    predictions.loc[:9, "y_subdural"] = np.nan
    result = evaluate_predictions(predictions, outputs=OUTPUTS, resamples=20)["outputs"]
    assert (result["subdural"]["n"], result["subdural"]["unlabelled"]) == (70, 10)
    assert (result["hemorrhage"]["n"], result["hemorrhage"]["unlabelled"]) == (80, 0)


def test_an_output_of_one_class_has_a_reason_and_the_others_their_figures(predictions) -> None:
    predictions["y_subdural"] = 0.0
    result = evaluate_predictions(predictions, outputs=OUTPUTS, resamples=20)["outputs"]
    assert result["subdural"]["metrics"]["auc"]["value"] is None
    assert result["subdural"]["reason"] == "all 80 labelled cases are negative"
    assert result["subdural"]["operating_points"] == {}
    assert result["hemorrhage"]["reason"] is None


def test_a_study_whose_slices_are_unknown_is_left_out_of_the_slices(predictions) -> None:
    predictions["y_slices"] = [None, *predictions["y_slices"][1:]]
    cases = cases_of(predictions, "slices")
    assert (len(cases.y), cases.unlabelled) == (4 * 79, 79 + 5)


def test_a_labelled_slice_without_a_score_is_counted_as_left_out(predictions) -> None:
    predictions.at[3, "p_slices"] = [0.1, np.nan, 0.3, 0.4, 0.5]
    assert cases_of(predictions, "slices").unscored == 1


def test_two_evaluations_write_the_same_json_without_nan(predictions, validation, tmp_path) -> None:
    predictions["y_subdural"] = np.nan
    first, second = (
        write_metrics_json(
            evaluate_predictions(predictions, outputs=OUTPUTS, validation=validation, resamples=30), tmp_path / name
        )
        for name in ("a.json", "b.json")
    )
    assert first.read_bytes() == second.read_bytes()
    content = json.loads(first.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["bootstrap"] == {
        "resamples": 30,
        "level": 0.95,
        "seed": 0,
        "by": "patient",
        "interval": "percentile",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="p_subdural"), "lacks p_subdural"),
        (lambda table: table.assign(p_hemorrhage=3.2), "not logits"),
        (lambda table: table.assign(p_hemorrhage=np.nan), "80 labelled studies have no score"),
        (lambda table: table.assign(split=["test", "train"] * 40), "mixes splits: test, train"),
        (lambda table: table.assign(y_slices=[[0.0, 1.0]] * 80), "test-0000-and-more: 2 labels but 5 scores"),
        (lambda table: table.iloc[:0], "is empty"),
    ],
)
def test_an_unfit_table_is_refused(predictions, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(change(predictions), outputs=OUTPUTS, resamples=10)


def test_a_patient_in_both_tables_is_refused(predictions, validation) -> None:
    leaking = pd.concat([validation, predictions.iloc[:1].assign(split="validation")], ignore_index=True)
    with pytest.raises(ValueError, match=r"1 patients are .* test-0 for one"):
        evaluate_predictions(predictions, outputs=OUTPUTS, validation=leaking, resamples=10)
