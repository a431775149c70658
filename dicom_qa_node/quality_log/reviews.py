"""Reviews of scores: signed, append-only, several reviewers; and their export as training labels."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import ReviewMark, log_rows, reviews
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import SeriesResult, result_from_json
from dicom_qa_node.domain.uids import uid_key
from dicom_qa_node.quality_log.review_queue import close_assignment

__all__ = [
    "COLUMNS", "NEAR", "Label", "LabelledSlice", "Review", "ReviewReason", "Reviews", "label_lines", "labelled_slices",
]  # fmt: skip

NEAR = 0.5
"""A reviewer's own score within this of the node's agrees with it: scores are given in steps of one or a half."""

_MOST_TEXT = 2000


class ReviewReason(StrEnum):
    """Why a reviewer scores differently; the value is stored and exported."""

    NOISE = "noise"
    RESOLUTION = "resolution"
    MOTION = "motion"
    METAL = "metal"
    STREAKS = "streaks"
    COVERAGE = "coverage"
    CONTRAST = "contrast"
    REGISTRATION = "registration"
    UPTAKE = "uptake"
    PATHOLOGY = "pathology"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Review:
    """One signed opinion on one version; ``score`` is 0-4, None where the reviewer gave none."""

    review_id: int
    series_instance_uid: str
    version: int
    at: dt.datetime
    reviewer: str
    agrees: bool
    score: float | None
    reason: str
    comment: str


@dataclass(frozen=True, slots=True)
class Label:
    """What training learns from one version: the mean of its reviewers' scores, 0-4."""

    series_instance_uid: str
    study_instance_uid: str
    version: int
    score: float
    reviewers: int
    result: SeriesResult


