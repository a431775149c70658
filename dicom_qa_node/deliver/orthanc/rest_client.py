"""Orthanc's REST interface: the calls of the bridge, with time limits and bounded answers.

The calls are those of every Orthanc since 1.9; what newer ones have is found out from ``/system``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from dicom_qa_node.config import Orthanc
from dicom_qa_node.deliver.http_exchange import HttpAnswer, exchange, open_client
from dicom_qa_node.deliver.targets.base import Deferred
from dicom_qa_node.domain.errors import Permanent

__all__ = ["Change", "ChangePage", "OrthancClient", "OrthancError", "OrthancSystem", "orthanc_client"]

_LARGEST_LIST = 16 * 1024 * 1024
_LARGEST_REPORT = 64 * 1024 * 1024
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")


class OrthancError(Permanent):
    """Orthanc refuses a call; ``status`` is that of HTTP, and ``comment`` its own words, which are not for the log."""

    def __init__(self, status: int, what: str, comment: str = "") -> None:
        self.status, self.comment = status, comment
        super().__init__(f"HTTP {status} for {what}{f': {comment}' if comment else ''}")


@dataclass(frozen=True, slots=True)
class OrthancSystem:
    """What an Orthanc says of itself; ``metadata`` are the names it knows, None where it does not list them."""

    version: str
    labels: bool
    metadata: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of ``/changes``."""

    number: int
    kind: str
    resource_id: str
    date: str

    @property
    def anchor(self) -> str:
        """What tells this change from one of the same number in another database."""
        return f"{self.kind} {self.resource_id} {self.date}"[:100]


@dataclass(frozen=True, slots=True)
class ChangePage:
    """A page of changes; ``last`` is the number to go on after."""

    changes: tuple[Change, ...]
    last: int
    done: bool


