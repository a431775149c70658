"""Layers that several networks share: channel attention, fixed evidence maps and small heads (torch).

Only ``models.*.net`` and ``score`` import this module; everything else stays free of torch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "AGCA",
    "LEVELS",
    "Evidence",
    "EvidenceStem",
    "Namer",
    "Outputs",
    "Statistics",
    "dct_basis",
    "evidence_channels",
    "evidence_maps",
    "evidence_statistics",
    "luma_of",
    "median3",
    "positive",
    "statistics_channels",
]

LEVELS = ("jpeg", "gauss", "impulse", "dose", "views", "blur", "counts")
"""Degradations that the auxiliary heads name; see ``training/pool.py`` for their units."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the luma of JPEG
_LEVEL = 1.0 / 255.0
_RISES = tuple(grey * _LEVEL for grey in (6.0, 12.0, 25.0, 45.0, 70.0))
_FALLS = tuple(grey * _LEVEL for grey in (6.0, 12.0, 25.0))
_BLOCK = 8
_CLASSES = 4
_LEAST_AREA = 1e-3
_FIXED_CHANNELS = 3 + len(_RISES) + len(_FALLS) + 2 + 3 + 1 + 2


class Outputs(NamedTuple):
    """What a network says about each picture; every tensor has the batch first.

    ``score`` (n,) is nominally 0-4 and not clipped; ``weight`` (n,) the mean weight in (0, 1] that the network gave to
    what it saw, 1 where it has none; ``spread`` (n,) the predicted standard deviation of the score; ``levels``
    (n, `LEVELS` or more) the named degradations; ``features`` (n, f) the pooled features before the heads;
    ``distributions`` (n, widths, bins), from networks that have them, sum to 1 over the bins.
    """

    score: Tensor
    weight: Tensor
    spread: Tensor
    levels: Tensor
    features: Tensor
    distributions: Tensor | None = None


def positive(x: Tensor) -> Tensor:
    """Map to positive values, at least 0.001: a standard deviation."""
    return functional.softplus(x) + 1e-3


def luma_of(rgb: Tensor) -> Tensor:
    """Return the luma (ITU-R BT.601), shape (n, 1, rows, columns), of pictures (n, 3, rows, columns)."""
    return _LUMA[0] * rgb[:, 0:1] + _LUMA[1] * rgb[:, 1:2] + _LUMA[2] * rgb[:, 2:3]


