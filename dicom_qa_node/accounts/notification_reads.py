"""What an account has read of its notifications: everything up to a number, and single ones above it."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.db.review_tables import notification_reads, notification_watermarks
from dicom_qa_node.domain.uids import LARGEST_ID

__all__ = ["NotificationReads"]


class NotificationReads:
    """Reads and marks; a notification is named by its kind and a number that grows with time."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def unread(self, account_id: int, kind: str, numbers: Iterable[int]) -> set[int]:
        """Return those of ``numbers`` that the account has not read."""
        wanted = set(numbers)
        if not wanted:
            return set()
        mark, read = notification_watermarks.c, notification_reads.c
        with self._db.read() as connection:
            upto = connection.execute(
                sa.select(mark.number).where((mark.account_id == account_id) & (mark.kind == kind))
            ).scalar()
            above = {number for number in wanted if number > (upto or 0)}
            single = sa.select(read.number).where((read.account_id == account_id) & (read.kind == kind))
            return above - set(connection.execute(single.where(read.number.in_(above))).scalars())

    def mark(self, account_id: int, kind: str, number: int) -> None:
        """Mark one as read."""
        if not 0 < number <= LARGEST_ID:
            return
        with self._db.write() as connection:
            insert_ignore(connection, notification_reads, [{"account_id": account_id, "kind": kind, "number": number}])

    def mark_all(self, account_id: int, kind: str, upto: int) -> None:
        """Mark everything up to a number as read."""
        mark, read = notification_watermarks.c, notification_reads.c
        row = {"account_id": account_id, "kind": kind, "number": 0}
        upto = min(upto, LARGEST_ID)
        with self._db.write() as connection:
            insert_ignore(connection, notification_watermarks, [row])
            mine = (mark.account_id == account_id) & (mark.kind == kind) & (mark.number < upto)
            connection.execute(notification_watermarks.update().where(mine).values(number=upto))
            below = (read.account_id == account_id) & (read.kind == kind) & (read.number <= upto)
            connection.execute(notification_reads.delete().where(below))
