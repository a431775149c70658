"""Makes the report of each month when it is over, in the role ``schedule``: into a folder and to e-mail channels.

A report goes to each destination once. A file is durable before its row; a mail is sent before its row, so that a
process killed between the two sends it again, under the same Message-ID.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from dicom_qa_node.config import Config, EmailChannel
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.durable import replace_file
from dicom_qa_node.domain.backoff import backoff_s
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.log import log_event
from dicom_qa_node.monthly_report.gather import gather_month, known_scanners
from dicom_qa_node.monthly_report.month import Month
from dicom_qa_node.monthly_report.sections import summary_lines
from dicom_qa_node.monthly_report.sent_reports import SentReports
from dicom_qa_node.ops.alert_delivery import send_prepared

__all__ = ["FOLDER", "MonthlyReports", "file_name"]

_LOGGER = logging.getLogger(__name__)
#: The name of the folder among the destinations; no channel can be called so.
FOLDER = "(folder)"
_RETRY_FIRST_S, _RETRY_MAX_S = 60.0, 21_600.0
_TYPES = {
    "pdf": ("application", "pdf"),
    "xlsx": ("application", "vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
}

Send = Callable[[EmailChannel, EmailMessage], str]


@dataclass(frozen=True, slots=True)
class _Made:
    """A report in the forms that are wanted, by ending."""

    subject: str
    text: str
    files: dict[str, bytes]


class MonthlyReports:
    """The periodic task; ``send`` hands a mail to the server of a channel and returns its words."""

    def __init__(
        self,
        config: Config,
        database: Database,
        clock: Callable[[], dt.datetime] = utc_now,
        send: Send = send_prepared,
    ) -> None:
        self._config, self._db, self._clock, self._send = config, database, clock, send
        self._sent = SentReports(database, clock)

    def run(self) -> int:
        """Make what is due and not yet at its destination; return how many went there."""
        month = self._due_month()
        if month is None:
            return 0
        done = 0
        for scanner in self._subjects():
            waiting = [name for name in self._destinations() if self._sent.due(str(month), scanner, name)]
            if waiting:
                made = self._make(month, scanner)
                done += sum(self._deliver(month, scanner, name, made) for name in waiting)
        return done

    def _due_month(self) -> Month | None:
        settings = self._config.monthly_report
        today = self._clock().astimezone().date()
        return Month.of(today).previous if settings.scheduled and today.day >= settings.day else None

    def _subjects(self) -> list[str]:
        return ["", *(known_scanners(self._db) if self._config.monthly_report.each_scanner else [])]

    def _destinations(self) -> Iterator[str]:
        if self._config.monthly_report.folder is not None:
            yield FOLDER
        yield from self._config.monthly_report.channels

    def _make(self, month: Month, scanner: str) -> _Made:
        from dicom_qa_node.monthly_report.document import as_pdf
        from dicom_qa_node.monthly_report.workbook import as_workbook

        figures = gather_month(self._db, self._config, month, scanner, now=self._clock())
        makers = {"pdf": as_pdf, "xlsx": as_workbook}
        files: dict[str, bytes] = {ending: makers[ending](figures) for ending in self._config.monthly_report.formats}
        about = f" ({scanner})" if scanner else ""
        return _Made(f"[{figures.node}] {figures.title}{about}", "\n".join([*summary_lines(figures), ""]), files)

    def _deliver(self, month: Month, scanner: str, name: str, made: _Made) -> bool:
        try:
            words = self._write(month, scanner, made) if name == FOLDER else self._mail(month, scanner, name, made)
        except (NodeError, OSError) as error:
            attempts = self._sent.attempts(str(month), scanner, name) + 1
            wait_s = backoff_s(attempts, _RETRY_FIRST_S, _RETRY_MAX_S)
            self._sent.try_later(str(month), scanner, name, str(error), wait_s)
            log_event(
                _LOGGER, logging.WARNING, "monthly_report_postponed", month=str(month), to=name, reason=str(error)
            )  # fmt: skip
            return False
        self._sent.mark(str(month), scanner, name, words)
        log_event(_LOGGER, logging.INFO, "monthly_report", month=str(month), to=name)
        return True

    def _write(self, month: Month, scanner: str, made: _Made) -> str:
        folder = self._config.monthly_report.folder
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        names = [file_name(month, scanner, ending) for ending in made.files]
        for name, content in zip(names, made.files.values(), strict=True):
            replace_file(Path(folder) / name, content)
        return f"written: {', '.join(names)}"

    def _mail(self, month: Month, scanner: str, name: str, made: _Made) -> str:
        channel = next(item for item in self._config.alerts.email if item.name == name)
        mail = EmailMessage()
        mail["Subject"] = " ".join(made.subject.split())[:200]
        mail["From"], mail["To"] = channel.sender, ", ".join(channel.recipients)
        mail["Date"] = format_datetime(self._clock())
        key = hashlib.sha256(f"{self._config.ae_title}\0{month}\0{scanner}\0{name}".encode()).hexdigest()[:32]
        mail["Message-ID"] = f"<{key}@{channel.sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(made.text)
        for ending, content in made.files.items():
            maintype, subtype = _TYPES[ending]
            mail.add_attachment(content, maintype, subtype, filename=file_name(month, scanner, ending))
        return self._send(channel, mail)


def file_name(month: Month, scanner: str, ending: str) -> str:
    """Return the name of a report's file: letters of a scanner's name that a file system may refuse are replaced."""
    about = re.sub(r"[^\w.-]+", "_", scanner).strip("._")[:80]
    # Two names may become one by that.
    if scanner and about != scanner:
        about += f"_{hashlib.sha256(scanner.encode()).hexdigest()[:6]}"
    return f"image-quality-{month}{f'-{about}' if scanner else ''}.{ending}"
