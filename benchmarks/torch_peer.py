"""The nets of pal_jax/models.py, VICReg and its step as plain PyTorch users write them.

Same layers, same widths, same parameters; channels last. Needs torch, and torchvision for the
augmentations.
"""

# pyright: reportMissingImports=false
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as f

EPS = 1e-4  # as losses.vicreg


def norm_relu(width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def merge(inner: int, outer: int) -> nn.Sequential:
    """2x2 patches to one: the convolution that models.py writes as a matrix product."""
    return nn.Sequential(nn.Conv2d(inner, outer, 2, 2, bias=False), *norm_relu(outer))


def conv(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1, bias=False), *norm_relu(outer))


class Beside(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Flat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)  # channels last, so no copy


def convnet(side: int, channels: int, width: int = 32) -> tuple[nn.Module, int]:
    w = width
    if side <= 16:
        layers = [conv(channels, w), merge(w, 2 * w), merge(2 * w, 4 * w)]
        flat = (side // 4) ** 2 * 4 * w
    else:
        layers = [merge(channels, w), merge(w, 2 * w), Beside(conv(2 * w, 2 * w))]
        layers += [merge(2 * w, 4 * w), Beside(conv(4 * w, 4 * w)), merge(4 * w, 4 * w)]
        flat = (side // 16) ** 2 * 4 * w
    last = [nn.Linear(flat, 8 * w, bias=False), nn.BatchNorm1d(8 * w), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, Flat(), *last), 8 * w


class BasicBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outer)
        nn.init.zeros_(self.second_norm.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inner != outer:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = f.relu(self.first_norm(self.first(x)), inplace=True)
        return f.relu(self.second_norm(self.second(y)) + self.shortcut(x), inplace=True)


def resnet18(side: int, channels: int, width: int = 64) -> tuple[nn.Module, int]:
    """With the stem for 32 x 32 images."""
    layers: list[nn.Module] = [conv(channels, width)]
    inner = width
    for stage in range(4):
        for index in range(2):
            outer = width * 2**stage
            layers.append(BasicBlock(inner, outer, 2 if stage and not index else 1))
            inner = outer
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inner


ENCODERS = {"convnet": convnet, "resnet18": resnet18}


def vicreg(z: torch.Tensor) -> torch.Tensor:
    """The published two-view VICReg (25, 25, 1); z is [view 1; view 2]."""
    a, b = z.chunk(2)
    n, k = a.shape
    terms = [25 * f.mse_loss(a, b)]
    for view in (a, b):
        centred = view - view.mean(dim=0)
        std = torch.sqrt(centred.var(dim=0) + EPS)
        covariance = centred.T @ centred / (n - 1)
        off = covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()
        terms += [25 * f.relu(1 - std).mean() / 2, off / k]
    return torch.stack(terms).sum()


class Peer:
    """The whole step of one net: forward, VICReg, backward, AdamW."""

    def __init__(self, encoder: str, side: int, channels: int, projector: tuple[int, int, int]):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        net, width = ENCODERS[encoder](side, channels)
        hidden, layers, out = projector
        head: list[nn.Module] = []
        for _ in range(layers - 1):
            head += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden)]
            head += [nn.ReLU(inplace=True)]
            width = hidden
        self.net = nn.Sequential(net, *head, nn.Linear(width, out, bias=False))
        self.net = self.net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3, weight_decay=1e-4)

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.net.parameters())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return vicreg(self.net(x))

    def gradient(self, x: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        vicreg(self.net(x)).backward()

    def step(self, x: torch.Tensor) -> None:
        self.gradient(x)
        self.optimizer.step()


def channels_last(x: np.ndarray) -> torch.Tensor:
    """[N, H, W, C] as a tensor [N, C, H, W] whose memory stays as it is."""
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def augmentation(side: int, channels: int, s: dict[str, float]) -> Callable[[np.ndarray], Any]:
    """images [B, H, W, C] uint8 -> views [2 B, C, H, W], by torchvision, image by image."""
    from PIL import Image
    from torchvision import transforms as t

    if channels == 3:
        jitter = t.ColorJitter(s["brightness"], s["contrast"], s["saturation"], s["hue"])
        steps = [t.RandomResizedCrop(side, scale=(1 - s["crop"], 1.0))]
        steps += [t.RandomHorizontalFlip(s["flip"]), jitter, t.RandomGrayscale(s["grayscale"])]
    else:
        moved = s["shift"] / side
        low, high = 1 / (1 + s["zoom"]), 1 + s["zoom"]
        steps = [t.RandomAffine(s["rotate"], (moved, moved), (low, high))]
    moments = [0.5] * channels, [0.25] * channels
    compose = t.Compose([*steps, t.ToTensor(), t.Normalize(*moments)])

    def views(images: np.ndarray) -> torch.Tensor:
        pictures = [Image.fromarray(i if channels == 3 else i[..., 0]) for i in images]
        rows = torch.stack([compose(picture) for _ in range(2) for picture in pictures])
        return rows.contiguous(memory_format=torch.channels_last)

    return views
