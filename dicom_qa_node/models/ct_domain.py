"""Whether a CT picture is one of those that the CT models were made for, by the encoder's features; numpy only.

Two measures decide together: how far the pooled features lie from those of the training scanners (`ood`), and a linear
classifier of known outliers (photographs, fused pictures, phantoms, limbs). An outlier of a known kind need not lie
far out, and an unknown one need not look like a known kind.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models.card import DomainFile
from dicom_qa_node.models.ood import OodModel, fit

__all__ = ["CtDomain", "fit_ct_domain", "pack", "read_ct_domain"]

FloatArray = npt.NDArray[np.float32]

POOLED = 1632
MEANS = 816
BANDS_FROM = 2328
_KNOWN, _BOTH, _DISTANT, _FAR = 0.42, 0.28, 1.5, 2.8
"""Limits: of the classifier alone, of the classifier together with the distance, and of the distance alone."""

_PENALTY, _OUTLIER = 0.1, 2.0
_FIELDS = ("mean", "scale", "basis", "residual")


@dataclass(frozen=True)
class CtDomain:
    """``distance`` is the model of the pooled features; ``weight`` (848,) and ``bias`` (1,) the classifier."""

    distance: OodModel
    weight: FloatArray
    bias: FloatArray

    def strangeness(self, statistics: npt.ArrayLike) -> FloatArray:
        """Return how strange pictures are, (n,), of statistics (n, 2360): above 1 they lie outside."""
        x = np.asarray(statistics, np.float64)
        known = _classified(x) @ self.weight.astype(np.float64) + float(self.bias[0])
        far = np.asarray(self.distance.distance(x[:, :POOLED]), np.float64)
        both = np.minimum(known / _BOTH, far / _DISTANT)
        return np.asarray(np.maximum(np.maximum(known / _KNOWN, both), np.maximum(far / _FAR, 0.0)), np.float32)


def fit_ct_domain(inside: FloatArray, outside: FloatArray) -> CtDomain:
    """Fit both measures on statistics (n, 2360) of the training pictures and of outliers."""
    x = np.concatenate([_classified(inside), _classified(outside)]).astype(np.float64)
    y = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    importance = np.where(y > 0, _OUTLIER, 1.0)
    mean, spread = x.mean(0), x.std(0)
    spread = spread + 1e-3 * spread.max() + 1e-6
    z = (x - mean) / spread
    centre = np.average(y, weights=importance)
    gram = (z.T * importance) @ z + _PENALTY * z.shape[1] * np.eye(z.shape[1])
    weight = np.linalg.solve(gram, (z.T * importance) @ (y - centre)) / spread
    bias = np.array([centre - weight @ mean])
    return CtDomain(fit(inside[:, :POOLED]), weight.astype(np.float32), bias.astype(np.float32))


def pack(domain: CtDomain) -> bytes:
    """Serialise as safetensors."""
    from safetensors.numpy import save

    tensors = {f"distance.{name}": np.ascontiguousarray(getattr(domain.distance, name)) for name in _FIELDS}
    return save(tensors | {"weight": domain.weight, "bias": domain.bias})


def read_ct_domain(described: DomainFile, folder: Path) -> CtDomain:
    """Read the file that the encoder's card names.

    Raises
    ------
    Misconfigured
        The file is missing, or has another checksum.
    """
    from safetensors.numpy import load

    path = folder / described.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"the domain file {path} is missing ({error.strerror}); install it") from error
    found = hashlib.sha256(content).hexdigest()
    if found != described.sha256:
        raise Misconfigured(f"the domain file {path} is not the card's: SHA-256 {found} instead of {described.sha256}")
    tensors = load(content)
    return CtDomain(OodModel(*(tensors[f"distance.{name}"] for name in _FIELDS)), tensors["weight"], tensors["bias"])


def _classified(statistics: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.concatenate([statistics[:, :MEANS], statistics[:, BANDS_FROM:]], 1).astype(np.float64)
