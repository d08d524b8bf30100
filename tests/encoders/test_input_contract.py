"""The input contract: windows make channels, and what feeds an encoder something else is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from volssl.contract import InputContract
from volssl.errors import UserError

BLOOD, BRAIN, BONE = (55.0, 200.0), (40.0, 80.0), (300.0, 2000.0)
ONE = InputContract("CT", BLOOD, (1.0, 1.0, 1.0), (32, 32, 32))
THREE = InputContract("CT", (BRAIN, BLOOD, BONE), (1.0, 1.0, 1.0), (32, 32, 32))
MR = InputContract("MR", None, (1.0, 1.0, 1.0), (32, 32, 32))


def test_each_window_makes_a_channel() -> None:
    assert (ONE.channels, THREE.channels, MR.channels) == (1, 3, 1)
    assert (ONE.windows_hu, THREE.windows_hu, MR.windows_hu) == ((BLOOD,), (BRAIN, BLOOD, BONE), ())
    assert replace(MR, channels=2).channels == 2


def test_one_window_in_a_list_is_that_window() -> None:
    assert InputContract("CT", (BLOOD,), (1.0, 1.0, 1.0), (32, 32, 32)) == ONE


@pytest.mark.parametrize(("contract", "channels"), [(ONE, 3), (THREE, 2)])
def test_channels_without_a_window_are_refused(contract: InputContract, channels: int) -> None:
    with pytest.raises(UserError, match=f"makes {contract.channels} channels and {channels} are named"):
        replace(contract, channels=channels)


@pytest.mark.parametrize("contract", [ONE, THREE, MR])
def test_a_contract_comes_back_from_json(contract: InputContract) -> None:
    assert InputContract.from_dict(json.loads(json.dumps(contract.as_dict()))) == contract


@pytest.mark.parametrize(("mine", "theirs"), [(ONE, THREE), (THREE, ONE), (MR, replace(MR, channels=2))])
def test_one_window_for_several_is_refused_unless_asked_for(mine: InputContract, theirs: InputContract) -> None:
    with pytest.raises(UserError, match=r"it was trained with (window_hu|channels)"):
        mine.refuse_unlike(theirs, what="encoder")
    mine.refuse_unlike(theirs, what="encoder", one_for_several=True)


@pytest.mark.parametrize(
    ("mine", "theirs", "words"),
    [
        (replace(ONE, window_hu=(35.0, 90.0)), THREE, "window_hu"),  # its window is none of the three
        (THREE, replace(ONE, window_hu=(35.0, 90.0)), "window_hu"),
        (ONE, replace(ONE, window_hu=BRAIN), "window_hu"),
        (THREE, InputContract("CT", (BRAIN, BLOOD), (1.0, 1.0, 1.0), (32, 32, 32)), "window_hu"),
        (THREE, replace(THREE, window_hu=(BLOOD, BRAIN, BONE)), "window_hu"),  # another order
        (replace(MR, channels=2), replace(MR, channels=3), "channels"),
        (ONE, replace(THREE, spacing_mm=(1.0, 1.0, 2.5)), "along S"),
        (ONE, replace(THREE, value_range=(-1.0, 1.0)), "value_range"),
    ],
)
def test_nothing_else_is_let_through_with_it(mine: InputContract, theirs: InputContract, words: str) -> None:
    with pytest.raises(UserError, match=words):
        mine.refuse_unlike(theirs, what="encoder", one_for_several=True)
