"""The views of several methods, made of one scan that is read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from volssl.views.base import PairViews, Scan, Views
from volssl.views.cropper import Cropping
from volssl.views.held import HeldScan


class CombinedViews(Cropping):
    """Each part's views of a scan, under `<part>/` and the part's own names.

    A scan is read through a `HeldScan`, so that the parts share what they read. Each part has a generator of its own,
    seeded by the sample's: another part's settings do not change what it draws.

    Args:
        parts: views by the name of their part.
    """

    def __init__(self, parts: Mapping[str, Views]) -> None:
        self.parts = dict(parts)
        self.croppers = [c for views in parts.values() if isinstance(views, Cropping) for c in views.croppers]

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> `<part>/<name>` for every tensor of every part."""
        held = HeldScan(scan)
        return joined({name: self.parts[name](held, own) for name, own in self._generators(rng)})

    def pair(self, scan: Scan, partner: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """The same of two scans that are to be alike: parts that look at one scan look at the first.

        Raises:
            TypeError: no part looks at two.
        """
        if not any(isinstance(views, PairViews) for views in self.parts.values()):
            raise TypeError(f"none of the parts {', '.join(self.parts)} looks at two scans: leave pairs=volume")
        held, other = HeldScan(scan), HeldScan(partner)
        made = {}
        for name, own in self._generators(rng):
            views = self.parts[name]
            made[name] = views.pair(held, other, own) if isinstance(views, PairViews) else views(held, own)
        return joined(made)

    def _generators(self, rng: np.random.RandomState) -> Iterator[tuple[str, np.random.RandomState]]:
        seeds = rng.randint(2**32, size=len(self.parts), dtype=np.uint64)
        for name, seed in zip(self.parts, seeds.tolist(), strict=True):
            yield name, np.random.RandomState(seed)


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by part and name -> by `<part>/<name>`."""
    return {f"{part}/{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
