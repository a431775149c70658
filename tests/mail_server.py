"""A mail server and a webhook receiver on loopback, for the tests of alerts."""

from __future__ import annotations

import contextlib
import socketserver
import ssl
import threading
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mail (RFC 5321) and keeps it; ``refuse`` is the answer to MAIL FROM while it is set."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.mails: list[EmailMessage] = []
        self.refuse = ""
        self.logins: list[str] = []
        self.secured = 0
        self.context = context
        super().__init__(("127.0.0.1", 0), _Conversation)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Conversation(socketserver.StreamRequestHandler):
    server: MailServer

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")
        self.wfile.flush()

    def handle(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self.talk()
        for opened in (self.rfile, self.wfile, self.connection):
            with contextlib.suppress(OSError):
                opened.close()

    def talk(self) -> None:
        self.say("220 test")
        while line := self.rfile.readline():
            word = line.split(b":")[0].split()[0].upper().decode() if line.strip() else ""
            if word == "QUIT":
                self.say("221 bye")
                return
            self.answer(word, line)

    def answer(self, word: str, line: bytes) -> None:
        if word == "EHLO":
            self.say("250-test")
            if self.server.context:
                self.say("250-STARTTLS")
            self.say("250 AUTH PLAIN")
        elif word == "STARTTLS":
            self.say("220 go")
            self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self.server.secured += 1
        elif word == "AUTH":
            self.server.logins.append(line.decode().strip())
            self.say("235 ok")
        elif word == "MAIL" and self.server.refuse:
            self.say(self.server.refuse)
        elif word == "DATA":
            self.say("354 go")
            lines = []
            while (text := self.rfile.readline()) != b".\r\n":
                lines.append(text[1:] if text.startswith(b"..") else text)
            self.server.mails.append(message_from_bytes(b"".join(lines), policy=policy.default))
            self.say("250 taken")
        else:
            self.say("250 ok")


@dataclass
class Posted:
    """One request that a webhook got."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Hook(ThreadingHTTPServer):
    """Takes POSTs and answers with ``status``."""

    daemon_threads = True

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.status = 204
        super().__init__(("127.0.0.1", 0), _Post)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?token=hidden"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Post(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append(Posted(body, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
