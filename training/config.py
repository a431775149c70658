"""The configuration of one training run, read strictly from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RunConfig", "Share", "read_config"]

Positive = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Share(_Strict):
    """How many pictures of one source go into every batch.

    ``display`` takes clean pictures of the pool and gives them fresh display degradations at known levels.
    ``pseudo`` takes pictures whose score is the mean of several teachers. ``scenes`` slices are drawn per batch, and
    ``versions`` pictures of each. ``{fold}`` in ``pool`` is the fold held out, or "all".
    """

    pool: str
    kind: Literal["ct", "petct", "pt", "natural"]
    mode: Literal["rated", "simulated", "display", "pseudo"]
    scenes: Positive
    versions: Positive = 1
    weight: float = Field(1.0, gt=0)
    judged: bool = True
    """Whether the pictures of held-out groups are judged; pictures made only to vary the training are not."""


class RunConfig(_Strict):
    """Everything that decides a run; saved beside its checkpoint.

    ``options`` are changes to the network (an ablation). ``init`` is a run folder or a safetensors
    file to start from; ``{fold}`` in it is the fold held out, or "all": no start has seen what the run must not see.
    ``absent_levels``: degradations that a modality class cannot have are taught as zero, not as unknown.

    ``init: timm`` starts the backbones of a paper-size network from timm's weights, which are downloaded then.
    ``observe_again`` measures the network's input statistics anew after a start from another domain. ``frozen`` names
    the parts of the network that do not learn. ``left_out`` folds are not seen either, and not judged: those of a
    teacher. A ``score_weight`` of 0 leaves the naming of the degradations as the task (an upstream stage).
    """

    model: str
    options: dict[str, bool | int | float | str] = {}
    init: Path | None = None
    shares: tuple[Share, ...]
    steps: Positive
    seed: int = 20
    folds: Positive = 5
    held_out: int | None = None
    left_out: tuple[int, ...] = ()
    observe_again: bool = False
    frozen: tuple[str, ...] = ()
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: int = Field(50, ge=0)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    observe_steps: Positive = 12
    score_weight: float = Field(1.0, ge=0)
    level_weight: float = Field(0.5, ge=0)
    rank_weight: float = Field(0.2, ge=0)
    cell_weight: float = Field(0.3, ge=0)
    distribution_weight: float = Field(0.5, ge=0)
    absent_levels: bool = False
    threads: Positive = 1
    loader_processes: int = Field(0, ge=0)
    checkpoint_every: Positive = 200

    def for_fold(self) -> RunConfig:
        """Return this configuration with ``{fold}`` filled in wherever a name depends on the fold held out."""
        fold = "all" if self.held_out is None else self.held_out
        shares = tuple(share.model_copy(update={"pool": share.pool.format(fold=fold)}) for share in self.shares)
        init = None if self.init is None else Path(str(self.init).format(fold=fold))
        return self.model_copy(update={"shares": shares, "init": init})


def read_config(path: Path) -> RunConfig:
    """Read a YAML file; an unknown key or an impossible value is an error that names it.

    ``base: OTHER.yaml`` takes every key that is not given from another file of the same folder.
    """
    return RunConfig.model_validate(_keys(path))


def _keys(path: Path) -> dict[str, Any]:
    keys: dict[str, Any] = yaml.safe_load(path.read_text())
    base = keys.pop("base", None)
    return keys if base is None else _keys(path.parent / base) | keys
