"""Overrides are strict: what does not exist is refused with the nearest name, a value of another type too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from volssl.bundle.config import bundle_config, parse_overrides, read_config, resolved
from volssl.errors import UsageError, UserError

SWAV = read_config(bundle_config("volume_pretraining", "swav"))
TRAIN = read_config(bundle_config("head_ct_hemorrhage_classification", "train"))
SMALL = {
    "rate": 0.1,
    "count": 3,
    "on": False,
    "name": "a",
    "size": [1, 2, 3],
    "window": [[0.5, 1.0], [1, 2]],
    "free": None,
    "computed": "$1 + 1",
    "group": {"inner": 1},
    "handlers": [{"_target_": "volssl.engine.WarmupCosine", "final": 0.1}],
}


def refusal(word: str, config: dict[str, object] = SMALL) -> str:
    with pytest.raises(UserError) as caught:
        parse_overrides(config, [word])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("max_epoch=3", "max_epochs"),
        ("method::epsilom=0.05", "method::epsilon"),
        ("method::queue_lenght=960", "method::queue_length"),
        ("method::views::zom=[[1, 1], [1, 1]]", "method::views::zoom"),
        ("train::trainer::checkpoint_step=1", "train::trainer::checkpoint_steps"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(word: str, nearest: str) -> None:
    key = word.split("=")[0]
    assert refusal(word, SWAV) == f"{key}: unknown option, did you mean {nearest}?"


def test_a_key_like_no_other_gets_no_suggestion() -> None:
    assert refusal("zzzzqqq=1", SWAV) == "zzzzqqq: unknown option"


def test_what_builds_an_object_is_no_option() -> None:
    assert "unknown option" in refusal("method::_target_=os.system", SWAV)
    assert "unknown option" in refusal("handlers::0::_target_=os.system")


def test_a_keyword_that_the_config_does_not_state_is_accepted_and_reaches_the_object() -> None:
    assert "temperature" not in SWAV["method"]
    values = parse_overrides(SWAV, ["method::temperature=0.2", "method::queue_length=960"])
    assert values == {"method::temperature": 0.2, "method::queue_length": 960}
    small = values | {"method::prototypes": 7, "method::hidden_dim": 8}
    method = ConfigParser(resolved(SWAV, small)).get_parsed_content("method")
    assert (method.temperature, method.queue.shape[2], method.prototypes.shape[1]) == (0.2, 960, 7)


def test_a_key_inside_of_a_list_is_named_by_its_place() -> None:
    assert parse_overrides(SMALL, ["handlers::0::final=0.5"]) == {"handlers::0::final": 0.5}
    assert "handlers::1: unknown option" in refusal("handlers::1::final=0.5")


def test_monais_older_separator_and_dashes_are_understood() -> None:
    assert parse_overrides(SWAV, ["--max_epochs=2", "method#epsilon=0.05"]) == {
        "max_epochs": 2,
        "method::epsilon": 0.05,
    }


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("count=three", "count: 'three' is a str, a int is needed"),
        ("count=2.5", "count: 2.5 is a float, a int is needed"),
        ("count=true", "count: True is a bool, a int is needed"),
        ("on=1", "on: 1 is a int, a bool is needed"),
        ("name=3", "name: 3 is a int, a str is needed"),
        ("size=3", "size: 3 is a int, a list is needed"),
        ("size=[1, 2, x]", "size[2]: 'x' is a str, a int is needed"),
        ("window=[[0.5, 1.0], [1, y]]", "window[1][1]: 'y' is a str, a int is needed"),
    ],
)
def test_a_value_of_another_type_is_refused_where_it_stands(word: str, sentence: str) -> None:
    assert refusal(word) == sentence


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("rate=1", 1),
        ("rate=1.0e-3", 0.001),
        ("on=true", True),
        ("name='3'", "3"),
        ("size=[4, 5, 6]", [4, 5, 6]),
        ("free=anything", "anything"),
        ("free=null", None),
        ("name=a=b", "a=b"),
        ("computed=3", 3),
    ],
)
def test_a_value_of_the_right_type_is_taken_as_yaml_reads_it(word: str, value: object) -> None:
    key = word.split("=")[0]
    assert parse_overrides(SMALL, [word]) == {key: value}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("window_hu=[40.5, 80]", [40.5, 80]),
        ("window_hu=[[40.5, 80], [55, 200]]", [[40.5, 80], [55, 200]]),
        ("method::views::noise=0.01", 0.01),
        ("train::trainer::schedule::warmup_epochs=0.5", 0.5),
    ],
)
def test_a_whole_number_of_the_config_takes_a_fraction_where_the_quantity_does(word: str, value: object) -> None:
    assert parse_overrides(SWAV, [word]) == {word.split("=")[0]: value}


@pytest.mark.parametrize("key", ["max_epochs", "batch_size", "workers", "seed", "method::prototypes", "probe_epochs"])
def test_what_is_counted_takes_no_fraction(key: str) -> None:
    assert refusal(f"{key}=1.5", SWAV) == f"{key}: 1.5 is a float, a int is needed"


def test_a_size_may_be_a_fraction_for_it_may_be_in_mm() -> None:
    assert parse_overrides(SWAV, ["crop_size=[168, 196.5, 140]"]) == {"crop_size": [168, 196.5, 140]}
    assert refusal("crop_size=[24, many, 8]", SWAV) == "crop_size[1]: 'many' is a str, a float is needed"


def test_a_power_of_ten_that_yaml_takes_for_text_is_refused_with_how_to_write_it() -> None:
    sentence = refusal("learning_rate=1e-3", SWAV)
    assert sentence == "learning_rate: '1e-3' is a str, a float is needed (YAML reads 1e-3 as text: write 1.0e-03)"
    hinted = sentence.rsplit("write ")[1].rstrip(")")
    assert parse_overrides(SWAV, [f"learning_rate={hinted}"]) == {"learning_rate": 0.001}


def test_a_keyword_is_checked_by_its_annotation() -> None:
    assert refusal("method::queue_length=many", SWAV) == "method::queue_length: 'many' is a str, a int is needed"
    assert "a float is needed" in refusal("method::epsilon=small", SWAV)
    assert "a float is needed" in refusal("handlers::0::warmup_epochs=null")


@pytest.mark.parametrize("word", ["crop_size=[24, 28]", "crop_size=[24, 28, 8, 1]", "window_hu=[55]"])
def test_a_list_of_another_length_is_refused(word: str) -> None:
    key, value = word.split("=")
    wanted = len(SWAV[key])
    assert refusal(word, SWAV) == f"{key}: {value} has {len(json.loads(value))} values, {wanted} are needed"


def test_a_group_is_not_overwritten_by_one_value() -> None:
    assert refusal("group=3") == "group: holds several values; name one of inner"


@pytest.mark.parametrize("word", ["max_epochs", "=3"])
def test_a_word_without_key_or_value_says_how_to_write_one(word: str) -> None:
    assert refusal(word, SWAV) == f"{word}: an override is written KEY=VALUE, for example max_epochs=20"


def test_what_is_no_yaml_is_refused() -> None:
    assert refusal("size=[1, 2", SMALL) == "size=[1, 2: [1, 2 is not a YAML value"


def test_overrides_are_written_into_the_config_and_nothing_else_changes() -> None:
    values = resolved(TRAIN, {"max_epochs": 2, "task::grid": [48, 56, 20]})
    assert values["max_epochs"] == 2
    assert values["task"] == {"_target_": "volssl.tasks.Hemorrhage", "grid": [48, 56, 20]}
    same = {key: value for key, value in values.items() if key not in ("max_epochs", "task")}
    assert same == {key: value for key, value in TRAIN.items() if key not in ("max_epochs", "task")}
    assert TRAIN["max_epochs"] != 2


def test_a_config_that_does_not_exist_lists_those_there_are() -> None:
    with pytest.raises(
        UserError, match=r"swva: no such config in volume_pretraining, did you mean swav.*there are .*swav"
    ):
        bundle_config("volume_pretraining", "swva")


def test_a_methods_file_is_laid_over_what_all_share() -> None:
    assert [path.name for path in bundle_config("volume_pretraining", "swav")] == ["base.yaml", "swav.yaml"]
    assert SWAV["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert (
        read_config(bundle_config("volume_pretraining", "swav", preset="paper"))["optimizer"]["_target_"]
        == "volssl.engine.LARC"
    )
    assert SWAV["max_epochs"] == 100


def test_files_are_merged_as_monai_merges_them(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("rate: 1\ngroup: {inner: 1, other: [1, 2]}\nmethod: {a: 1, b: 2}\n")
    second.write_text("group::inner: 5\ngroup::other::1: 7\nmethod: {c: 3}\n")
    merged = read_config([first, second])
    assert merged == {"rate": 1, "group": {"inner": 5, "other": [1, 7]}, "method": {"c": 3}}
    assert merged == ConfigParser.load_config_files([str(first), str(second)])


@pytest.mark.parametrize(("text", "why"), [("- 1\n", "is a mapping"), ("a: [1\n", "not a readable YAML file")])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=why):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("task::grid=48", "task::grid: 48 is no list of 3 values, which is needed"),
        ("task::grid=[48, 56]", r"task::grid: \[48, 56\] is no list of 3 values"),
        ("task::grid=[48, 56, 2.5]", r"task::grid\[2\]: 2.5 is a float, a int is needed"),
        ("task::window_hu=[a, b]", r"task::window_hu\[0\]: 'a' is a str, a float is needed"),
    ],
)
def test_a_list_that_the_config_leaves_to_its_default_is_checked_too(word: str, said: str) -> None:
    config = read_config(bundle_config("head_ct_hemorrhage_classification", "train"))
    with pytest.raises(UsageError, match=said):
        parse_overrides(config, [word])


def test_a_list_of_the_right_numbers_is_taken() -> None:
    config = read_config(bundle_config("head_ct_hemorrhage_classification", "train"))
    assert parse_overrides(config, ["task::window_hu=[40, 80]"]) == {"task::window_hu": [40, 80]}


def test_several_windows_are_taken_where_one_stands_and_several_sizes_are_not() -> None:
    several = [[55, 200], [40, 80], [600, 2800]]
    assert parse_overrides(SWAV, [f"window_hu={several}"]) == {"window_hu": several}
    assert refusal("window_hu=[[55], [40, 80]]", SWAV) == "window_hu[0]: [55] has 1 values, 2 are needed"
    assert "a float is needed" in refusal("crop_size=[[32, 32, 16], [16, 16, 8], [1, 1, 1]]", SWAV)
