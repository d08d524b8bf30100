"""Where a network looked, as a number a voxel of the study: HiResCAM, or occlusion where there is no convolution.

HiResCAM (Draelos and Carin 2020) on MONAI's GradCAM for the dense networks, MONAI's OcclusionSensitivity (Zeiler and
Fergus 2014) for the Swin transformer, whose tokens have seen far beyond their place. Grad-CAM itself (Selvaraju et al.
2017) gives a channel one weight, the mean of its gradient over the volume: of a bleed that is a thousandth of it,
little is left, and what is bright in the channel shines, the bones (docs/predict.md has what was measured). Either runs
on a copy of the network: MONAI hangs hooks on it. Of a network that scores slabs, each slice has the middle of its own
slab's map, weighed by the slice's probability: a map of one slab says nothing of the others.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from monai.visualize import GradCAM, OcclusionSensitivity
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders import DenseNet121, PaperDenseNet
from volssl.encoders.base import Encoder
from volssl.encoders.densenet121 import LEVEL_ENDS
from volssl.slabs import SlabNetwork
from volssl.transforms.head_box import BoxInfo
from volssl.transforms.resample import resample_box

LEAST_VOXELS = 8  # in plane, of the map that HiResCAM looks at
PARTS, OVERLAP = 4, 0.25  # of an axis that one occlusion hides, and how much of it the next one hides too
HIRES_CAM, OCCLUSION = "HiResCAM", "occlusion sensitivity"


@dataclass(frozen=True)
class Saliency:
    """What spoke for an output.

    Attributes:
        grid: (R, A, S) of the network's input, from 0 to 1, its largest value; all 0 where nothing spoke for it.
        method: by which it was found, in words.
    """

    grid: Tensor
    method: str


def saliency(network: nn.Module, image: Tensor, column: int) -> Saliency:
    """Which voxels spoke for a column of a network's answer.

    Args:
        network: a `TaskNetwork` or a `SlabNetwork`; it is copied.
        image: (1, C, R, A, S), what the network is fed. Of two series that it joins the map is of the first;
            occlusion hides a part of both at once.
        column: of its logits.
    """
    twin = copy.deepcopy(network).eval().requires_grad_(True)
    for module in twin.modules():
        module._forward_pre_hooks.clear()  # what watches the network's features
    twin.flips = False  # type: ignore[assignment]
    encoder = twin.encoder
    assert isinstance(encoder, Encoder)
    if getattr(twin, "join", None) and not image[:, encoder.in_channels :].any():
        image = image[:, : encoder.in_channels]  # zeros are no second series, but what hides a part of them would be
    levels = cam_levels(encoder)
    size = (int(image.shape[2]), int(image.shape[3]), int(image.shape[4]))
    if not levels:
        return Saliency(scaled(occluded(twin, image, column)), f"{OCCLUSION} (MONAI)")
    level = deepest(encoder, size)
    told = f"{HIRES_CAM} (MONAI) at level {level + 1} of {len(levels)}, one value for {written(encoder, level)} voxels"
    if isinstance(twin, SlabNetwork):
        return Saliency(scaled(slab_map(twin, image, levels[level])), f"{told}, slab by slab")
    found = HiResCAM(twin, levels[level], postprocessing=nn.Identity())(image, class_idx=column)
    return Saliency(scaled(torch.as_tensor(found)[0, 0]), told)


class HiResCAM(GradCAM):  # type: ignore[misc]
    """MONAI's GradCAM with each voxel's own gradient in place of its channel's mean."""

    def compute_map(
        self, x: Tensor, class_idx: int | None = None, retain_graph: bool = False, layer_idx: int = -1, **more: Any
    ) -> Tensor:
        """(B, 1, r, a, s): what the features of each place add to a column, 0 where they take from it."""
        _, features, slopes = self.nn_module(x, class_idx=class_idx, retain_graph=retain_graph, **more)
        return functional.relu((slopes[layer_idx] * features[layer_idx]).sum(1, keepdim=True))


def cam_levels(encoder: Encoder) -> list[str]:
    """The names of the layers, within a task's network, that make an encoder's levels; none where HiResCAM is unfit."""
    if isinstance(encoder, PaperDenseNet):
        return [f"encoder.blocks.{level}" for level in range(len(encoder.blocks))]
    if isinstance(encoder, DenseNet121):
        return [f"encoder.features.{name}" for name in LEVEL_ENDS]
    return []


def deepest(encoder: Encoder, size: tuple[int, int, int]) -> int:
    """The deepest level that still has eight voxels along R and A, or the finest."""
    fine = [
        level
        for level, stride in enumerate(encoder.strides)
        if all(n // by >= LEAST_VOXELS for n, by in zip(size[:2], stride[:2], strict=True))
    ]
    return fine[-1] if fine else 0


def written(encoder: Encoder, level: int) -> str:
    """`16×16×4`."""
    return "×".join(map(str, encoder.strides[level]))


def slab_map(network: SlabNetwork, image: Tensor, layer: str) -> Tensor:
    """Each slice's own map, weighed by its probability: (R, A, S)."""
    scores = SumOfSlices(network)
    maps = HiResCAM(scores, f"network.{layer}").compute_map(image, class_idx=0)  # (S, 1, r, a, depth)
    depth = maps.shape[4]
    middle = maps[..., (depth - 1) // 2 : depth // 2 + 1].mean(dim=4).detach()  # of an even depth, the two about it
    plane = functional.interpolate(middle, size=image.shape[2:4], mode="bilinear", align_corners=False)
    weighed = plane[:, 0] * torch.sigmoid(scores.slices)[:, None, None]  # (S, R, A)
    return weighed.permute(1, 2, 0)


class SumOfSlices(nn.Module):
    """The sum of a volume's slice logits as one column, so that one gradient serves all slabs.

    Attributes:
        slices: (S,) logits of the last volume.
    """

    slices: Tensor

    def __init__(self, network: SlabNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(1, 1, R, A, S) -> (1, 1)."""
        logits = self.network.whole(x)
        self.slices = logits[0].detach()
        return logits.sum(dim=1, keepdim=True)


def occluded(network: nn.Module, image: Tensor, column: int) -> Tensor:
    """By how much the logit falls where a part of the input is hidden: (R, A, S), 0 where it rises."""
    size = [max(n // PARTS, 1) for n in image.shape[2:]]
    occlusion = OcclusionSensitivity(
        network, mask_size=size, n_batch=1, verbose=False, mode="mean_img", overlap=OVERLAP, activate=False
    )
    with torch.no_grad():
        logits, _ = occlusion(image)  # (1, columns, R, A, S): what is left of each logit
        whole: Tensor = network(image)[0, column]
    left = torch.as_tensor(logits)[0, column]
    return (whole - left).clamp(min=0)


def scaled(found: Tensor) -> Tensor:
    """From 0 to 1, the largest."""
    found = found.detach().float().cpu().clamp(min=0)
    return found / found.max().clamp(min=1e-12)


def on_study(grid: Tensor, info: BoxInfo) -> Tensor:
    """(R, A, S) of the network's grid -> of the study's, 0 outside of the box: the way into the box, backwards."""
    edges = [
        (-start * n / (stop - start), (length - start) * n / (stop - start))
        for (start, stop), n, length in zip(info.box, info.grid, info.scan_shape, strict=True)
    ]
    return resample_box(grid[None], (edges[0], edges[1], edges[2]), info.scan_shape)[0]
