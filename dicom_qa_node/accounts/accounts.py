"""Who may use the pages: accounts, invitations by one-time link, and API tokens.

Secrets never lie in the database: of every link, session and token it holds the SHA-256 of 32 random bytes, of a
password the argon2id hash that the web role made.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dicom_qa_node.db import account_tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent

__all__ = ["AccountRow", "Accounts", "Invitation", "NameTaken", "Role", "Token", "hash_of", "new_secret", "valid_name"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
#: Marks our tokens, so that a scanner for leaked secrets can find them.
_TOKEN_PREFIX = "qan_"


class NameTaken(Permanent):
    """An account of this name exists, or the name is not one."""


@dataclass(frozen=True, slots=True)
class AccountRow:
    """Somebody who may log in; ``password_hash`` is empty for accounts of an OpenID Connect provider."""

    account_id: int
    name: str
    full_name: str
    role: Role
    password_hash: str
    issuer: str | None
    subject: str | None
    active: bool
    created_at: dt.datetime
    password_at: dt.datetime | None
    last_login_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Invitation:
    """A one-time link: ``account`` is None for the very first administrator."""

    account: AccountRow | None
    expires_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Token:
    """A key to the API; its rights are the lower of its own role and its owner's.

    ``parent_id`` is the token that asked for this one, None for one made by a person. No token outlives its parent.
    """

    token_id: int
    account_id: int
    parent_id: int | None
    label: str
    role: Role
    created_at: dt.datetime
    expires_at: dt.datetime
    last_used_at: dt.datetime | None
    revoked_at: dt.datetime | None


def new_secret() -> str:
    """Return 256 random bits as text for an address or a cookie."""
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """Return what the database keeps of a secret; 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def valid_name(name: str) -> str:
    """Return a login name as it is kept: lower case.

    Raises
    ------
    NameTaken
        It holds what a login name may not hold.
    """
    folded = name.strip().lower()
    if not _NAME.fullmatch(folded):
        raise NameTaken(
            "a login name has 1 to 64 letters, digits, dots, dashes, underscores or @, letters or digit first"
        )
    return folded


