"""Does what a network is said to have looked at lie in the blood? HiResCAM, Grad-CAM and occlusion against the masks.

    python benchmarks/saliency.py RUN STORE LABELS --studies 30 --occlusion

RUN is of `volssl finetune hemorrhage`; LABELS has a column `mask`, as `volssl simulate head-ct` writes it. Of the
positive test studies with the highest scores three figures are printed for each way: how much of the map lies in the
blood, over the blood's share of the head (the median; 1 is chance); in how many studies the map's largest value lies in
it; in how many within 4 voxels in plane and 2 slices of it.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.visualize import GradCAM
from torch import Tensor, nn
from torch.nn import functional

from volssl.bundle.evaluate import labels_for, predict_split
from volssl.bundle.runs import load_run
from volssl.bundle.saliency import cam_levels, deepest, occluded, saliency, scaled
from volssl.data import Store
from volssl.tasks import BoxCache, TaskViews
from volssl.tasks.masks import Masks, mask_files


def main() -> None:
    """Print the figures."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for place in ("run", "store", "labels"):
        options.add_argument(place, type=Path)
    options.add_argument("--studies", type=int, default=30)
    options.add_argument("--occlusion", action="store_true", help="125 passes of the network a study")
    given = options.parse_args()
    run, store, table = load_run(given.run), Store.open(given.store), given.labels
    labels = labels_for(run.task, store, table)
    label = run.task.label_columns[0]
    views = TaskViews(run.task, labels, cache=BoxCache())
    found = predict_split(run, store, labels, views, "test", run.fold)
    masks = Masks(mask_files(labels.loc[found["id"]], table, label=label))
    chosen = found[found[f"y_{label}"] == 1].nlargest(given.studies, f"p_{label}")["id"]
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "HiResCAM": lambda image: saliency(run.network, image, 0).grid,
        "Grad-CAM": lambda image: grad_cam(run.network, image),
    }
    if given.occlusion:
        ways["occlusion"] = lambda image: scaled(occluded(run.network, image, 0))
    for name, way in ways.items():
        figures, start = [], time.perf_counter()
        for key in chosen:
            image, info = views.preprocessed(store.scan(key))
            blood = masks.of(store.scan(key), info)
            assert blood is not None
            figures.append(told(way(image[None]), blood[0] > 0, image[0] > 0.05))
        enriched, hit, near = np.array(figures).T
        each = (time.perf_counter() - start) / len(figures)
        print(
            f"{name:10} {len(figures)} studies: {np.median(enriched):.1f} times chance, largest value in the blood in "
            f"{hit.mean():.0%}, near it in {near.mean():.0%}; {each:.1f} s a study"
        )


def told(found: Tensor, blood: Tensor, head: Tensor) -> tuple[float, float, float]:
    """The three figures of a study."""
    share = float(found[blood].sum() / found.sum().clamp(min=1e-9))
    most = np.unravel_index(int(found.argmax()), found.shape)
    around = functional.max_pool3d(blood[None, None].float(), (9, 9, 5), 1, (4, 4, 2))[0, 0] > 0
    return share / float(blood.sum() / head.sum()), float(blood[most]), float(around[most])


def grad_cam(network: nn.Module, image: Tensor) -> Tensor:
    """MONAI's GradCAM as it is, at the level that HiResCAM looks at."""
    twin = copy.deepcopy(network).eval().requires_grad_(True)
    level = cam_levels(twin.encoder)[deepest(twin.encoder, tuple(image.shape[2:]))]  # type: ignore[arg-type]
    return scaled(torch.as_tensor(GradCAM(twin, level, postprocessing=nn.Identity())(image, class_idx=0))[0, 0])


if __name__ == "__main__":
    main()
