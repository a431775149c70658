"""The whole API against its own schema: generated requests find no failure and no answer that is not described."""

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

from dicom_qa_node.store import Role
from dicom_qa_node.web.app import create_app
from tests.web_site import open_site

pytestmark = pytest.mark.integration
#: Small: the whole file stays below a minute.
EXAMPLES = 8
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = open_site(tmp_path_factory.mktemp("api"), api_per_minute=1_000_000, allowed_hosts=["testserver"])
    yield site
    site.database.close()


@pytest.fixture(scope="module")
def headers(site):
    row = site.accounts.named("ada")
    secret, _ = site.accounts.add_token(row.account_id, "schema", Role.ADMIN, 1)
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_every_operation_answers_as_described(site, headers, mode):
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", create_app(site))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 9
    asked = [_ask(operation, headers, mode) for operation in operations]
    assert sum(asked) >= EXAMPLES * len(operations) / 2


def _ask(operation, headers, mode) -> int:
    answers: list[int] = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case) -> None:
        answer = case.call(headers=headers)
        answers.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS, headers=headers)

    try:
        ask()
    except Unsatisfiable:
        # An operation without parameters cannot be asked wrongly.
        assert mode is GenerationMode.NEGATIVE
    return len(answers)
