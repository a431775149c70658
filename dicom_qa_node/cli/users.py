"""``users setup-link|list|add|reset|disable|enable|role|token``: who may use the pages, from the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_qa_node.cli.context import actor, config_of, open_database
from dicom_qa_node.cli.exit_codes import NotFound, WrongState
from dicom_qa_node.cli.present import AsJson, say, show_json, show_rows
from dicom_qa_node.errors import Permanent
from dicom_qa_node.records import Role

if TYPE_CHECKING:
    from dicom_qa_node.config import Config
    from dicom_qa_node.store import Accounts, Audit
    from dicom_qa_node.store.accounts import AccountRow

__all__ = ["app"]

app = typer.Typer(help="Accounts of the web page.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Login name.")]


@dataclass(frozen=True, slots=True)
class _Desk:
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
def _desk(context: typer.Context) -> Iterator[_Desk]:
    from dicom_qa_node.store import Accounts, Audit

    config = config_of(context)
    with open_database(config) as database:
        yield _Desk(config, Accounts(database), Audit(database))


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
