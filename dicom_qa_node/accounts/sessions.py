"""Sessions of the pages, failed logins, and logins that an OpenID Connect provider has not answered yet."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.accounts.accounts import AccountRow, hash_of, new_secret
from dicom_qa_node.db import account_tables as t
from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.clock import utc_now

__all__ = ["OidcLogin", "OidcLogins", "Session", "Sessions", "Throttle", "ThrottleLimit"]

_SEEN_EVERY = dt.timedelta(seconds=60)
_KEEP_ENDED = dt.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in; ``csrf`` is the token that every change must carry."""

    account: AccountRow
    csrf: str
    created_at: dt.datetime
    expires_at: dt.datetime
    token_hash: str


class Sessions:
    """Sessions that end after ``idle`` without a request and after ``lifetime`` in any case."""

    def __init__(
        self,
        database: Database,
        idle: dt.timedelta,
        lifetime: dt.timedelta,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._db, self._idle, self._lifetime, self._clock = database, idle, lifetime, clock

    def begin(self, account_id: int, address: str, user_agent: str) -> str:
        """Open a session and return its secret for the cookie; very old rows go."""
        now, secret = self._clock(), new_secret()
        row = {
            "token_hash": hash_of(secret),
            "account_id": account_id,
            "csrf": new_secret(),
            "address": address[:100],
            "user_agent": user_agent[:200],
            "created_at": now,
            "seen_at": now,
            "expires_at": now + self._lifetime,
        }
        with self._db.write() as connection:
            connection.execute(t.web_sessions.delete().where(t.web_sessions.c.expires_at < now - _KEEP_ENDED))
            connection.execute(t.web_sessions.insert().values(row))
        return secret

    def find(self, secret: str, *, touch: bool = True) -> Session | None:
        """Return the session of a cookie; None if it is unknown, over, or its account is not active.

        Without ``touch`` the request does not count as the user's: a page that refreshes itself keeps nobody logged in.
        """
        now, session = self._clock(), t.web_sessions.c
        query = (
            sa.select(
                session.csrf, session.created_at.label("began_at"), session.seen_at, session.expires_at, t.accounts
            )
            .join(t.accounts, t.accounts.c.account_id == session.account_id)
            .where(session.token_hash == hash_of(secret), session.ended_at.is_(None), session.expires_at > now)
            .where(session.seen_at > now - self._idle, t.accounts.c.active.is_(True))
        )
        with self._db.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if touch and now - row.seen_at > min(_SEEN_EVERY, self._idle / 4):
            self._seen(secret, now)
        values = {column.name: row._mapping[column.name] for column in t.accounts.c}
        account = AccountRow(**{**values, "role": Role(values["role"])})
        return Session(account, row.csrf, row.began_at, row.expires_at, hash_of(secret))

    def end(self, token_hash: str) -> None:
        """End one session."""
        with self._db.write() as connection:
            same = t.web_sessions.c.token_hash == token_hash
            connection.execute(t.web_sessions.update().where(same).values(ended_at=self._clock()))

    def end_all(self, account_id: int) -> None:
        """End every session of an account."""
        session = t.web_sessions.c
        mine = (session.account_id == account_id) & session.ended_at.is_(None)
        with self._db.write() as connection:
            connection.execute(t.web_sessions.update().where(mine).values(ended_at=self._clock()))

    def count(self) -> dict[int, int]:
        """Return how many sessions each account has open."""
        now, session = self._clock(), t.web_sessions.c
        query = (
            sa.select(session.account_id, sa.func.count())
            .where(session.ended_at.is_(None), session.expires_at > now, session.seen_at > now - self._idle)
            .group_by(session.account_id)
        )
        with self._db.read() as connection:
            return {int(account): int(number) for account, number in connection.execute(query)}

    def known(self, account_id: int, address: str) -> bool:
        """Return whether the account has lately been logged in from an address."""
        session = t.web_sessions.c
        query = sa.select(session.account_id).where(session.account_id == account_id, session.address == address)
        with self._db.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def _seen(self, secret: str, now: dt.datetime) -> None:
        with self._db.write() as connection:
            same = t.web_sessions.c.token_hash == hash_of(secret)
            connection.execute(t.web_sessions.update().where(same).values(seen_at=now))


@dataclass(frozen=True, slots=True)
class ThrottleLimit:
    """How many failures of a key cost nothing, and the longest wait afterwards."""

    free: int
    longest: dt.timedelta


class Throttle:
    """Counts failed logins by key and gives the time that a key has to wait.

    The first `ThrottleLimit.free` failures cost nothing; from then on the wait doubles from 1 s up to the longest. The
    count of a key without an attempt for a day starts anew.
    """

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._clock = database, clock

    def attempt(self, limits: Mapping[str, ThrottleLimit]) -> float:
        """Count one attempt under every key, or under none; return 0, or the seconds to wait where a key is blocked.

        The attempt counts as failed until `passed` or `returned` takes it back. It is counted in the transaction that
        looks whether it is allowed, so that attempts made side by side cannot all use the same free one.
        """
        now, row = self._clock(), t.login_throttle.c
        mine = row.key.in_(sorted(limits))
        with self._db.write() as connection:
            connection.execute(t.login_throttle.delete().where(row.failed_at < now - _KEEP_ENDED))
            new = [{"key": key, "failures": 0, "failed_at": now, "blocked_until": None} for key in sorted(limits)]
            insert_ignore(connection, t.login_throttle, new)
            locked = sa.select(t.login_throttle).where(mine).order_by(row.key).with_for_update()
            known = connection.execute(locked).all()
            wait_s = max((until - now).total_seconds() for item in known if (until := item.blocked_until or now))
            if wait_s > 0:
                return wait_s
            for item in known:
                values = _after_failure(item.failures, item.failed_at, now, limits[item.key])
                connection.execute(t.login_throttle.update().where(row.key == item.key).values(**values))
        return 0.0

    def returned(self, limits: Mapping[str, ThrottleLimit]) -> None:
        """Take back one attempt under each key, which was no failure."""
        row = t.login_throttle.c
        with self._db.write() as connection:
            for key, limit in sorted(limits.items()):
                left = sa.case((row.failures > limit.free + 1, row.blocked_until), else_=None)
                values = {"failures": sa.case((row.failures > 0, row.failures - 1), else_=0), "blocked_until": left}
                connection.execute(t.login_throttle.update().where(row.key == key).values(values))

    def passed(self, key: str) -> None:
        """Forget the failures of a key."""
        with self._db.write() as connection:
            connection.execute(t.login_throttle.delete().where(t.login_throttle.c.key == key))


def _after_failure(failures: int, failed_at: dt.datetime, now: dt.datetime, limit: ThrottleLimit) -> dict[str, Any]:
    count = 1 if now - failed_at > dt.timedelta(days=1) else failures + 1
    over = min(count - limit.free, 30)
    wait = min(dt.timedelta(seconds=2.0 ** (over - 1)), limit.longest) if over > 0 else None
    return {"failures": count, "failed_at": now, "blocked_until": now + wait if wait else None}


@dataclass(frozen=True, slots=True)
class OidcLogin:
    """What was sent to the provider and must come back."""

    nonce: str
    verifier: str
    target: str


class OidcLogins:
    """Logins under way at an OpenID Connect provider."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._clock = database, clock

    def begin(self, state: str, login: OidcLogin, minutes: float = 10) -> None:
        """Keep a login until the provider answers."""
        now = self._clock()
        with self._db.write() as connection:
            connection.execute(t.oidc_logins.delete().where(t.oidc_logins.c.expires_at < now))
            values = {"nonce": login.nonce, "verifier": login.verifier, "target": login.target}
            expires = now + dt.timedelta(minutes=minutes)
            connection.execute(t.oidc_logins.insert().values(state_hash=hash_of(state), expires_at=expires, **values))

    def take(self, state: str) -> OidcLogin | None:
        """Return a login once; None if it is unknown or too old."""
        row = t.oidc_logins.c
        same = (row.state_hash == hash_of(state)) & (row.expires_at > self._clock())
        with self._db.write() as connection:
            query = t.oidc_logins.delete().where(same).returning(row.nonce, row.verifier, row.target)
            found = connection.execute(query).one_or_none()
        return None if found is None else OidcLogin(*found)
