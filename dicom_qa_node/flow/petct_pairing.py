"""Which CT series may go with a PET series: those of the same study and frame of reference (PS3.3 C.7.4.1).

Which of them does is decided by their headers when the PET is scored, in `score.ct_selection`.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.domain.states import SeriesState

__all__ = ["candidates", "has_images", "scored_alone", "settled_pair"]

_PAST_SCORING = (SeriesState.SCORED, SeriesState.REPORTED, SeriesState.DELIVERED)


def candidates(connection: sa.Connection, pet: sa.Row[Any]) -> tuple[tuple[str, SeriesState], ...]:
    """Return the CT series that may go with a PET series, with their states, the one with most images first."""
    if not pet.frame_of_reference_uid:
        return ()
    s = t.series.c
    query = sa.select(s.series_instance_uid, s.state).where(_same_space(pet) & (s.modality == "CT"))
    found = connection.execute(query.order_by(s.received.desc(), s.series_instance_uid))
    return tuple((uid, SeriesState(state)) for uid, state in found)


def settled_pair(connection: sa.Connection, series: sa.Row[Any]) -> str | None:
    """Return a CT that a series can be scored with now: None for a CT, or while none has fully arrived."""
    if series.modality != "PT":
        return None
    found = candidates(connection, series)
    return next((uid for uid, state in found if state is not SeriesState.RECEIVING), None)


def scored_alone(connection: sa.Connection, ct: sa.Row[Any]) -> list[str]:
    """Return the PET series that were scored without a CT, or with one that covers them only in part."""
    if ct.modality != "CT" or not ct.frame_of_reference_uid:
        return []
    s = t.series.c
    query = sa.select(s.series_instance_uid).where(
        _same_space(ct)
        & (s.modality == "PT")
        & (s.pair_series_uid.is_(None) | ((s.pair_series_uid != ct.series_instance_uid) & _lacks_its_ct()))
        & s.state.in_([state.value for state in _PAST_SCORING])
    )
    return [uid for uid in connection.execute(query).scalars() if has_images(connection, uid)]


def _lacks_its_ct() -> sa.ColumnElement[bool]:
    """Whether the result of a series' version says that its CT covers the PET in part, or cannot be fused with it."""
    r, s = t.results.c, t.series.c
    reported = [
        r.payload.contains(f'"{key}"', autoescape=True) for key in ("petct_partial_overlap", "petct_not_paired")
    ]
    same = (r.series_instance_uid == s.series_instance_uid) & (r.version == s.version)
    return sa.exists().where(same & sa.or_(*reported))


def has_images(connection: sa.Connection, series_instance_uid: str) -> bool:
    """Whether retention has left images of a series in the spool."""
    wanted = (t.instances.c.series_instance_uid == series_instance_uid) & ~t.instances.c.conflict
    return connection.execute(sa.select(t.instances.c.instance_id).where(wanted).limit(1)).first() is not None


def _same_space(series: sa.Row[Any]) -> sa.ColumnElement[bool]:
    s = t.series.c
    return sa.and_(
        s.study_instance_uid == series.study_instance_uid,
        s.frame_of_reference_uid == series.frame_of_reference_uid,
    )
