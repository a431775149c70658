"""Alerts in the API: what was noticed, what went out, acknowledging, test messages."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from dicom_qa_node.charts.alerts import Alerts, AlertSubject, Message, MessageState
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import note
from dicom_qa_node.web.api.dependencies import (
    Actor,
    Cursor,
    Limit,
    PageOf,
    Reviewer,
    Viewer,
    decode_cursor,
    encode_cursor,
)
from dicom_qa_node.web.site import Site

__all__ = ["router"]

Number = Annotated[int, Path(ge=1, le=LARGEST_ID)]


class AlertOut(BaseModel):
    """Something a rule noticed; ``trouble`` names what lasts, until ``ended_at``."""

    model_config = ConfigDict(from_attributes=True)

    alert_id: int
    rule: str
    subject: AlertSubject
    text: str
    scanner: str
    scanner_id: int | None
    series_instance_uid: str | None
    trouble: str | None
    created_at: dt.datetime
    ended_at: dt.datetime | None
    acknowledged_at: dt.datetime | None
    acknowledged_by: str
    note: str


class MessageOut(BaseModel):
    """A message through one channel."""

    message_id: int
    idempotency_key: str
    channel: str
    test: bool
    state: MessageState
    attempts: int
    created_at: dt.datetime
    not_before: dt.datetime
    sent_at: dt.datetime | None
    last_answer: str
    alerts: list[int]


class Acknowledgement(BaseModel):
    """Words of who has seen to an alert."""

    model_config = ConfigDict(extra="forbid")

    note: str = Field("", max_length=500)


def router(site: Site) -> APIRouter:
    """Return the calls of this file."""
    api = APIRouter(prefix="/alerts", tags=["alerts"])
    alerts = Alerts(site.database, clock=site.clock)

    @api.get("")
    def history(account: Viewer, limit: Limit = 100, cursor: Cursor = None) -> PageOf[AlertOut]:
        """Return alerts, the latest first."""
        place = decode_cursor(cursor, int)
        before = None if place is None else min(max(int(str(place[0])), 0), LARGEST_ID)
        found = alerts.history(limit, before)
        more = encode_cursor(found[-1].alert_id) if len(found) == limit else None
        return PageOf(items=[AlertOut.model_validate(alert) for alert in found], next=more)

    @api.get("/open")
    def unacknowledged(account: Viewer, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> list[AlertOut]:
        """Return alerts that nobody has acknowledged, the latest first."""
        return [AlertOut.model_validate(alert) for alert in alerts.unacknowledged(limit)]

    @api.get("/messages")
    def messages(account: Viewer, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> list[MessageOut]:
        """Return messages, the latest first."""
        return [_message(message) for message in alerts.messages(limit)]

    @api.post("/{alert_id}/acknowledge")
    def acknowledge(request: Request, account: Reviewer, alert_id: Number, words: Acknowledgement) -> AlertOut:
        """Say that an alert has been seen to; 409 if somebody else has."""
        if alerts.alert(alert_id) is None:
            raise HTTPException(404, "there is no such alert")
        if not alerts.acknowledge(alert_id, by=account.name, note=words.note):
            raise HTTPException(409, "this alert has been acknowledged")
        note(request, "alert.acknowledge", kind="alert", ident=str(alert_id))
        return AlertOut.model_validate(alerts.alert(alert_id))

    @api.post("/channels/{channel}/test", status_code=202)
    def send_test(request: Request, account: Actor, channel: Annotated[str, Path(max_length=64)]) -> MessageOut:
        """Queue a test message; its state tells what became of it."""
        if channel not in site.config.alerts.channels():
            raise HTTPException(404, "there is no such channel")
        number = alerts.queue_test(channel)
        note(request, "alert.test", kind="channel", ident=channel, detail=f"message {number}")
        found = alerts.message(number)
        assert found is not None
        return _message(found)

    return api


def _message(message: Message) -> MessageOut:
    names = [name for name in MessageOut.model_fields if name != "alerts"]
    numbers = [alert.alert_id for alert in message.alerts]
    return MessageOut(**{name: getattr(message, name) for name in names}, alerts=numbers)