class Reviews:
    """Reads and adds reviews; ``clock`` returns the current UTC time."""

    def __init__(self, database: Database, *, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db = database
        self._clock = clock

    def add(
        self,
        series_instance_uid: str,
        version: int,
        *,
        reviewer: str,
        agrees: bool,
        score: float | None = None,
        reason: str = "",
        comment: str = "",
    ) -> Review:
        """Sign a review; durable on return, and never changed.

        Raises
        ------
        Permanent
            There is no such scored version, or the values make no sense; the text says which.
        """
        _check(reviewer, agrees, score, reason, comment)
        values: dict[str, Any] = {
            "series_instance_uid": series_instance_uid, "version": version, "at": self._clock(),
            "reviewer": reviewer, "agrees": agrees, "score": score, "reason": reason, "comment": comment,
        }  # fmt: skip
        same = (log_rows.c.series_instance_uid == series_instance_uid) & (log_rows.c.version == version)
        with self._db.write() as connection:
            if connection.execute(sa.select(log_rows.c.result_id).where(same)).first() is None:
                raise Permanent(f"series {series_instance_uid} has no scored version {version}")
            number = connection.execute(reviews.insert().values(**values).returning(reviews.c.review_id)).scalar_one()
            mark = _mark(_current(_of(connection, series_instance_uid, version)))
            connection.execute(log_rows.update().where(same).values(review=int(mark)))
            close_assignment(connection, series_instance_uid, reviewer, values["at"])
            return Review(int(number), **values)

    def score(
        self,
        series_instance_uid: str,
        version: int,
        own: float | None,
        *,
        reviewer: str,
        reason: str = "",
        comment: str = "",
    ) -> Review:
        """Sign a review by its score alone: within `NEAR` of the node's it agrees, else, or without one, it disagrees.

        Raises
        ------
        Permanent
            As `add`.
        """
        same = (log_rows.c.series_instance_uid == series_instance_uid) & (log_rows.c.version == version)
        with self._db.read() as connection:
            given = connection.execute(sa.select(log_rows.c.score).where(same)).scalar()
        agrees = own is not None and given is not None and abs(own - given) <= NEAR
        return self.add(
            series_instance_uid, version, reviewer=reviewer, agrees=agrees, score=own, reason=reason, comment=comment
        )

    def of(self, series_instance_uid: str, version: int | None = None) -> list[Review]:
        """Return the reviews of a series (None: of all its versions), oldest first."""
        with self._db.read() as connection:
            return _of(connection, series_instance_uid, version)

    def latest(self, limit: int = 100, before: int | None = None) -> list[Review]:
        """Return reviews of all series, the latest first; ``before`` continues after that ``review_id``."""
        query = sa.select(reviews).order_by(reviews.c.review_id.desc()).limit(limit)
        if before is not None:
            query = query.where(reviews.c.review_id < before)
        with self._db.read() as connection:
            return [Review(**row._mapping) for row in connection.execute(query)]

    def labels(self) -> Iterator[Label]:
        """Yield every reviewed version with a score to learn: a reviewer who agrees stands for the model's own."""
        keys = sa.select(reviews.c.series_instance_uid, reviews.c.version).distinct()
        keys = keys.order_by(reviews.c.series_instance_uid, reviews.c.version)
        with self._db.read() as connection:
            found = connection.execute(keys).all()
        for uid, version in found:
            label = self._label(uid, version)
            if label is not None:
                yield label

    def _label(self, uid: str, version: int) -> Label | None:
        r = t.results.c
        with self._db.read() as connection:
            current = _current(_of(connection, uid, version))
            query = sa.select(r.payload, t.series.c.study_instance_uid).join(
                t.series, t.series.c.series_instance_uid == r.series_instance_uid
            )
            row = connection.execute(query.where((r.series_instance_uid == uid) & (r.version == version))).one()
        result = result_from_json(row.payload)
        scores = [item.score if item.score is not None else result.score if item.agrees else None for item in current]
        given = [score for score in scores if score is not None]
        if not given:
            return None
        return Label(uid, row.study_instance_uid, version, sum(given) / len(given), len(given), result)


def _check(reviewer: str, agrees: bool, score: float | None, reason: str, comment: str) -> None:
    if not reviewer:
        raise Permanent("a review needs a name to sign it with")
    if score is not None and not 0 <= score <= 4:
        raise Permanent(f"a score lies between 0 and 4, not {score:g}")
    if not agrees and score is None and not reason and not comment.strip():
        raise Permanent("who disagrees says why: a score, a reason or a comment")
    if reason and reason not in set(ReviewReason):
        raise Permanent(f"{reason!r} is none of the reasons: {', '.join(ReviewReason)}")
    if len(comment) > _MOST_TEXT:
        raise Permanent(f"a comment has at most {_MOST_TEXT} characters")


def _of(connection: sa.Connection, uid: str, version: int | None) -> list[Review]:
    query = sa.select(reviews).where(reviews.c.series_instance_uid == uid).order_by(reviews.c.review_id)
    if version is not None:
        query = query.where(reviews.c.version == version)
    return [Review(**row._mapping) for row in connection.execute(query)]


def _current(found: list[Review]) -> list[Review]:
    """Return the last word of each reviewer."""
    return list({item.reviewer: item for item in found}.values())


def _mark(given: list[Review]) -> ReviewMark:
    opinions = {item.agrees for item in given}
    if not opinions:
        return ReviewMark.NONE
    if len(opinions) == 2:
        return ReviewMark.DIVIDED
    return ReviewMark.AGREED if opinions == {True} else ReviewMark.DISAGREED


COLUMNS = ("file", "score", "reference", "kind")


@dataclass(frozen=True, slots=True)
class LabelledSlice:
    """One line: slice ``number`` (from 1) of a reviewed version, and the name its picture has in the set.

    Every slice carries the score of its series. ``reference`` keeps the slices of one study together, so that they are
    never split between training and judging.
    """

    file: str
    score: float
    reference: str
    kind: str
    series_instance_uid: str
    version: int
    number: int


def labelled_slices(label: Label) -> Iterator[LabelledSlice]:
    """Yield the slices of one reviewed version; their names are keys of UIDs, not the UIDs."""
    for number in range(1, len(label.result.slices) + 1):
        yield LabelledSlice(
            file=f"{uid_key(label.series_instance_uid)}-v{label.version}-{number}.png",
            score=label.score,
            reference=uid_key(label.study_instance_uid),
            kind=label.result.kind.value,
            series_instance_uid=label.series_instance_uid,
            version=label.version,
            number=number,
        )


def label_lines(labels: Iterable[Label]) -> Iterator[str]:
    """Yield the table as CSV, the heading first."""
    yield line_of(COLUMNS)
    for label in labels:
        for item in labelled_slices(label):
            yield line_of((item.file, f"{item.score:.4f}", item.reference, item.kind))


def line_of(values: Iterable[str]) -> str:
    """Return one line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(list(values))
    return text.getvalue()