class AGCA(nn.Module):
    """Adaptive graph channel attention: channels are vertices, the adjacency is learned.

    ``A = diag(softmax(k2 y)) + A2`` with ``y = W1 GAP(x)``; ``x * sigmoid(W4 ReLU(k3 y A))``.
    Xiang et al., IEEE TIM 72:1-12, 2023, doi 10.1109/TIM.2023.3248111.
    """

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = channels // ratio
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.diagonal = nn.Parameter(torch.ones(1))
        self.adjacency = nn.Parameter(torch.full((hidden, hidden), 1e-6))
        self.gain = nn.Parameter(torch.ones(1))
        self.expand = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``x`` (n, channels, rows, columns)."""
        y = self.reduce(x.mean(dim=(2, 3)))
        diagonal = torch.softmax(self.diagonal * y, dim=1)
        z = functional.relu(self.gain * (y * diagonal + y @ self.adjacency))
        scale = torch.sigmoid(self.expand(z))
        return x * scale[:, :, None, None]


def median3(x: Tensor) -> Tensor:
    """3x3 median with replicated edges, by sorting columns first (Smith 1996); ``x`` is (n, c, rows, columns)."""
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    low, middle, high = _sort3(padded[:, :, :-2], padded[:, :, 1:-1], padded[:, :, 2:])
    low_max = torch.maximum(torch.maximum(low[..., :-2], low[..., 1:-1]), low[..., 2:])
    high_min = torch.minimum(torch.minimum(high[..., :-2], high[..., 1:-1]), high[..., 2:])
    centre = _sort3(middle[..., :-2], middle[..., 1:-1], middle[..., 2:])[1]
    return _sort3(low_max, centre, high_min)[1]


def _sort3(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)


def dct_basis(size: int = _BLOCK) -> Tensor:
    """Orthonormal 2-D DCT-II basis without the constant, shape (size^2 - 1, 1, size, size)."""
    n = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * (2 * n[None, :] + 1) * n[:, None] / (2 * size)) * math.sqrt(2.0 / size)
    rows[0] /= math.sqrt(2.0)
    basis = torch.einsum("ai,bj->abij", rows, rows).reshape(size * size, 1, size, size)
    return basis[1:].to(torch.float32)


def evidence_channels() -> int:
    """Channels that `evidence_maps` returns."""
    return _FIXED_CHANNELS + _BLOCK * _BLOCK - 1


def evidence_maps(rgb: Tensor, basis: Tensor) -> Tensor:
    """Local evidence of noise, impulses and block coding, measured at full resolution on the 8x8 grid.

    Everything is a fixed measurement, so that a small training set is spent on what it means and not on how
    to see it: impulses by the tails of the median residual, noise by the log energy of the high pass of luma (at two
    scales) and of two colour differences, coding and texture by the log magnitude of the 8x8 cosine spectrum.

    Parameters
    ----------
    rgb
        Display values in [0, 1], shape (n, 3, rows, columns), sides multiples of 8.
    basis
        The cosine basis, shape (63, 1, 8, 8).

    Returns
    -------
    Tensor
        Shape (n, `evidence_channels` (), rows / 8, columns / 8), each channel of order one.
    """
    # Plane after plane: the sums below run along rows.
    rgb = rgb.contiguous()
    luma = luma_of(rgb)
    residual = luma - median3(luma)
    tails = [_pool((residual - rise).clamp_min(0)) for rise in _RISES]
    tails += [_pool((-residual - fall).clamp_min(0)) for fall in _FALLS]
    peaks = [functional.max_pool2d(residual, _BLOCK), functional.max_pool2d(-residual, _BLOCK)]
    planes = torch.cat([luma, rgb[:, 0:1] - luma, rgb[:, 2:3] - luma], 1)
    half = _pool(luma, 2)
    spectrum = functional.conv2d(luma, basis.to(luma.dtype), stride=_BLOCK)
    parts = [
        _pool(rgb) * 2 - 1,
        torch.log1p(torch.cat(tails, 1) * 2000) * 0.5,
        torch.cat(peaks, 1) * 4,
        _log_energy(_pool(_high_pass(planes).square())),
        _log_energy(_pool(_high_pass(half).square(), _BLOCK // 2)),
        _edges(luma),
        torch.log(spectrum.abs() + 0.5 * _LEVEL) * 0.4 + 1.6,
    ]
    return torch.cat(parts, 1)


def _high_pass(x: Tensor) -> Tensor:
    """Subtract the 3x3 mean with replicated edges; two sums of shifted planes, four times as fast as ``avg_pool2d``."""
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return x - (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def _pool(x: Tensor, size: int = _BLOCK) -> Tensor:
    """Average blocks of ``size``; sums first over rows, then over columns, faster than ``avg_pool2d``."""
    count, channels, rows, columns = x.shape
    bands = x.reshape(count, channels, rows // size, size, columns).sum(3)
    return bands.reshape(count, channels, rows // size, columns // size, size).sum(4) / size**2


def _log_energy(mean_square: Tensor) -> Tensor:
    return torch.log(mean_square + (0.3 * _LEVEL) ** 2) * 0.25 + 2.0


def _edges(luma: Tensor) -> Tensor:
    """Log energy of the steps along rows and along columns: anisotropic where there are streaks."""
    across = functional.pad(luma[..., 1:] - luma[..., :-1], (0, 1, 0, 0))
    down = functional.pad(luma[..., 1:, :] - luma[..., :-1, :], (0, 0, 0, 1))
    return _log_energy(_pool(torch.cat([across, down], 1).square()))


def statistics_channels() -> int:
    """Values that `evidence_statistics` returns."""
    return _CLASSES * (2 * evidence_channels() + len(_RISES) + len(_FALLS) + 2)


def evidence_statistics(maps: Tensor) -> Tensor:
    """Mean and spread of the evidence over four classes of block brightness: air, dark, middle and bright.

    Noise is read from the air, impulses are counted per brightness; a plain mean would mix the noise
    with what the picture shows.

    Parameters
    ----------
    maps
        What `evidence_maps` returned, shape (n, channels, rows, columns).

    Returns
    -------
    Tensor
        Shape (n, `statistics_channels` ()).
    """
    luma = luma_of((maps[:, :3] + 1) * 127.5)
    tails = torch.expm1(maps[:, 3 : 3 + len(_RISES) + len(_FALLS)] * 2) / 2000
    air, dark, bright = (torch.sigmoid((t - luma) / w) for t, w in ((8, 1.5), (20, 4), (80, 8)))
    middle, bright = (1 - dark) * bright, 1 - bright
    parts = []
    for share in (air, dark, middle, bright):
        area = share.sum((2, 3)) + _LEAST_AREA
        mean = (maps * share).sum((2, 3)) / area
        # E(x²) - E(x)² with the mean taken off first: of a class that hardly occurs it is a difference of equals.
        apart = ((maps - mean[:, :, None, None]).square() * share).sum((2, 3)) / area
        variance = apart + mean.square() * _LEAST_AREA / area
        rate = torch.log((tails * share).sum((2, 3)) / area + 1e-5) * 0.3 + 2
        level = torch.log((luma * share).sum((2, 3)) / area + 1) * 0.5
        parts += [mean, variance.clamp_min(1e-8).sqrt(), rate, level, share.mean((2, 3))]
    return torch.cat(parts, 1)


class Statistics(nn.Module):
    """Standardise the evidence statistics by the training data's own mean and spread, and read them.

    The two buffers are set once from training pictures (`observe`) and travel with the weights: unlike batch
    normalisation they do not depend on the batch.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(statistics_channels()))
        self.register_buffer("spread", torch.ones(statistics_channels()))
        self.read = nn.Sequential(nn.Linear(statistics_channels(), channels), nn.GELU(), nn.Dropout(dropout))

    def observe(self, statistics: Tensor) -> None:
        """Take mean and spread from the statistics of many pictures, shape (n, statistics)."""
        self.mean.copy_(statistics.mean(0))
        self.spread.copy_(statistics.std(0) + 0.02)

    def forward(self, statistics: Tensor) -> Tensor:
        """Return (n, channels)."""
        read: Tensor = self.read(((statistics - self.mean) / self.spread).clamp(-5, 5))
        return read


