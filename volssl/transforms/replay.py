"""Random changes that can be made again: what is drawn are the arguments of a plain function (torchio's idea)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, RandomizableTransform
from torch import Tensor

Size = tuple[int, int, int]
Drawn = dict[str, Any]  # the arguments of a plain function, beside the image


class Replayable(RandomizableTransform):  # type: ignore[misc]
    """Draw the arguments of `function` for the size of an image, and call it; the image stays as it was.

    A draw takes the same two numbers from the generator whatever comes of it, so that one change never shifts the draws
    of the next. What was drawn last is kept: `transform(other, randomize=False)` makes the same change on another
    image, and `drawn` can be stored and given to `apply`, or to the plain function, at any time.

    Attributes:
        function: changes an image (C, R, A, S) as its other arguments say, all channels alike.
        drawn: the arguments drawn last; None where the image stays as it is.
    """

    function: Callable[..., Tensor]

    def __init__(self, prob: float) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"a probability lies in 0 to 1, this one is {prob}")
        super().__init__(prob)
        self.drawn: Drawn | None = None

    def arguments(self, rng: np.random.RandomState, size: Size) -> Drawn:
        """Draw the arguments of `function` for an image of `size` voxels."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def draw(self, rng: np.random.RandomState, size: Size) -> Drawn | None:
        """Draw whether the image is changed, and how; None where it is not."""
        changed, seed = rng.uniform() < self.prob, rng.randint(2**31)
        return self.arguments(np.random.RandomState(seed), size) if changed else None

    def apply(self, image: Tensor, drawn: Drawn | None) -> Tensor:
        """Make a change that was drawn; the image itself where none was."""
        return image if drawn is None else type(self).function(image, **drawn)

    def randomize(self, data: Tensor) -> None:
        """Draw for an image (C, R, A, S) from the transform's own generator."""
        self.drawn = self.draw(self.R, size_of(data))
        self._do_transform = self.drawn is not None

    def __call__(self, image: Tensor, randomize: bool = True) -> Tensor:
        """(C, R, A, S) in [0, 1] -> the same shape; `randomize=False` makes the last change again."""
        if randomize:
            self.randomize(image)
        return self.apply(image, self.drawn)


class ReplayableMap(MapTransform, Randomizable):  # type: ignore[misc]
    """One draw for all the named entries of a dictionary, which have one size.

    Args:
        keys: entries to change.
        transform: what changes them.
    """

    def __init__(self, keys: KeysCollection, transform: Replayable, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> ReplayableMap:
        """Seed what draws."""
        self.transform.set_random_state(seed, state)
        return self

    def randomize(self, data: Tensor) -> None:
        """Draw for an image (C, R, A, S)."""
        self.transform.randomize(data)

    def __call__(self, data: Mapping[Hashable, Any], randomize: bool = True) -> dict[Hashable, Any]:
        """A dictionary with the entries changed; the given one stays as it was.

        Raises:
            ValueError: where the entries differ in size.
        """
        result = dict(data)
        names = list(self.key_iterator(result))
        sizes = {size_of(result[name]) for name in names}
        if len(sizes) > 1:
            raise ValueError(f"one draw changes entries of one size; {names} have the sizes {sorted(sizes)}")
        if names and randomize:
            self.randomize(result[names[0]])
        for name in names:
            result[name] = self.transform(result[name], randomize=False)
        return result


def size_of(image: Tensor) -> Size:
    """Voxels along R, A, S of an image (C, R, A, S).

    Raises:
        ValueError: for another number of axes.
    """
    if image.ndim != 4:
        raise ValueError(f"an image is (C, R, A, S), this one has the shape {tuple(image.shape)}")
    return int(image.shape[1]), int(image.shape[2]), int(image.shape[3])
