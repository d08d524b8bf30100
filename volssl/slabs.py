"""One network marks suspects, the other scores each slice from a slab about it (Ghesu et al. 2022, section 4.4).

The paper's classifier was a ResNet-50w2 in 2D: five slices and the mask of suspects were its six channels, which a 1×1
convolution brought to the three of a pretrained network for photographs' size. Encoders here are three-dimensional and
pretrained on one channel, so that the five slices are a slab's depth, and image and suspicion its two channels, which
a 1×1×1 convolution brings to the one the encoder knows. Any encoder fits, and its weights are used as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders.base import Encoder

MULTIPLE = 16  # of the voxels that the suspects' network takes along each axis, which it halves four times
RARE = 0.005  # share of voxels that it marks at first, as focal loss begins (Lin et al. 2017): from a half, most of a
# training would pass until the background is dark
DARK = log(RARE / (1 - RARE))


class SuspectNetwork(nn.Module):
    """A small U-Net that marks voxels; as a network of the task it gives the highest logit of volume and slices.

    The paper's was a 2.5D encoder and decoder of its own (its reference 57); ours is MONAI's, in 3D.

    Args:
        features: channels of its five levels, and of the last layers at full resolution.
    """

    def __init__(self, features: Sequence[int] = (8, 8, 16, 32, 64, 8)) -> None:
        super().__init__()
        self.settings = {"features": tuple(features)}
        # By batch: it is trained on crops and marks whole volumes, of which other norms would measure the air too.
        self.unet = BasicUNet(3, 1, 1, features=tuple(features), norm="batch")
        self.multiple = MULTIPLE  # TorchScript reads no global
        nn.init.constant_(self.unet.final_conv.bias, DARK)
        self.held_out: HeldOut | None = None  # no part of the network: its weights are not saved

    def voxels(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """(B, 1, R, A, S) -> logits of the same shape, for any size.

        Args:
            index: (B,) of training samples, which networks that have not seen them mark, where there are such.
        """
        if self.held_out is not None and index is not None:
            return self.held_out.voxels(x, index)
        lacking = [-n % self.multiple for n in x.shape[2:]]
        logits: Tensor = self.unet(functional.pad(x, [0, lacking[2], 0, lacking[1], 0, lacking[0]]))
        return logits[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, R, A, S) -> logits (B, 1 + S): of the volume, then of its slices from inferior to superior."""
        return with_highest(self.voxels(x).amax(dim=(1, 2, 3)))


class HeldOut:
    """Networks of suspects of which each training sample has one that did not learn from its patient.

    Args:
        networks: trained on different parts of the training patients.
        which: (samples,) the place of each sample's network.
    """

    def __init__(self, networks: Sequence[SuspectNetwork], which: Tensor) -> None:
        self.networks, self.which = [network.eval().requires_grad_(False) for network in networks], which

    def voxels(self, x: Tensor, index: Tensor) -> Tensor:
        """(B, 1, R, A, S), of the samples (B,) -> logits of the same shape."""
        which = self.which.to(index.device)[index]
        logits = x.new_zeros(x.shape)
        for place in which.unique().tolist():  # type: ignore[no-untyped-call]
            rows = which == place
            logits[rows] = self.networks[place].to(x.device).voxels(x[rows]).to(x.dtype)
        return logits


