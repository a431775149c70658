"""``users`` and ``audit`` on the command line: the first link, invitations, tokens, and who did it."""

from __future__ import annotations

import json
import stat

import pytest
from typer.testing import CliRunner

from dicom_qa_node.accounts.accounts import Accounts
from dicom_qa_node.cli.app import app
from dicom_qa_node.cli.exit_codes import WrongState
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import NotFound
from dicom_qa_node.ops.first_start import offer_setup_link
from tests.web_site import web_config


@pytest.fixture
def config(tmp_path):
    made = web_config(tmp_path)
    (tmp_path / "config.yaml").write_text(f"database_url: {made.database_url}\nspool_dir: {made.spool_dir}\n")
    return made


@pytest.fixture
def database(config):
    database = Database(config.database_url)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def run(tmp_path, database):
    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["--config", str(tmp_path / "config.yaml"), *arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    return call


def test_first_link_lies_in_a_file_for_the_node_alone(tmp_path, config, database):
    accounts = Accounts(database)
    link = offer_setup_link(config, accounts, 8080)
    path = tmp_path / "setup-link"
    assert path.read_text().strip() == link
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert link.startswith("http://127.0.0.1:8080/setup/")
    again = offer_setup_link(config, accounts, 8080)
    assert accounts.invitation(link.rsplit("/", 1)[1]) is None, "the link before works no more"
    assert accounts.accept_first(again.rsplit("/", 1)[1], "ada", "", "hash").role is Role.ADMIN
    assert accounts.accept_first(again.rsplit("/", 1)[1], "eve", "", "hash") is None, "once"
    assert offer_setup_link(config, accounts, 8080) is None
    assert not path.exists()


def test_links_expire(config, database):
    import datetime as dt

    from dicom_qa_node.domain.clock import utc_now

    now = [utc_now()]
    accounts = Accounts(database, lambda: now[0])
    secret = accounts.invite(None, 1)
    now[0] += dt.timedelta(minutes=61)
    assert accounts.invitation(secret) is None
    assert accounts.accept_first(secret, "ada", "", "hash") is None


def test_set_up_link_by_command_until_there_is_an_account(run, database):
    link = run("users", "setup-link").splitlines()[0]
    assert Accounts(database).invitation(link.rsplit("/", 1)[1]) is not None
    Accounts(database).add("ada", Role.ADMIN, password_hash="x")
    with pytest.raises(WrongState):
        run("users", "setup-link")


def test_an_account_from_beginning_to_end(run, database):
    accounts = Accounts(database)
    link = run("users", "add", "Kim", "--role", "reviewer", "--full-name", "Kim Lee")
    assert accounts.accept(link.rsplit("/", 1)[1], "hash").name == "kim"
    run("users", "role", "kim", "viewer")
    assert accounts.named("kim").role is Role.VIEWER
    made = json.loads(run("users", "token", "kim", "--label", "script", "--days", "1", "--json"))
    assert accounts.of_token(made["token"])[0].name == "kim"
    run("users", "disable", "kim")
    assert accounts.of_token(made["token"]) is None
    with pytest.raises(WrongState):
        run("users", "reset", "kim")
    run("users", "enable", "kim")
    assert run("users", "reset", "kim").startswith("http://")
    (row,) = json.loads(run("users", "list", "--json"))
    assert (row["name"], row["role"], row["active"]) == ("kim", "viewer", True)
    events = [row["event"] for row in json.loads(run("audit", "--json", "--ident", "kim"))]
    assert events == [
        "account.invite", "account.enable", "account.disable", "token.add", "account.role", "account.add",
    ]  # fmt: skip
    assert {row["actor"].split()[0] for row in json.loads(run("audit", "--json"))} == {"cli"}


def test_refusals(run, database):
    with pytest.raises(NotFound):
        run("users", "reset", "nobody")
    Accounts(database).add("ada", Role.ADMIN)
    for change in (("disable", "ada"), ("role", "ada", "viewer")):
        with pytest.raises(WrongState, match="last active administrator"):
            run("users", *change)