class Accounts:
    """Accounts, invitations and tokens."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._clock = database, clock

    def any(self) -> bool:
        """Return whether there is an account at all."""
        with self._db.read() as connection:
            return connection.execute(sa.select(t.accounts.c.account_id).limit(1)).first() is not None

    def all(self) -> list[AccountRow]:
        """Return every account, by name."""
        with self._db.read() as connection:
            return [_account(row) for row in connection.execute(sa.select(t.accounts).order_by(t.accounts.c.name))]

    def named(self, name: str) -> AccountRow | None:
        """Return the account of a login name."""
        return self._one(t.accounts.c.name == name.strip().lower())

    def numbered(self, account_id: int) -> AccountRow | None:
        """Return the account of a number."""
        return self._one(t.accounts.c.account_id == account_id)

    def of_subject(self, issuer: str, subject: str) -> AccountRow | None:
        """Return the account that an OpenID Connect provider knows by ``subject``."""
        return self._one(sa.and_(t.accounts.c.issuer == issuer, t.accounts.c.subject == subject))

    def add(
        self,
        name: str,
        role: Role,
        full_name: str = "",
        password_hash: str = "",
        issuer: str | None = None,
        subject: str | None = None,
    ) -> AccountRow:
        """Make an account.

        Raises
        ------
        NameTaken
            There is one of this name, or the name is none.
        """
        now = self._clock()
        row = {
            "name": valid_name(name),
            "role": role.value,
            "full_name": _line(full_name),
            "password_hash": password_hash,
            "password_at": now if password_hash else None,
            "issuer": issuer,
            "subject": subject,
            "created_at": now,
        }
        try:
            with self._db.write() as connection:
                added = connection.execute(t.accounts.insert().values(**row))
                number = int(added.inserted_primary_key[0])  # type: ignore[index]
        except IntegrityError as error:
            raise NameTaken(f"there is an account {row['name']} already") from error
        found = self.numbered(number)
        assert found is not None
        return found

    def set_password(self, account_id: int, password_hash: str) -> None:
        """Keep a new hash; end every session and every open invitation of the account."""
        now = self._clock()
        with self._db.write() as connection:
            _update(connection, account_id, password_hash=password_hash, password_at=now)
            _end_sessions(connection, account_id, now)
            _spend_invitations(connection, account_id, now)

    def rehash(self, account_id: int, password_hash: str) -> None:
        """Keep the same password under new hash parameters."""
        with self._db.write() as connection:
            _update(connection, account_id, password_hash=password_hash)

    def set_role(self, account_id: int, role: Role) -> None:
        """Change what an account may do; it applies to its next request.

        Raises
        ------
        Permanent
            It is the last active administrator.
        """
        with self._db.write() as connection:
            if role is not Role.ADMIN:
                _keep_one_admin(connection, account_id)
            _update(connection, account_id, role=role.value)

    def follow_provider(self, account_id: int, role: Role) -> None:
        """Take over the role that a login provider gives; the provider, not this node, keeps an administrator."""
        with self._db.write() as connection:
            _update(connection, account_id, role=role.value)

    def set_active(self, account_id: int, active: bool) -> None:
        """Allow an account or take it away; taking away ends its sessions at once, and its tokens work no more.

        Raises
        ------
        Permanent
            It is the last active administrator.
        """
        now = self._clock()
        with self._db.write() as connection:
            if not active:
                _keep_one_admin(connection, account_id)
                _end_sessions(connection, account_id, now)
                _spend_invitations(connection, account_id, now)
            _update(connection, account_id, active=active)

    def logged_in(self, account_id: int) -> None:
        """Note the time of a login."""
        with self._db.write() as connection:
            _update(connection, account_id, last_login_at=self._clock())

    def invite(self, account_id: int | None, hours: float) -> str:
        """Return the secret of a new one-time link; earlier links for the same account work no more."""
        now, secret = self._clock(), new_secret()
        row = {"account_id": account_id, "created_at": now, "expires_at": now + dt.timedelta(hours=hours)}
        with self._db.write() as connection:
            _spend_invitations(connection, account_id, now)
            connection.execute(t.invitations.insert().values(token_hash=hash_of(secret), **row))
        return secret

    def invitation(self, secret: str) -> Invitation | None:
        """Return what a link is for, None once it is used or has expired or its account is not active."""
        with self._db.read() as connection:
            return _open_invitation(connection, secret, self._clock())

    def accept_first(self, secret: str, name: str, full_name: str, password_hash: str) -> AccountRow | None:
        """Make the first administrator by a set-up link; None if the link is no longer good.

        Raises
        ------
        NameTaken
            The name is none.
        """
        now = self._clock()
        row = {"name": valid_name(name), "full_name": _line(full_name), "role": Role.ADMIN.value}
        with self._db.write() as connection:
            invitation = _open_invitation(connection, secret, now)
            if invitation is None or invitation.account is not None or not _claimed(connection, secret, now):
                return None
            row |= {"password_hash": password_hash}
            added = connection.execute(t.accounts.insert().values(created_at=now, password_at=now, **row))
            _spend_invitations(connection, None, now)
            return _account(_by_number(connection, int(added.inserted_primary_key[0])))  # type: ignore[index, arg-type]

    def accept(self, secret: str, password_hash: str) -> AccountRow | None:
        """Set the password of an invited account by its link; None if the link is no longer good."""
        now = self._clock()
        with self._db.write() as connection:
            invitation = _open_invitation(connection, secret, now)
            if invitation is None or invitation.account is None or not _claimed(connection, secret, now):
                return None
            number = invitation.account.account_id
            _update(connection, number, password_hash=password_hash, password_at=now)
            _end_sessions(connection, number, now)
            _spend_invitations(connection, number, now)
            return _account(_by_number(connection, number))  # type: ignore[arg-type]

    def add_token(
        self, account_id: int, label: str, role: Role, days: float, parent: Token | None = None
    ) -> tuple[str, Token]:
        """Make an API token and return its secret, which is shown once, and its row.

        One that ``parent`` asks for has at most its role and ends with it.

        Raises
        ------
        Permanent
            The parent has ended meanwhile.
        """
        now, secret = self._clock(), _TOKEN_PREFIX + new_secret()
        expires = now + dt.timedelta(days=days)
        row = {"account_id": account_id, "label": _line(label), "role": role.value, "created_at": now}
        with self._db.write() as connection:
            if parent is not None:
                held = sa.select(t.api_tokens).where(t.api_tokens.c.token_id == parent.token_id).with_for_update()
                kept = _token(connection.execute(held).one())
                if kept.revoked_at is not None or kept.expires_at <= now:
                    raise Permanent("the token that asks has ended")
                expires = min(expires, kept.expires_at)
                row |= {"role": min(role, kept.role, key=lambda each: each.rank).value, "parent_id": kept.token_id}
            values = {**row, "token_hash": hash_of(secret), "expires_at": expires}
            added = connection.execute(t.api_tokens.insert().values(values))
            number: int = added.inserted_primary_key[0]  # type: ignore[index]
            same = t.api_tokens.c.token_id == number
            return secret, _token(connection.execute(sa.select(t.api_tokens).where(same)).one())

    def tokens(self, account_id: int | None = None) -> list[Token]:
        """Return the tokens of an account (None: of all), the latest first."""
        query = sa.select(t.api_tokens).order_by(t.api_tokens.c.token_id.desc())
        if account_id is not None:
            query = query.where(t.api_tokens.c.account_id == account_id)
        with self._db.read() as connection:
            return [_token(row) for row in connection.execute(query)]

    def revoke_token(self, token_id: int, account_id: int | None = None) -> bool:
        """End a token and every token that it made; with ``account_id`` only if it belongs to that account."""
        table = t.api_tokens.c
        first = sa.select(table.token_id).where(table.token_id == token_id, table.revoked_at.is_(None))
        if account_id is not None:
            first = first.where(table.account_id == account_id)
        family = first.cte("family", recursive=True)
        made = t.api_tokens.alias("made")
        family = family.union(sa.select(made.c.token_id).join(family, made.c.parent_id == family.c.token_id))
        with self._db.write() as connection:
            ended = connection.execute(sa.select(family.c.token_id)).scalars().all()
            valid = table.token_id.in_(ended) & table.revoked_at.is_(None)
            connection.execute(t.api_tokens.update().where(valid).values(revoked_at=self._clock()))
        return bool(ended)

    def of_token(self, secret: str) -> tuple[AccountRow, Token] | None:
        """Return whose token this is; None if it is unknown, expired, revoked, or its owner is not active."""
        now = self._clock()
        with self._db.read() as connection:
            row = connection.execute(
                sa.select(t.api_tokens).where(t.api_tokens.c.token_hash == hash_of(secret))
            ).one_or_none()
            if row is None:
                return None
            token = _token(row)
            owner = _by_number(connection, token.account_id)
        good = token.revoked_at is None and token.expires_at > now and owner is not None and owner.active
        if not good:
            return None
        if token.last_used_at is None or now - token.last_used_at > dt.timedelta(minutes=1):
            self._token_used(token.token_id, now)
        return _account(owner), token  # type: ignore[arg-type]

    def _token_used(self, token_id: int, now: dt.datetime) -> None:
        with self._db.write() as connection:
            same = t.api_tokens.c.token_id == token_id
            connection.execute(t.api_tokens.update().where(same).values(last_used_at=now))

    def _one(self, condition: sa.ColumnElement[bool]) -> AccountRow | None:
        with self._db.read() as connection:
            row = connection.execute(sa.select(t.accounts).where(condition)).one_or_none()
        return None if row is None else _account(row)


Row = sa.Row[tuple[object, ...]]


def _account(row: Row) -> AccountRow:
    values = dict(row._mapping)
    return AccountRow(**{**values, "role": Role(values["role"])})


def _token(row: Row) -> Token:
    values = {name: value for name, value in row._mapping.items() if name != "token_hash"}
    return Token(**{**values, "role": Role(values["role"])})


def _by_number(connection: sa.Connection, number: int) -> Row | None:
    return connection.execute(sa.select(t.accounts).where(t.accounts.c.account_id == number)).one_or_none()


def _exists(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(t.accounts.c.account_id).limit(1)).first() is not None


def _update(connection: sa.Connection, account_id: int, **values: object) -> None:
    connection.execute(t.accounts.update().where(t.accounts.c.account_id == account_id).values(**values))


def _end_sessions(connection: sa.Connection, account_id: int, now: dt.datetime) -> None:
    session = t.web_sessions.c
    mine = (session.account_id == account_id) & session.ended_at.is_(None)
    connection.execute(t.web_sessions.update().where(mine).values(ended_at=now))


def _spend_invitations(connection: sa.Connection, account_id: int | None, now: dt.datetime) -> None:
    row = t.invitations.c
    mine = row.account_id.is_(None) if account_id is None else row.account_id == account_id
    connection.execute(t.invitations.update().where(mine, row.used_at.is_(None)).values(used_at=now))


def _open_invitation(connection: sa.Connection, secret: str, now: dt.datetime) -> Invitation | None:
    row = connection.execute(
        sa.select(t.invitations).where(t.invitations.c.token_hash == hash_of(secret))
    ).one_or_none()
    if row is None or row.used_at is not None or row.expires_at <= now:
        return None
    if row.account_id is None:
        return None if _exists(connection) else Invitation(None, row.expires_at)
    owner = _by_number(connection, row.account_id)
    return Invitation(_account(owner), row.expires_at) if owner is not None and owner.active else None


def _claimed(connection: sa.Connection, secret: str, now: dt.datetime) -> bool:
    # Of two at once one finds the row already used: the second waits here for the first to commit.
    row = t.invitations.c
    mine = (row.token_hash == hash_of(secret)) & row.used_at.is_(None)
    return connection.execute(t.invitations.update().where(mine).values(used_at=now)).rowcount == 1


def _keep_one_admin(connection: sa.Connection, account_id: int) -> None:
    account = t.accounts.c
    admins = sa.select(account.account_id).where(account.role.in_([Role.ADMIN.value]), account.active.is_(True))
    if list(connection.execute(admins.with_for_update()).scalars()) == [account_id]:
        raise Permanent("this is the last active administrator; make another one first")


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()[:200]
