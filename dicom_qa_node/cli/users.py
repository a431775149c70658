"""``users`` and ``audit``: accounts from the command line, and the log of what users did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_qa_node.cli.context import actor, config_of, open_database
from dicom_qa_node.cli.exit_codes import WrongState
from dicom_qa_node.cli.output import AsJson, say, show_json, show_rows
from dicom_qa_node.cli.quality_log import parse_since
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import NotFound, Permanent

if TYPE_CHECKING:
    from dicom_qa_node.accounts.accounts import AccountRow, Accounts
    from dicom_qa_node.accounts.audit import Audit
    from dicom_qa_node.config import Config

__all__ = ["app", "register"]

app = typer.Typer(help="Accounts of the web page.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Login name.")]


@dataclass(frozen=True, slots=True)
class _AccountCommands:
    config: Config
    accounts: Accounts
    audit: Audit

    def note(self, event: str, name: str, detail: str = "") -> None:
        self.audit.record(event, actor=actor(), kind="account", ident=name, detail=detail)

    def one(self, name: str) -> AccountRow:
        row = self.accounts.named(name)
        if row is None:
            raise NotFound(f"there is no account {name}")
        return row

    def link(self, row: AccountRow) -> str:
        from dicom_qa_node.ops.first_start import address_of_pages

        secret = self.accounts.invite(row.account_id, self.config.web.setup_link_hours)
        return f"{address_of_pages(self.config)}/setup/{secret}"


@contextmanager
def _desk(context: typer.Context) -> Iterator[_AccountCommands]:
    from dicom_qa_node.accounts.accounts import Accounts
    from dicom_qa_node.accounts.audit import Audit

    config = config_of(context)
    with open_database(config) as database:
        yield _AccountCommands(config, Accounts(database), Audit(database))


@app.command("setup-link")
def setup_link(context: typer.Context) -> None:
    """Print a new one-time link with which the first administrator is made; the one before works no more."""
    from dicom_qa_node.ops.first_start import new_setup_link, setup_link_file

    with _desk(context) as desk:
        if desk.accounts.any():
            raise WrongState("there are accounts already: `users add` makes more, `users reset` lets one in again")
        say(new_setup_link(desk.config, desk.accounts))
        desk.note("account.setup_link", "")
        typer.echo(f"also in {setup_link_file(desk.config)}", err=True)


@app.command("list")
def list_accounts(context: typer.Context, as_json: AsJson = False) -> None:
    """List the accounts."""
    with _desk(context) as desk:
        rows = [
            {
                "name": row.name,
                "full_name": row.full_name,
                "role": row.role.value,
                "active": row.active,
                "kept_by": row.issuer or "this node",
                "last_login": row.last_login_at,
            }
            for row in desk.accounts.all()
        ]
    show_rows("Users", rows, as_json=as_json, empty="no accounts; `users setup-link` begins")


@app.command()
def add(
    context: typer.Context,
    name: Name,
    role: Annotated[Role, typer.Option(help="What the account may do.")] = Role.VIEWER,
    full_name: Annotated[str, typer.Option(help="Name of the person.")] = "",
) -> None:
    """Make an account and print the one-time link with which its owner chooses a password."""
    with _desk(context) as desk:
        row = desk.accounts.add(name, role, full_name)
        desk.note("account.add", row.name, role.value)
        say(desk.link(row))


@app.command()
def reset(context: typer.Context, name: Name) -> None:
    """Print a one-time link with which an account gets a new password."""
    with _desk(context) as desk:
        row = desk.one(name)
        if row.issuer or not row.active:
            raise WrongState(f"{row.name} is not active, or its login provider keeps its password")
        desk.note("account.invite", row.name)
        say(desk.link(row))


@app.command()
def role(context: typer.Context, name: Name, new: Annotated[Role, typer.Argument(help="The new role.")]) -> None:
    """Change what an account may do."""
    with _desk(context) as desk:
        row = desk.one(name)
        _or_wrong_state(lambda: desk.accounts.set_role(row.account_id, new))
        desk.note("account.role", row.name, new.value)
    say(f"{row.name}: {new.value}")


@app.command()
def disable(context: typer.Context, name: Name) -> None:
    """Take an account away: its sessions end at once, its tokens work no more."""
    with _desk(context) as desk:
        row = desk.one(name)
        _or_wrong_state(lambda: desk.accounts.set_active(row.account_id, False))
        desk.note("account.disable", row.name)
    say(f"{row.name}: taken away")


@app.command()
def enable(context: typer.Context, name: Name) -> None:
    """Allow an account again."""
    with _desk(context) as desk:
        row = desk.one(name)
        desk.accounts.set_active(row.account_id, True)
        desk.note("account.enable", row.name)
    say(f"{row.name}: allowed")


@app.command()
def token(
    context: typer.Context,
    name: Name,
    label: Annotated[str, typer.Option(help="What it is for.")],
    role: Annotated[Role, typer.Option(help="What it may do; never more than its owner.")] = Role.VIEWER,
    days: Annotated[float, typer.Option(min=0.01, max=3660, help="Days until it expires.")] = 90,
    as_json: AsJson = False,
) -> None:
    """Make an API token for an account and print it, once."""
    with _desk(context) as desk:
        row = desk.one(name)
        secret, made = desk.accounts.add_token(row.account_id, label, role, days)
        desk.note("token.add", row.name, f"{made.token_id} {role.value}")
    if as_json:
        show_json({"token": secret, "token_id": made.token_id, "expires_at": made.expires_at})
    else:
        say(secret)


def _or_wrong_state(change: Callable[[], None]) -> None:
    try:
        change()
    except Permanent as error:
        raise WrongState(str(error)) from error


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("audit")(audit)


def audit(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="A date, a time (ISO 8601) or an age: 30m, 24h, 7d, 2w.")] = None,
    actor: Annotated[str, typer.Option(help="Only what this login name did.")] = "",
    event: Annotated[str, typer.Option(help="Only events that begin so: login, account, series.")] = "",
    ident: Annotated[str, typer.Option(help="Only what was done to this object.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows at most, the latest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the audit log: who did what, when, from where, and how it ended; patient identifiers only with --json."""
    from dicom_qa_node.accounts.audit import Audit, AuditFilter

    chosen = AuditFilter(since=parse_since(since) if since else None, actor=actor, event=event, ident=ident)
    with open_database(config_of(context)) as database:
        rows = [asdict(entry) for entry in Audit(database).entries(chosen, limit)]
    hidden = () if as_json else ("audit_id", "patient_id", "study_instance_uid")
    shown = [{key: value for key, value in row.items() if key not in hidden} for row in rows]
    show_rows("Audit log", shown, as_json=as_json, empty="no row matches")
