"""How far a picture lies from everything a network was trained on, by its penultimate features; numpy only.

The distance is Mahalanobis's under a probabilistic principal component model of the training features (Tipping & Bishop
1999, J R Stat Soc B 61:611; for novelty: Lee et al. 2018, arXiv 1807.03888), per feature, so that a typical training
picture lies near 1. Its limit is a quantile over held-out pictures, see ``training/domain.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models.card import DomainFile

__all__ = ["OodModel", "fit", "pack", "read_ood_models", "unpack"]

FloatArray = npt.NDArray[np.float32]
_FIELDS = ("mean", "scale", "basis", "residual")
COMPONENTS = 32


@dataclass(frozen=True)
class OodModel:
    """The features of one modality class.

    ``mean`` and ``scale`` (f,) standardise; ``basis`` (k, f) projects onto the principal components, each divided by
    its standard deviation; ``residual`` (1,) is the mean variance outside them.
    """

    mean: FloatArray
    scale: FloatArray
    basis: FloatArray
    residual: FloatArray

    def distance(self, features: npt.ArrayLike) -> FloatArray:
        """Return the distance (n,) of features (n, f)."""
        x = (np.asarray(features, np.float64) - self.mean) / self.scale
        basis = self.basis.astype(np.float64)
        lengths = np.linalg.norm(basis, axis=1)
        inside = x @ basis.T
        outside = np.square(x).sum(1) - np.square(inside / lengths).sum(1)
        squared = np.square(inside).sum(1) + np.maximum(outside, 0.0) / float(self.residual[0])
        return np.asarray(np.sqrt(squared / x.shape[1]), np.float32)


def fit(features: npt.ArrayLike, components: int = COMPONENTS) -> OodModel:
    """Fit the model to training features (n, f)."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) <= components + 1:
        raise ValueError(f"{len(x)} pictures are too few for {components} components")
    mean = x.mean(0)
    # a feature that hardly moves in training must not shout about a rounding error
    spread = x.std(0)
    scale = np.maximum(spread, 0.1 * float(np.median(spread)) + 1e-6)
    _, singular, directions = np.linalg.svd((x - mean) / scale, full_matrices=False)
    variance = np.square(singular) / (len(x) - 1)
    residual = max(float(variance[components:].sum()) / max(x.shape[1] - components, 1), 1e-6)
    basis = directions[:components] / np.sqrt(np.maximum(variance[:components], residual))[:, None]
    return OodModel(*(np.asarray(part, np.float32) for part in (mean, scale, basis, [residual])))


def pack(domains: Mapping[str, OodModel]) -> bytes:
    """Serialise the domains of several kinds as safetensors: the same bytes for the same content."""
    from safetensors.numpy import save

    return save({f"{kind}.{name}": getattr(domains[kind], name) for kind in sorted(domains) for name in _FIELDS})


def unpack(content: bytes) -> dict[str, OodModel]:
    """Read back what `pack` wrote."""
    from safetensors.numpy import load

    tensors = load(content)
    kinds = sorted({key.split(".")[0] for key in tensors})
    return {kind: OodModel(*(tensors[f"{kind}.{name}"] for name in _FIELDS)) for kind in kinds}


def read_ood_models(described: DomainFile, folder: Path) -> dict[str, OodModel]:
    """Read the file that a card names.

    Raises
    ------
    Misconfigured
        The file is missing, or has another checksum.
    """
    path = folder / described.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"the domain file {path} is missing ({error.strerror}); install it") from error
    found = hashlib.sha256(content).hexdigest()
    if found != described.sha256:
        raise Misconfigured(f"the domain file {path} is not the card's: SHA-256 {found} instead of {described.sha256}")
    return unpack(content)
