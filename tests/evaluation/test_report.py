"""The pages: whole in one file, safe from what is written into them, true to the figures, and the same every time."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.pages import CHROMIUM, Elements, opened_in_a_browser
from volssl.errors import UserError
from volssl.evaluation import course
from volssl.evaluation.bootstrap import Interval
from volssl.evaluation.evaluation_page import write_report
from volssl.evaluation.examples import Looked, radiological, slices_to_show, worked_examples
from volssl.evaluation.page import grey_picture, number
from volssl.evaluation.predictions import evaluate_predictions
from volssl.evaluation.report import ComparisonRow, write_comparison, write_pretrain_report

OUTPUTS = ("hemorrhage", "subdural", "slices")


def noise(study: str) -> np.ndarray:
    return np.random.default_rng(int(study.split("-")[1])).random((6, 7, 5))


def evaluation_page(out: Path, predictions, validation=None, by=(), **options) -> Path:
    metrics = evaluate_predictions(predictions, outputs=OUTPUTS, validation=validation, by=by, resamples=20)
    return write_report(out, predictions, metrics, **{"title": "Hemorrhage", "image_of": noise, **options})


def log(run: Path, *lines: str) -> None:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("\n".join(lines))


def row(step: int, loss: float) -> str:
    return json.dumps({"step": step, "epoch": step // 10, "loss": loss})


def test_a_page_needs_nothing_outside_of_itself(predictions, tmp_path) -> None:
    page = Elements(evaluation_page(tmp_path, predictions))
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert "url(" not in (tmp_path / "report.html").read_text()
    assert "@import" not in (tmp_path / "report.html").read_text()


def test_every_picture_can_be_read_and_says_in_words_what_it_shows(predictions, tmp_path) -> None:
    pictures = Elements(evaluation_page(tmp_path, predictions)).pictures()
    assert len(pictures) == 5 + 6 * 5  # five drawings, six studies of five slices
    for attributes in pictures:
        assert len(attributes["alt"] or "") > 20
        media_type, content = (attributes["src"] or "").split(";base64,")
        if media_type == "data:image/png":
            assert Image.open(io.BytesIO(base64.b64decode(content))).size == (6, 7)
        else:
            assert ElementTree.fromstring(base64.b64decode(content)).tag.endswith("svg")


def test_the_table_shows_the_figures_that_were_worked_out(predictions, validation, tmp_path) -> None:
    metrics = evaluate_predictions(predictions, outputs=OUTPUTS, validation=validation, resamples=20)
    text = Elements(write_report(tmp_path, predictions, metrics, title="Hemorrhage")).text
    for output in OUTPUTS:
        for figure in metrics["outputs"][output]["metrics"].values():
            assert f"{figure['value']:.3f} {figure['low']:.3f} to {figure['high']:.3f}" in text
    point = metrics["outputs"]["hemorrhage"]["operating_points"]["equal"]
    assert f"Labelled positive {point['tp']} {point['fn']} Labelled negative {point['fp']} {point['tn']}" in text
    assert "chosen on the validation patients and applied here unchanged" in text
    assert "Studies 80 Patients 40" in text


def test_a_threshold_that_flatters_is_named_on_the_page(predictions, tmp_path) -> None:
    text = Elements(evaluation_page(tmp_path, predictions)).text
    assert (
        "Chosen on the evaluated cases themselves (no validation cases were given): the figures flatter the model."
        in text
    )


def test_operating_points_temperature_and_subgroups_stand_on_the_page(predictions, validation, tmp_path) -> None:
    by = ("sex", "age_band")
    metrics = evaluate_predictions(predictions, outputs=OUTPUTS, validation=validation, by=by, resamples=20)
    page = Elements(write_report(tmp_path, predictions, metrics, title="Hemorrhage"))
    first = metrics["outputs"]["hemorrhage"]
    for point in first["operating_points"].values():
        assert f"{point['threshold']:.3f} {point['metrics']['sensitivity']['value']:.3f}" in page.text
    assert f"Hemorrhage {first['calibration']['temperature']:.2f}" in page.text
    female = first["subgroups"]["sex"]["F"]
    told = f"F 20 {female['positives']} of 40 {female['metrics']['auc']['value']:.3f}"
    assert told in page.text.replace(" small", "")
    assert "80+ small" in page.text
    assert "unknown small" in page.text
    alts = [picture["alt"] or "" for picture in page.pictures()]
    assert any(alt.startswith("AUC: Sex: F") and "80+" not in alt for alt in alts)  # small groups are not drawn
    assert any("Reliability curve" in alt and f"{first['calibration']['before']['ece']:.3f}" in alt for alt in alts)


def test_the_notices_stand_on_the_page(predictions, tmp_path) -> None:
    simulated = "Simulated data: says nothing about patients."
    text = Elements(evaluation_page(tmp_path / "a", predictions, simulated=simulated)).text
    assert simulated in text
    assert "Research software, no medical device." in text
    assert "Simulated" not in Elements(evaluation_page(tmp_path / "b", predictions)).text


def test_inserted_text_is_escaped_everywhere(predictions, tmp_path) -> None:
    bad = "<b onclick=x>&\"'</b>"
    predictions["id"] = [f"<i>{index}" for index in range(80)]
    pages = [
        evaluation_page(
            tmp_path / "a",
            predictions,
            title=bad,
            facts={bad: bad},
            simulated=bad,
            names={"hemorrhage": bad, "subdural": bad, "slices": bad},
            image_of=lambda study: np.zeros((6, 7, 5)),
        ),
        write_comparison(
            [ComparisonRow(bad, {bad: Interval(0.5, 0.4, 0.6, 9, 9)})],
            tmp_path / "b",
            title=bad,
            reference=bad,
            facts={bad: bad},
            equal=[bad],
            simulated=bad,
        ),
    ]
    log(tmp_path / "c", json.dumps({"step": 1, bad: 1.0}))
    pages.append(write_pretrain_report(tmp_path / "c", title=bad, facts={bad: bad}, simulated=bad))
    for page in pages:
        elements = Elements(page)
        assert not any("onclick" in attributes for _, attributes in elements.tags)
        assert not any(tag == "i" and not attributes for tag, attributes in elements.tags)
        assert bad in elements.text


def test_the_same_predictions_make_the_same_bytes(predictions, tmp_path) -> None:
    first, second = (evaluation_page(tmp_path / name, predictions) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_the_curves_lie_beside_the_page_as_svg(predictions, tmp_path) -> None:
    evaluation_page(tmp_path, predictions)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "roc.svg",
        "precision_recall.svg",
        "auc.svg",
        "scores.svg",
        "reliability.svg",
    }


def test_one_class_makes_a_page_with_the_reason_and_no_curve(predictions, tmp_path) -> None:
    table = predictions.assign(y_hemorrhage=0.0, y_subdural=np.nan, y_slices=None)
    page = Elements(evaluation_page(tmp_path, table))
    assert "all 80 labelled cases are negative" in page.text
    assert "no case has a label" in page.text
    assert not [picture for picture in page.pictures() if "svg" in (picture["src"] or "")]


def test_pictures_show_the_patients_right_at_the_left_and_anterior_up() -> None:
    axial = np.zeros((6, 7))  # R, A: the index grows to the patient's right and to the front
    axial[5, 6] = 1
    picture = Image.open(io.BytesIO(grey_picture(radiological(axial), alt="").content))
    assert picture.size == (6, 7)
    assert picture.getpixel((0, 0)) == 255
    assert np.asarray(picture).sum() == 255


def test_grey_values_are_clipped_and_missing_ones_black() -> None:
    picture = Image.open(io.BytesIO(grey_picture(np.array([[-1.0, 0.5, 2.0, np.nan]]), alt="").content))
    assert np.asarray(picture).tolist() == [[0, 128, 255, 0]]


def test_worked_examples_are_the_highest_true_the_highest_false_and_the_lowest_true(predictions) -> None:
    names = {output: output for output in OUTPUTS}
    examples = worked_examples(predictions, OUTPUTS, names=names, threshold=0.5, image_of=noise, of_each=1)
    score, positive = predictions["p_hemorrhage"], predictions["y_hemorrhage"] == 1
    expected = [score[positive].max(), score[~positive].max(), score[positive].min()]
    assert [example.score for example in examples] == expected
    assert [example.positive for example in examples] == [True, False, True]
    assert [example.called for example in examples] == [value >= 0.5 for value in expected]
    shown = predictions.set_index("p_hemorrhage").loc[examples[0].score]
    assert [part.score for part in examples[0].slices] == shown["p_slices"]
    assert [part.positive for part in examples[0].slices] == [None, *(value == 1 for value in shown["y_slices"][1:])]


def test_no_study_is_shown_twice(predictions) -> None:
    predictions["y_hemorrhage"] = [1.0] + [0.0] * 79
    names = {output: output for output in OUTPUTS}
    examples = worked_examples(predictions, OUTPUTS, names=names, threshold=0.5, image_of=noise, of_each=2)
    assert [example.kind for example in examples] == ["Highest true", "Highest false", "Highest false"]


def test_a_score_that_is_missing_in_a_slice_leaves_its_place_empty(predictions, tmp_path) -> None:
    predictions["p_slices"] = [[np.nan, 0.25, 0.5, 0.75, 1.0]] * 80
    page = Elements(evaluation_page(tmp_path, predictions))
    assert "score –" in (page.pictures()[5]["alt"] or "")
    assert "score 0.25" in (page.pictures()[6]["alt"] or "")


def test_an_image_of_another_depth_is_refused(predictions, tmp_path) -> None:
    with pytest.raises(ValueError, match="5 slice scores for an image of 4 slices"):
        evaluation_page(tmp_path, predictions, image_of=lambda study: np.zeros((6, 7, 4)))


def test_of_many_slices_evenly_spaced_ones_and_the_highest_are_shown() -> None:
    scores = np.zeros(40)
    scores[12] = 0.9
    shown = slices_to_show(scores, most=10)
    assert (len(shown), shown[0], shown[-1]) == (10, 0, 39)
    assert 12 in shown
    assert shown == sorted(set(shown))
    assert slices_to_show(np.full(40, np.nan), most=4) == [0, 13, 26, 39]
    assert slices_to_show(scores[:9], most=10) == list(range(9))


def test_a_training_page_has_a_curve_a_scalar_and_the_pictures_of_the_run(tmp_path) -> None:
    log(tmp_path, *(json.dumps({"step": step, "epoch": 0, "lr": 0.1, "loss": 9 - step}) for step in (1, 2, 3)))
    (tmp_path / "figures").mkdir()
    Image.fromarray(np.zeros((4, 9), dtype=np.uint8)).save(tmp_path / "figures" / "views.png")
    page = Elements(write_pretrain_report(tmp_path, captions={"views": "What the network saw."}))
    assert [picture["alt"] for picture in page.pictures()] == [
        "Loss over steps, from 8 at step 1 to 6 at step 3",
        "Lr over steps, from 0.1 at step 1 to 0.1 at step 3",
        "What the network saw.",
    ]


def pretraining_rows() -> list[str]:
    """Four epochs of two steps, probed before and after every second; the second epoch's encoder is kept."""
    rows: list[dict[str, object]] = [
        {"step": 0, "epoch": 0, "probe_linear_auc": 0.61, "probe_knn_auc": 0.58, "probe_scans": 40}
        | {"probe_validation_scans": 25}
    ]
    for step in range(1, 9):
        watched = {"feature_std": 0.9 - step / 20, "prototype_entropy": 0.95, "prototypes_dead": 0.125}
        rows.append({"step": step, "epoch": (step + 1) // 2, "loss": 4.2 - step / 10, "loss_floor": 4.16} | watched)
    rows += [
        {"step": 4, "epoch": 2, "probe_linear_auc": 0.81, "probe_knn_auc": 0.7},
        {"step": 4, "epoch": 2, "encoder_epoch": 2},
        {"step": 8, "epoch": 4, "probe_linear_auc": 0.75, "probe_knn_auc": 0.74},
        {"step": 7, "epoch": 4, "warning": "step 7: the features of all scans are nearly alike <b>"},
    ]
    return [json.dumps(row) for row in rows]


def test_a_pretraining_page_tells_the_probe_the_signs_of_collapse_and_which_encoder_is_kept(tmp_path) -> None:
    log(tmp_path, *pretraining_rows())
    page = Elements(write_pretrain_report(tmp_path))
    assert "Encoder kept epoch 2, by the probe" in page.text
    assert "Linear probe, AUC 0.810 untrained 0.610 Nearest neighbours, AUC 0.700 untrained 0.580" in page.text
    assert "Trained on 40 labelled scans, scored on 25 of validation patients." in page.text
    assert "Step 7: the features of all scans are nearly alike <b>." in page.text  # as text, not as a tag
    assert [picture["alt"] for picture in page.pictures()] == [
        "AUC on validation over epochs, linear probe from 0.61 at epoch 0 to 0.75 at epoch 4; nearest neighbours from "
        "0.58 at epoch 0 to 0.74 at epoch 4",
        "Loss over steps, from 4.1 at step 1 to 3.4 at step 8",
        "Feature spread over steps, from 0.85 at step 1 to 0.5 at step 8",
        "Prototype use over steps, evenness (entropy over ln K) from 0.95 at step 1 to 0.95 at step 8; share hardly "
        "used from 0.125 at step 1 to 0.125 at step 8",
    ]


def test_without_labels_the_page_says_that_the_loss_chose_and_shows_no_probe(tmp_path) -> None:
    log(tmp_path, *(line for line in pretraining_rows() if "probe" not in line))
    page = Elements(write_pretrain_report(tmp_path))
    assert "Encoder kept epoch 2, by the loss" in page.text
    assert "What the features tell" not in page.text


def test_each_part_of_a_combined_method_has_its_own_drawings(tmp_path) -> None:
    parts = {"swav_loss": 4.0, "swav_loss_floor": 4.16, "swav_feature_std": 0.5, "restoration_loss": 0.02}
    parts |= {"restoration_undone": 0.4, "rotation_accuracy": 0.3}
    log(tmp_path, *(json.dumps({"step": step, "epoch": 1, "loss": 5 - step} | parts) for step in (1, 2)))
    page = Elements(write_pretrain_report(tmp_path))
    assert [(picture["alt"] or "").split(" over")[0] for picture in page.pictures()] == [
        "Loss",
        "Loss of swav",
        "Loss of restoration",
        "Feature spread of swav",
        "Damage undone of restoration",
        "Turns told right of rotation",
    ]


def test_the_level_of_a_loss_and_the_mark_of_the_kept_epoch_are_drawn(monkeypatch) -> None:
    drawn: dict[str, object] = {}
    monkeypatch.setattr(course, "history_figure", lambda curves, **options: drawn.update(options) or "<svg/>")
    rows = [json.loads(line) for line in pretraining_rows()]
    course.probe_picture(rows, kept=2)
    assert drawn["marked"] == 2
    assert drawn["level"] == (0.5, "guessing")
    course.panel_picture(rows, course.PANELS[0], "")
    assert drawn["level"] == (4.16, "telling no scan from another")


def test_of_a_step_logged_twice_the_later_row_holds_and_a_line_cut_off_is_passed_over(tmp_path) -> None:
    log(tmp_path, row(1, 5), row(2, 4), row(3, 7), row(2, 3), row(3, 2), '{"step": 4, "lo')
    page = Elements(write_pretrain_report(tmp_path))
    assert page.pictures()[0]["alt"] == "Loss over steps, from 5 at step 1 to 2 at step 3"


def test_a_loss_that_is_nan_does_not_break_the_page(tmp_path) -> None:
    log(tmp_path, *(row(step, 1.0 if step < 50 else float("nan")) for step in range(100)))
    assert "to nan at step 99" in Elements(write_pretrain_report(tmp_path)).text


@pytest.mark.parametrize(
    ("lines", "message"),
    [(("oops", row(2, 4)), "line 1 is no JSON"), ((row(1, 1), '{"loss": 1}', row(2, 1)), "line 2 has no step")],
)
def test_a_broken_log_is_named_with_its_line(tmp_path, lines, message) -> None:
    log(tmp_path, *lines)
    with pytest.raises(UserError, match=message):
        write_pretrain_report(tmp_path)


def test_a_folder_without_a_log_is_no_run(tmp_path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl is not there"):
        write_pretrain_report(tmp_path)


def test_a_comparison_marks_the_differences_that_are_clear_of_zero(tmp_path) -> None:
    def auc(value: float) -> dict[str, Interval]:
        return {"AUC": Interval(value, value - 0.05, value + 0.05, 200, 150, 0.9)}

    rows = [
        ComparisonRow("From scratch", auc(0.7)),
        ComparisonRow("SwAV", auc(0.8), Interval(0.1, 0.02, 0.18, 200, 150)),
        ComparisonRow("Rule", auc(0.69), Interval(-0.01, -0.06, 0.04, 200, 150)),
    ]
    page = write_comparison(rows, tmp_path, title="Does it help?", reference="From scratch", equal=["Budget."])
    elements = Elements(page)
    assert "0.100 0.020 to 0.180 clear of zero Rule" in elements.text
    assert "Rule 200 150 patients 0.690 0.640 to 0.740 −0.010 −0.060 to 0.040 AUC of each model" in elements.text
    assert "With each figure its 90 % interval" in elements.text
    assert "From scratch 200 150 patients 0.700 0.650 to 0.750 – SwAV" in elements.text
    assert "Budget." in elements.text
    assert "SwAV 0.100 (0.020 to 0.180)" in (elements.pictures()[1]["alt"] or "")


def test_numbers_have_a_true_minus_and_nothing_is_a_dash() -> None:
    assert [number(value) for value in (0.12345, -0.5, -0.0001, None, float("nan"))] == [
        "0.123",
        "−0.500",
        "0.000",
        "–",
        "–",
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_loads_every_picture_and_nothing_overflows_on_phone_or_desktop(
    predictions, validation, tmp_path
) -> None:
    page = evaluation_page(tmp_path, predictions, validation, names={"slices": "Slices (presence)"})
    probe = """<script>onload = () => { const root = document.documentElement; parent.postMessage({
        width: innerWidth, over: root.scrollWidth - root.clientWidth, images: document.images.length,
        broken: [...document.images].filter(image => !image.naturalWidth).length}, "*") }</script>"""
    (tmp_path / "probed.html").write_text(page.read_text() + probe)
    frame = '<iframe src="probed.html" style="width:{}px;height:900px;border:0"></iframe>'
    listen = "onmessage = told => document.querySelector('pre').textContent += JSON.stringify(told.data) + ';'"
    both = tmp_path / "both.html"
    both.write_text(f"<pre></pre><script>{listen}</script>{frame.format(400)}{frame.format(1200)}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, *options, "--virtual-time-budget=4000", "--dump-dom", both.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    told = [json.loads(row) for row in re.findall(r"\{\"width.*?\}", shown)]
    expected = [{"width": width, "over": 0, "images": 35, "broken": 0} for width in (400, 1200)]
    assert sorted(told, key=lambda row: row["width"]) == expected
    assert opened_in_a_browser(page) == {"errors": 0, "pictures": 35, "loaded": 35, "over": 0}


def looked(study: str) -> Looked:
    """Strongest in one voxel of the slice 2, half as strong in one of the slice 4, too weak to be seen in the first."""
    values = np.zeros((6, 7, 5))
    values[5, 0, 1], values[0, 6, 3], values[:, :, 0] = 1.0, 0.5, 0.1
    return Looked(values, "by a method in words")


def test_what_spoke_for_a_score_is_laid_over_the_slices_where_it_was_strongest(predictions) -> None:
    names = {output: output for output in OUTPUTS}
    (example, *_) = worked_examples(
        predictions, OUTPUTS, names=names, threshold=0.5, image_of=noise, looked_of=looked, of_each=1
    )
    assert [part.number for part in example.overlays] == [2, 4]
    assert [part.score for part in example.overlays] == [example.slices[1].score, example.slices[3].score]
    assert [part.positive for part in example.overlays] == [example.slices[1].positive, example.slices[3].positive]
    shown = [np.asarray(Image.open(io.BytesIO(part.picture.content))).astype(int) for part in example.overlays]
    plain = [np.asarray(Image.open(io.BytesIO(example.slices[at].picture.content))).astype(int) for at in (1, 3)]
    coloured = [
        np.argwhere((picture != grey[..., None]).any(axis=2)) for picture, grey in zip(shown, plain, strict=True)
    ]
    # right is on the left and anterior up: the last along R is the first column, the first along A the last row
    assert [each.tolist() for each in coloured] == [[[6, 0]], [[0, 5]]]
    yellow = np.array([252, 255, 164])  # the upper end of inferno
    assert shown[0][6, 0] == pytest.approx(0.7 * yellow + 0.3 * plain[0][6, 0], abs=1.5)


def test_where_nothing_spoke_for_a_score_the_page_says_so(predictions, tmp_path) -> None:
    def nothing(study: str) -> Looked:
        return Looked(np.zeros((6, 7, 5)), "by a method in words")

    page = Elements(evaluation_page(tmp_path / "none", predictions, looked_of=nothing))
    assert page.text.count("Nothing in the scan spoke for hemorrhage. by a method in words.") == 6
    assert len(page.pictures()) == 5 + 6 * 5
    page = Elements(evaluation_page(tmp_path / "some", predictions, looked_of=looked))
    assert len(page.pictures()) == 5 + 6 * (5 + 2)
    assert "no outline of a finding" in page.text
    assert "no outline of a finding" not in Elements(evaluation_page(tmp_path / "off", predictions)).text


def test_a_map_of_another_grid_is_refused(predictions) -> None:
    names = {output: output for output in OUTPUTS}
    with pytest.raises(ValueError, match=r"looked at is of \(2, 2, 2\) voxels, the image of \(6, 7, 5\)"):
        worked_examples(
            predictions,
            OUTPUTS,
            names=names,
            threshold=0.5,
            image_of=noise,
            looked_of=lambda _: Looked(np.zeros((2, 2, 2)), ""),
        )
