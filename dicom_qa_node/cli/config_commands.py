"""``config check|show|schema``: whether the configuration is right, what applies, what there is."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_qa_node.cli.context import Invocation
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.output import AsJson, say, show_json
from dicom_qa_node.domain.errors import Misconfigured

if TYPE_CHECKING:
    from dicom_qa_node.config import Config

__all__ = ["app"]

app = typer.Typer(help="The configuration.", no_args_is_help=True)


@app.command()
def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Check the configuration file and name every problem with its place, its value and what is allowed."""
    from dicom_qa_node.config import InvalidConfig

    run: Invocation = context.obj
    try:
        config = run.config
    except InvalidConfig as error:
        if not as_json:
            raise
        show_json({"file": str(run.config_path), "problems": [problem.model_dump() for problem in error.problems]})
        raise typer.Exit(ExitCode.MISCONFIGURED) from error
    _check_device(run, config, as_json)
    if as_json:
        show_json({"file": run.config_path, "problems": []})
        return
    say(f"{run.config_path or 'the defaults'}: no problem found")
    for warning in _warnings(config):
        say(f"note: {warning}")


@app.command()
def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Show every value that applies: those of the file and the defaults; secrets are hidden."""
    import yaml

    from dicom_qa_node.config.redaction import redacted

    run: Invocation = context.obj
    values = redacted(run.config)
    if as_json:
        show_json(values)
    else:
        typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)


@app.command()
def schema(
    yaml_file: Annotated[bool, typer.Option("--yaml", help="A commented file with every key (the default).")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The tables of the documentation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Schema, for editors.")] = False,
) -> None:
    """Print every key with its default, what it allows and what it does."""
    from dicom_qa_node.cli.config_reference import as_markdown, as_yaml
    from dicom_qa_node.config import Config

    if yaml_file + markdown + as_json > 1:
        raise typer.BadParameter("choose one of --yaml, --markdown and --json")
    if as_json:
        show_json(Config.model_json_schema())
    else:
        typer.echo(as_markdown() if markdown else as_yaml(), nl=False)


def _check_device(run: Invocation, config: Config, as_json: bool) -> None:
    """End with an error where this machine has not the device that the configuration names."""
    from dicom_qa_node.config.loader import ConfigProblem
    from dicom_qa_node.models.devices import device_problem

    reason = device_problem(config.score.device)
    if not reason:
        return
    if not as_json:
        raise Misconfigured(reason)
    found = ConfigProblem(path="score.device", value=config.score.device, message=reason.removeprefix("score.device: "))
    show_json({"file": str(run.config_path), "problems": [found.model_dump()]})
    raise typer.Exit(ExitCode.MISCONFIGURED)


def _warnings(config: Config) -> list[str]:
    from dicom_qa_node.models.registry import card_of

    notes = []
    if config.receive.allow_unknown_peers:
        notes.append("receive.allow_unknown_peers is true: any host may send to this node")
    if not config.deliver.targets:
        notes.append("deliver.targets is empty: reports are built and kept, and sent nowhere")
    if config.receive.peers and config.receive.allow_unknown_peers:
        notes.append("receive.peers has no effect while receive.allow_unknown_peers is true")
    if not config.receive.allow_unknown_peers and not config.receive.peers:
        notes.append("receive.allow_unknown_peers is false and receive.peers is empty: nobody may send to this node")
    notes += _taken_ports(config)
    try:
        card_of(config.score.model)
    except Misconfigured as error:
        notes.append(f"score.model: {error}; no series will be scored")
    return notes


def _taken_ports(config: Config) -> list[str]:
    """Name the ports that two listeners of the node would share; 0 picks a free one each time."""
    listeners = {"receive.port": config.receive.port, "web.port": config.web.port}
    if config.receive.tls.enabled:
        listeners["receive.tls.port"] = config.receive.tls.port
    pairs = combinations(listeners.items(), 2)
    return [
        f"{first} and {second} are both {port}: only one of them can listen"
        for (first, port), (second, other) in pairs
        if port == other != 0
    ]