class SlabNetwork(nn.Module):
    """Scores each slice by a slab about it, of the image and of the suspects' probability; the volume by its highest.

    The suspects' network is not trained here. Its batch has no say: a volume's scores are its own in evaluation mode.

    Args:
        encoder: any `Encoder` of one channel. Where it needs more slices than a slab has, empty ones are laid around.
        suspects: marks voxels.
        slab: slices, an odd number; beyond the ends of the volume they are empty.
        scored: slices of each volume that a step of training scores, drawn anew each time; 0 for all. Neighbouring
            slabs share four of five slices, so that a few tell nearly as much as all, in a fraction of the time.
        dropout: on the pooled feature.
        flips: in evaluation mode, give the mean of the logits of a volume and of its left-right mirror image.

    Raises:
        ValueError: for an even slab, or an encoder of several channels.
    """

    def __init__(
        self,
        encoder: Encoder,
        suspects: SuspectNetwork,
        *,
        slab: int = 5,
        scored: int = 16,
        dropout: float = 0.2,
        flips: bool = False,
    ) -> None:
        if slab < 1 or slab % 2 == 0 or encoder.in_channels != 1:
            raise ValueError(
                f"a slab has an odd number of slices and its encoder one channel, not {slab} and {encoder.in_channels}"
            )
        super().__init__()
        self.encoder, self.suspects, self.slab, self.scored, self.flips = encoder, suspects, slab, scored, flips
        self.depth = max(slab, encoder.min_size[2])
        self.depth += -self.depth % encoder.multiple[2]
        self.mix = nn.Conv3d(2, 1, kernel_size=1)
        # The sum: what the encoder was pretrained on, and suspects shine.
        nn.init.ones_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(encoder.dim, 1)
        self.suspects.requires_grad_(False)

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """(B, 1, R, A, S) -> logits (B, 1 + S): of the volume, then of its slices from inferior to superior.

        Slices that a step of training did not score are NaN, and then the volume is.

        Args:
            index: (B,) of training samples: their suspects are marked by networks that have not seen them, where the
                first stage has such.
        """
        if self.training:
            count = self.scored if 0 < self.scored < x.shape[4] else x.shape[4]
            chosen = torch.rand(len(x), x.shape[4], device=x.device).argsort(dim=1)[:, :count]
            scores = self.logits(x, chosen, index)
            return with_highest(scores.new_full((len(x), x.shape[4]), float("nan")).scatter(1, chosen, scores))
        # The slabs of one volume are a batch. Tracing and exporting would take the number of volumes for fixed.
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            at_once = traced()
            if at_once:
                return with_highest(self.whole(x))
        return torch.cat([with_highest(self.whole(volume)) for volume in torch.split(x, 1)])

    def whole(self, x: Tensor) -> Tensor:
        """(B, 1, R, A, S) -> the logits of all slices, (B, S)."""
        every = torch.arange(x.shape[4], device=x.device)[None].expand(x.shape[0], -1)
        logits = self.logits(x, every)
        return (logits + self.logits(x.flip([2]), every)) / 2 if self.flips else logits

    def logits(self, x: Tensor, chosen: Tensor, index: Tensor | None = None) -> Tensor:
        """(B, 1, R, A, S), and the slices of each volume (B, N) -> their logits (B, N)."""
        with torch.no_grad():
            suspicion = torch.sigmoid(self.suspects.voxels(x, index))
        both = self.mix(self.slabs(torch.cat([x, suspicion.to(x.dtype)], dim=1), chosen))
        scores: Tensor = self.score(self.dropout(self.encoder.pool(self.encoder(both))))
        return scores.view_as(chosen)

    def slabs(self, x: Tensor, chosen: Tensor) -> Tensor:
        """(B, C, R, A, S), and slices (B, N) -> a slab about each, (B N, C, R, A, depth)."""
        half, around = self.slab // 2, self.depth - self.slab
        padded = functional.pad(x, [half, half]).permute(0, 4, 1, 2, 3)  # (B, S + 2 half, C, R, A)
        rows = torch.arange(x.shape[0], device=x.device)[:, None, None]
        slices = chosen[:, :, None] + torch.arange(self.slab, device=x.device)  # (B, N, slab)
        taken = padded[rows, slices].flatten(0, 1).permute(0, 2, 3, 4, 1)  # (B N, C, R, A, slab)
        return functional.pad(taken, [around // 2, around - around // 2])

    def train(self, mode: bool = True) -> SlabNetwork:
        """Training mode, but for the suspects' network."""
        super().train(mode)
        self.suspects.eval()
        return self


def traced() -> bool:
    """Whether a forward pass is looked on at by `torch.jit.trace`, the exporter to ONNX or `torch.export`."""
    return bool(torch.jit.is_tracing() or torch.compiler.is_exporting())  # type: ignore[attr-defined, no-untyped-call]


def with_highest(slices: Tensor) -> Tensor:
    """Logits of slices (B, S) -> (B, 1 + S): the highest of each volume before them, NaN where one is.

    The highest has no gradient: that of a NaN would be one.
    """
    return torch.cat([slices.detach().amax(dim=1, keepdim=True), slices], dim=1)