class OrthancClient:
    """One connection to Orthanc.

    Every call raises `OrthancError` where Orthanc refuses it, and `Deferred` where it does not answer in time, in
    bounds, or in JSON.
    """

    def __init__(self, client: httpx2.Client, url: str, timeout_s: float) -> None:
        self._client, self._root, self._timeout_s = client, url.rstrip("/"), timeout_s

    # -- the server --------------------------------------------------------------------------------------------

    def system(self) -> OrthancSystem:
        """Return version and abilities."""
        found = self._object("GET", "system")
        names = found.get("UserMetadata")
        return OrthancSystem(
            version=str(found.get("Version", "")),
            labels=bool(found.get("HasLabels")) or _at_least(str(found.get("Version", "")), (1, 12)),
            metadata=frozenset(map(str, names)) if isinstance(names, dict) else None,
        )

    def now(self) -> str:
        """Return Orthanc's own time in UTC, as its changes are dated (``20260105T080000``)."""
        return self._call("GET", "tools/now").content.decode("ascii", "replace").strip()

    def changes(self, since: int, limit: int = 1000) -> ChangePage:
        """Return the changes after one of them."""
        return _page(self._object("GET", f"changes?since={since}&limit={limit}"))

    def change(self, number: int) -> Change | None:
        """Return one change, None where it is gone."""
        found = self.changes(number - 1, limit=1).changes
        return found[0] if found and found[0].number == number else None

    def last_change(self) -> int:
        """Return the number of the newest change, 0 for an empty database."""
        return _page(self._object("GET", "changes?last")).last

    def modality(self, name: str) -> bool:
        """Whether a modality of this name is configured."""
        return name in self._list("modalities")

    def echo(self, name: str) -> None:
        """Let Orthanc call a modality by C-ECHO."""
        self._call("POST", f"modalities/{quote(name)}/echo", b"{}")

    # -- resources ---------------------------------------------------------------------------------------------

    def series(self, orthanc_id: str) -> Mapping[str, Any] | None:
        """Return a series with its main tags and instances, None if there is none."""
        return self._found(f"series/{_checked(orthanc_id)}")

    def study_tags(self, orthanc_id: str) -> Mapping[str, Any]:
        """Return the main tags of a study."""
        found = self._found(f"studies/{_checked(orthanc_id)}") or {}
        tags = found.get("MainDicomTags")
        return tags if isinstance(tags, dict) else {}

    def sop_class(self, orthanc_id: str) -> str:
        """Return the SOP Class UID of an instance, "" where Orthanc does not have it at hand."""
        answer = self._ask("GET", f"instances/{_checked(orthanc_id)}/metadata/SopClassUid")
        return answer.content.decode("ascii", "replace").strip() if answer.accepted else ""

    def lookup(self, uid: str, level: str) -> list[str]:
        """Return the identifiers of the resources of one level (``Series``, ``Instance``) that have this UID."""
        found = self._json(self._call("POST", "tools/lookup", uid.encode("ascii")))
        rows = found if isinstance(found, list) else []
        return [str(row["ID"]) for row in rows if isinstance(row, dict) and row.get("Type") == level and "ID" in row]

    def instance_file(self, orthanc_id: str) -> bytes:
        """Return an instance as a Part 10 file."""
        return self._call("GET", f"instances/{_checked(orthanc_id)}/file", largest=_LARGEST_REPORT).content

    def add_instance(self, content: bytes) -> None:
        """Store a Part 10 file; one that Orthanc has already is left as it is."""
        self._call("POST", "instances", content)

    # -- sending -----------------------------------------------------------------------------------------------

    def send(self, orthanc_id: str, modality: str) -> str:
        """Let Orthanc send a series by C-STORE in the background; return the job's identifier."""
        order = {"Resources": [_checked(orthanc_id)], "Asynchronous": True, "Permissive": False}
        found = self._object("POST", f"modalities/{quote(modality)}/store", json.dumps(order).encode())
        return str(found.get("ID", ""))[:64]

    def job(self, job_id: str) -> Mapping[str, Any] | None:
        """Return a job, None if Orthanc has forgotten it."""
        return self._found(f"jobs/{quote(job_id)}")

    def jobs(self) -> list[Mapping[str, Any]]:
        """Return the jobs that Orthanc remembers."""
        return [job for job in self._list("jobs?expand") if isinstance(job, dict)]

    def resubmit(self, job_id: str) -> bool:
        """Run a failed job again; False if Orthanc has forgotten it."""
        answer = self._ask("POST", f"jobs/{quote(job_id)}/resubmit", b"{}")
        if answer.status == 404:
            return False
        self._require(answer, "the job")
        return True

    # -- what is written on a series -----------------------------------------------------------------------------

    def set_metadata(self, orthanc_id: str, name: str, value: str) -> bool:
        """Set metadata of a series; False if Orthanc does not know the name."""
        return self._set(f"series/{_checked(orthanc_id)}/metadata/{quote(name)}", value.encode())

    def attach(self, orthanc_id: str, name: str, content: bytes) -> bool:
        """Attach a file to a series; False if Orthanc does not know the name."""
        return self._set(f"series/{_checked(orthanc_id)}/attachments/{quote(name)}", content, suffix="/data")

    def labels(self, orthanc_id: str) -> list[str]:
        """Return the labels of a series."""
        return [str(label) for label in self._list(f"series/{_checked(orthanc_id)}/labels")]

    def add_label(self, orthanc_id: str, label: str) -> None:
        """Put a label on a series."""
        self._call("PUT", f"series/{_checked(orthanc_id)}/labels/{quote(label)}", b"")

    def remove_label(self, orthanc_id: str, label: str) -> None:
        """Take a label off a series."""
        self._call("DELETE", f"series/{_checked(orthanc_id)}/labels/{quote(label)}")

    def _set(self, path: str, value: bytes, suffix: str = "") -> bool:
        present = self._ask("GET", path + suffix, largest=_LARGEST_REPORT)
        if present.accepted and present.content == value:
            return True
        # With CheckRevisions an Orthanc changes only what is named by its ETag.
        headers = {"If-Match": present.etag} if present.accepted and present.etag else {}
        answer = self._ask("PUT", path, value, headers)
        if answer.status in (400, 404):
            return False
        self._require(answer, path.rsplit("/", 1)[-1])
        return True

    # -- below ---------------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        largest: int = _LARGEST_LIST,
    ) -> HttpAnswer:
        answer = exchange(
            self._client, method, f"{self._root}/{path}", self._timeout_s, headers, body, largest
        )  # fmt: skip
        if answer.status in (401, 403):
            raise Deferred(f"HTTP {answer.status}: Orthanc refuses the user of the bridge; check orthanc.user")
        return answer

    def _call(self, method: str, path: str, body: bytes | None = None, largest: int = _LARGEST_LIST) -> HttpAnswer:
        answer = self._ask(method, path, body, largest=largest)
        self._require(answer, path.split("?")[0])
        return answer

    def _require(self, answer: HttpAnswer, what: str) -> None:
        if not answer.accepted:
            raise OrthancError(answer.status, what, _words(answer.content))

    def _found(self, path: str) -> Mapping[str, Any] | None:
        answer = self._ask("GET", path)
        if answer.status == 404:
            return None
        self._require(answer, path)
        found = self._json(answer)
        return found if isinstance(found, dict) else None

    def _object(self, method: str, path: str, body: bytes | None = None) -> Mapping[str, Any]:
        found = self._json(self._call(method, path, body))
        if not isinstance(found, dict):
            raise Deferred(f"the answer for {path.split('?')[0]} is not one of Orthanc: check orthanc.url")
        return found

    def _list(self, path: str) -> list[Any]:
        found = self._json(self._call("GET", path))
        return found if isinstance(found, list) else []

    @staticmethod
    def _json(answer: HttpAnswer) -> Any:
        try:
            return json.loads(answer.content)
        except (ValueError, RecursionError) as error:
            raise Deferred("the answer is not JSON: check that orthanc.url is that of Orthanc itself") from error


@contextmanager
def orthanc_client(settings: Orthanc) -> Iterator[OrthancClient]:
    """Open a connection to the configured server."""
    with open_client(settings, "application/json, */*", settings.password_variable) as client:
        yield OrthancClient(client, settings.url, settings.timeout_s)


def _page(found: Mapping[str, Any]) -> ChangePage:
    rows = found.get("Changes")
    last = found.get("Last")
    if not isinstance(rows, list) or not isinstance(last, int):
        raise Deferred("the answer for changes is not one of Orthanc: check orthanc.url")
    changes = [_change(row) for row in rows if isinstance(row, dict)]
    return ChangePage(tuple(item for item in changes if item is not None), last, bool(found.get("Done", True)))


def _change(row: Mapping[str, Any]) -> Change | None:
    number = row.get("Seq")
    if not isinstance(number, int):
        return None
    return Change(number, str(row.get("ChangeType", "")), str(row.get("ID", "")), str(row.get("Date", "")))


def _checked(orthanc_id: str) -> str:
    # Identifiers come from the server's answers and go into addresses.
    if not _ID.fullmatch(orthanc_id):
        raise OrthancError(400, "an identifier that is not one of Orthanc")
    return orthanc_id


def _words(content: bytes) -> str:
    try:
        found = json.loads(content)
    except ValueError:
        return ""
    words = found.get("Details") or found.get("Message") if isinstance(found, dict) else ""
    return str(words or "")[:200]


def _at_least(version: str, wanted: tuple[int, int]) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    # Builds between releases call themselves "mainline".
    return version.startswith("mainline") or (
        numbers is not None and (int(numbers.group(1)), int(numbers.group(2))) >= wanted
    )
