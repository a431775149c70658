"""The whole API against its own schema: generated requests find no failure and no answer that is not described.

The site has a log, charts, alerts and parked deliveries, and every other request names something that is there.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dicom_qa_node.charts.alerts import Alerts, AlertSubject, NewAlert
from dicom_qa_node.charts.baselines import ChartRules
from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.charts.drifts import Drifts
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.quality_log.filters import LogQuery
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.web.app import create_app
from tests.realistic_log import fill
from tests.web_site import NAMES, open_site

pytestmark = pytest.mark.integration
#: Small: the whole file stays below a minute.
EXAMPLES = {"sqlite": 20, "postgresql": 8}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module", params=list(EXAMPLES))
def site(request, tmp_path_factory):
    url = request.getfixturevalue("postgresql").create() if request.param == "postgresql" else ""
    folder = tmp_path_factory.mktemp("api")
    site = open_site(folder, database_url=url, api_per_minute=1_000_000, allowed_hosts=["testserver"])
    fill(site.database, 120, seed=4, days=9)
    while ChartIngest(site.database).take_in(limit=500):
        pass
    ChartIngest(site.database).refresh_weeks()
    Drifts(site.database, ChartRules()).look()
    Alerts(site.database).add([NewAlert("o", "drift", AlertSubject.DRIFT, "score")])
    yield site
    site.database.close()


@pytest.fixture(scope="module")
def headers(site):
    row = site.accounts.named("ada")
    # A generated number is small: it must not be that of the token that asks.
    secrets = [site.accounts.add_token(row.account_id, "schema", Role.ADMIN, 1)[0] for _ in range(40)]
    return {"Authorization": f"Bearer {secrets[-1]}"}


@pytest.fixture(scope="module")
def known(site):
    """Return something that is there for each parameter of a path."""
    newest = LogSearch(site.database).page(LogQuery()).rows[0]
    parked = Outbox(site.database).parked(1)
    return {
        "uid": newest.facts.series_instance_uid,
        "scanner_id": Scanners(site.database).overview()[0].scanner.scanner_id,
        "account_id": site.accounts.named(NAMES[Role.VIEWER]).account_id,
        "token_id": 2,
        "alert_id": 1,
        "delivery_id": parked[0].delivery_id if parked else 1,
        "target": "pacs",
        "channel": "mail",
    }


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_every_operation_answers_as_described(site, headers, known, mode):
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", create_app(site))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 40
    examples = EXAMPLES["sqlite" if site.database.is_sqlite else "postgresql"]
    asked = [_ask(operation, headers, mode, known, examples) for operation in operations]
    assert sum(map(len, asked)) >= examples * len(operations) / 2
    if mode is GenerationMode.POSITIVE:
        reached = [any(status < 300 for status in statuses) for statuses in asked]
        assert sum(reached) >= 0.8 * len(operations), "most requests must get past the look for what they name"


def _ask(operation, headers, mode, known, examples) -> list[int]:
    answers: list[int] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case) -> None:
        if len(answers) % 2 == 0 and mode is GenerationMode.POSITIVE:
            case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
        answer = case.call(headers=headers)
        answers.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS, headers=headers)

    try:
        ask()
    except Unsatisfiable:
        # An operation without parameters cannot be asked wrongly.
        assert mode is GenerationMode.NEGATIVE
    return answers
