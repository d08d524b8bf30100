"""What all replayable transforms keep: the input untouched, the same seed the same result, and a draw made again."""

from __future__ import annotations

import pickle

import monai.transforms
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from volssl import transforms
from volssl.transforms import RandBlockMask, RandFlips, RandInPaint, RandInPaintd, RandLocalShuffle
from volssl.transforms.replay import Replayable, ReplayableMap

NAMES = ["RandLocalShuffle", "RandBezierIntensity", "RandInPaint", "RandOutPaint", "RandSwapPatches", "RandBlockMask"]
NAMES += ["RandFlips"]
SIZES = st.tuples(*[st.integers(1, 26)] * 3)
SEEDS = st.integers(0, 2**31 - 1)


def make(name: str, **options: float) -> Replayable:
    made: Replayable = getattr(transforms, name)(**({"windows": 200} if name == "RandLocalShuffle" else {}), **options)
    return made


def image_of(size: tuple[int, ...], seed: int = 0, channels: int = 2) -> torch.Tensor:
    return torch.rand(channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_any_size_keeps_shape_type_and_range_and_the_input_stays(
    name: str, size: tuple[int, int, int], seed: int
) -> None:
    image = image_of(size, seed)
    kept = image.clone()
    got = make(name, prob=1.0).set_random_state(seed)(image)
    assert torch.equal(image, kept)
    assert got.shape == image.shape
    assert got.dtype == torch.float32
    assert 0 <= float(got.min()) <= float(got.max()) <= 1
    got.zero_()
    assert torch.equal(image, kept)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_result_and_another_does_not(name: str) -> None:
    image = image_of((20, 22, 24))
    a, b, *others = (make(name, prob=1.0).set_random_state(seed)(image) for seed in (5, 5, 6, 7, 8))
    assert torch.equal(a, b)
    assert not all(torch.equal(a, other) for other in others)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_drawn_can_be_kept_and_made_again(name: str) -> None:
    image = image_of((20, 22, 24))
    transform = make(name, prob=1.0).set_random_state(3)
    first = transform(image)
    drawn = pickle.loads(pickle.dumps(transform.drawn))
    assert torch.equal(transform(image, randomize=False), first)
    for _ in range(3):
        transform(image)
    assert torch.equal(transform.apply(image, drawn), first)
    assert torch.equal(type(transform).function(image, **drawn), first)
    assert torch.equal(transform.apply(image[1:], drawn)[0], first[1]), "a channel is changed alike without the others"


@pytest.mark.parametrize("name", NAMES)
def test_the_entries_of_a_dictionary_are_changed_alike(name: str) -> None:
    image = image_of((20, 22, 24), channels=1)
    array = make(name, prob=1.0).set_random_state(9)
    on_keys = getattr(transforms, f"{name}d")(["a", "b"], prob=1.0, **({"windows": 200} if "Shuffle" in name else {}))
    data = {"a": image, "b": image.clone(), "c": image}
    got = on_keys.set_random_state(9)(data)
    assert torch.equal(got["a"], got["b"])
    assert torch.equal(got["a"], array(image))
    assert got["c"] is image
    assert data["a"] is image
    assert torch.equal(image, image_of((20, 22, 24), channels=1))
    assert torch.equal(on_keys(data, randomize=False)["b"], got["b"])


@pytest.mark.parametrize("name", NAMES)
def test_the_dictionary_form_takes_the_same_options(name: str) -> None:
    import inspect

    array = dict(inspect.signature(getattr(transforms, name)).parameters)
    on_keys = dict(inspect.signature(getattr(transforms, f"{name}d")).parameters)
    assert list(on_keys) == ["keys", *array, "allow_missing_keys"]
    assert all(on_keys[option].default == array[option].default for option in array)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in array.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_a_change_is_made_as_often_as_asked_for_and_always_draws_two_numbers(name: str, prob: float) -> None:
    rng, transform = np.random.RandomState(0), make(name, prob=prob)
    drawn = [transform.draw(rng, (6, 6, 6)) for _ in range(300)]
    assert np.mean([one is not None for one in drawn]) == pytest.approx(prob, abs=0.06)
    beside = np.random.RandomState(0)
    for _ in range(300):
        beside.uniform(), beside.randint(2**31)
    assert rng.uniform() == beside.uniform()


def test_one_compose_seeds_them_all_and_keeps_monai_s_tensors() -> None:
    image = MetaTensor(image_of((20, 22, 24)), affine=torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0])))
    chain = [make(name, prob=1.0) for name in NAMES]
    first, again = (monai.transforms.Compose(chain).set_random_state(4)(image) for _ in range(2))
    assert isinstance(first, MetaTensor)
    assert torch.equal(first.affine, image.affine)
    assert torch.equal(first, again)
    assert not torch.equal(first, image)
    with_keys = monai.transforms.Compose([getattr(transforms, f"{name}d")("x", prob=1.0) for name in NAMES])
    assert isinstance(with_keys.set_random_state(4)({"x": image})["x"], MetaTensor)


def test_a_missing_key_is_an_error_unless_allowed() -> None:
    with pytest.raises(KeyError):
        RandInPaintd("x")({})
    assert RandInPaintd("x", allow_missing_keys=True)({}) == {}


def test_entries_of_two_sizes_are_refused() -> None:
    on_keys: ReplayableMap = RandInPaintd(["a", "b"])
    with pytest.raises(ValueError, match="one size"):
        on_keys({"a": image_of((8, 8, 8)), "b": image_of((8, 8, 9))})


def test_what_is_no_volume_or_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(C, R, A, S\)"):
        RandLocalShuffle()(torch.zeros(8, 8, 8))
    with pytest.raises(ValueError, match="probability"):
        RandInPaint(prob=1.5)
    with pytest.raises(ValueError, match="range"):
        RandBlockMask(share=(0.3, 0.1))
    with pytest.raises(ValueError, match="axes"):
        RandFlips(axes=(3,))