class EvidenceStem(nn.Module):
    """Stride-8 stem: fixed evidence maps beside a small learned convolution of the picture."""

    basis: Tensor

    def __init__(self, channels: int, learned: int = 32) -> None:
        super().__init__()
        self.register_buffer("basis", dct_basis(), persistent=False)
        self.learned = nn.Sequential(
            nn.Conv2d(3, learned // 4, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(learned // 4, learned // 2, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(learned // 2, learned, 3, stride=2, padding=1),
        )
        self.mix = nn.Sequential(
            nn.Conv2d(evidence_channels() + learned, channels, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Map display values in [0, 1], (n, 3, rows, columns), to features and statistics.

        Returns
        -------
        tuple[Tensor, Tensor]
            Shapes (n, channels, rows / 8, columns / 8) and (n, `statistics_channels` ()).
        """
        with torch.no_grad():
            fixed = evidence_maps(rgb, self.basis)
            statistics = evidence_statistics(fixed)
        return self.mix(torch.cat([fixed, self.learned(rgb * 2 - 1)], 1)), statistics


class Evidence(nn.Module):
    """`EvidenceStem` and its `Statistics` in one: what the small networks begin with."""

    def __init__(self, channels: int, told: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = EvidenceStem(channels)
        self.statistics = Statistics(told, dropout)

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Map display values in [0, 1] to (n, channels, rows / 8, columns / 8) and (n, told)."""
        x, statistics = self.stem(rgb)
        return x, self.statistics(statistics)

    @torch.no_grad()
    def observe(self, pictures: Tensor) -> None:
        """Take mean and spread of the statistics from training pictures, once, before training."""
        self.statistics.observe(self.stem(pictures)[1])


class Namer(nn.Module):
    """Names the degradations, and turns the names into features that the heads behind it are told."""

    def __init__(self, inputs: int, told: int, levels: int = len(LEVELS)) -> None:
        super().__init__()
        self.name = nn.Linear(inputs, levels)
        self.embed = nn.Sequential(nn.Linear(levels, told), nn.GELU())

    def forward(self, described: Tensor) -> tuple[Tensor, Tensor]:
        """Return levels (n, levels) and features (n, told) of what was described (n, inputs)."""
        levels = self.name(described)
        return levels, self.embed(levels)
