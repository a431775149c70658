"""What every kind of delivery target promises; a new file in ``deliver/targets`` is tested without a new test."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from dicom_qa_node.config import Config, Target
from dicom_qa_node.deliver.targets import MODULES, open_target, target_kinds
from dicom_qa_node.deliver.targets.base import Answer, Deferred, Refused
from dicom_qa_node.domain.delivery import ReportRef, Sender
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sr_document import SOP_CLASS_UID, ReportRequest, report_uid
from tests.report_samples import T0, shipped, verdict, write_series
from tests.stow_server import serving

Setting = dict[str, Any]

SENDER = Sender("SCANNER", "127.0.0.1")

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def receivers(tmp_path, free_port) -> Iterator[dict[str, Callable[[], Setting]]]:
    """Return, by kind, a function that starts a willing receiver and returns its settings.

    ``peers`` among them stands for ``receive.peers``.
    """
    servers = []
    services = ExitStack()

    def dicom() -> Setting:
        ae = AE("ARCHIVE")
        ae.add_supported_context(Comprehensive3DSRStorage, [ExplicitVRLittleEndian])
        ae.add_supported_context("1.2.840.10008.1.1")
        port = free_port()
        handlers = [(evt.EVT_C_STORE, lambda event: 0x0000), (evt.EVT_C_ECHO, lambda event: 0x0000)]
        servers.append(ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers))
        return {"host": "127.0.0.1", "port": port, "ae_title": "ARCHIVE", "timeout_s": 5.0}

    def sender() -> Setting:
        peer = {"ae_title": "SCANNER", "hosts": ["127.0.0.1"], "port": dicom()["port"]}
        return {"peers": [peer], "timeout_s": 5.0}

    def dicomweb() -> Setting:
        return {"url": services.enter_context(serving()).url, "timeout_s": 5.0}

    yield {"dicom": dicom, "dicomweb": dicomweb, "folder": lambda: {"path": tmp_path / "shelf"}, "sender": sender}
    services.close()
    for server in servers:
        server.shutdown()


@pytest.fixture
def absent(tmp_path, free_port) -> dict[str, Setting]:
    """Return, by kind, the settings of a receiver that is not there."""
    (tmp_path / "file").write_text("")
    return {
        "dicom": {"host": "127.0.0.1", "port": free_port(), "ae_title": "ARCHIVE", "timeout_s": 2.0},
        "dicomweb": {"url": f"http://127.0.0.1:{free_port()}/dicom-web", "timeout_s": 2.0},
        "folder": {"path": tmp_path / "file" / "below"},
        "sender": {"peers": [{"ae_title": "SCANNER", "hosts": ["127.0.0.1"], "port": free_port()}], "timeout_s": 2.0},
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, ReportRef]:
    spool = tmp_path_factory.mktemp("spool")
    instances = write_series(spool, slices=2)
    result = verdict(instances, slices=(), findings=())
    path = spool / "report.dcm"
    path.write_bytes(build_report(ReportRequest(result, 1, T0), instances, spool, Config()))
    return path, ReportRef(
        report_uid(result.series_instance_uid, 1, result.model),
        SOP_CLASS_UID,
        "2.25.9",
        result.series_instance_uid,
        1,
        "report.dcm",
        T0,
    )


def opened(kind: str, settings: Setting):
    peers = settings.get("peers", [])
    section = {"kind": kind, "name": "target"} | {key: value for key, value in settings.items() if key != "peers"}
    config = Config.model_validate({"deliver": {"targets": [section]}, "receive": {"peers": peers}})
    return open_target(config.deliver.targets[0], "NODE", config.receive.peers)


def test_every_kind_in_the_configuration_has_a_module_and_the_reverse():
    sections = get_args(get_args(Target)[0])
    assert sorted(section.model_fields["kind"].default for section in sections) == target_kinds()


@pytest.mark.parametrize("kind", target_kinds())
def test_module_offers_what_the_registry_calls(kind):
    module = importlib.import_module(f"dicom_qa_node.deliver.targets.{MODULES[kind]}")
    assert "open_target" in module.__all__
    assert module.__doc__


@pytest.mark.parametrize("kind", target_kinds())
def test_willing_target_accepts_a_report_and_accepts_it_again(kind, receivers, report):
    target = opened(kind, receivers[kind]())
    assert isinstance(target.check(), Answer)
    for _ in range(2):
        answer = target.send(shipped(*report, sender=SENDER))
        assert isinstance(answer, Answer)
        assert answer.status


@pytest.mark.parametrize("kind", target_kinds())
def test_absent_target_says_so_in_words(kind, absent, report):
    target = opened(kind, absent[kind])
    for call in (target.check, lambda: target.send(shipped(*report, sender=SENDER))):
        with pytest.raises((Deferred, Refused)) as caught:
            call()
        assert str(caught.value)
        assert caught.value.status


@pytest.mark.parametrize("kind", target_kinds())
def test_opening_connects_to_nothing(kind, absent):
    assert opened(kind, absent[kind]) is not None
