"""A client that is slow or leaves holds no connection of the web role and leaves no error in its log."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dicom_qa_node.ops.web_server import HeadersInTime
from dicom_qa_node.web import middleware
from dicom_qa_node.web.middleware import BodyLimit
from dicom_qa_node.web.page_rendering import on_client_left, on_error


async def _echo(request):
    return PlainTextResponse(str(len(await request.body())))


async def _refused(_request, error):
    return PlainTextResponse("", error.status_code, error.headers)


@contextmanager
def serving(monkeypatch):
    monkeypatch.setattr(middleware, "_FIRST_BYTES_S", 0.5)
    monkeypatch.setattr(HeadersInTime, "headers_timeout_s", 0.5)
    app = Starlette(
        routes=[Route("/", _echo, methods=["GET", "POST"])],
        middleware=[Middleware(BodyLimit, limit_bytes=1 << 20)],
        exception_handlers={HTTPException: _refused, ClientDisconnect: on_client_left, Exception: on_error},
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=HeadersInTime, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(10)


def answer_of(connection, *, within_s=20.0):
    """Return all that the server sends until it closes the connection."""
    connection.settimeout(within_s)
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX: "], ids=["nothing", "half a header"])
def test_connection_without_a_complete_header_is_closed(monkeypatch, sent):
    with serving(monkeypatch) as address, socket.create_connection(address) as connection:
        connection.sendall(sent)
        assert answer_of(connection) == b""


def test_body_that_arrives_byte_by_byte_is_refused(monkeypatch):
    with serving(monkeypatch) as address, socket.create_connection(address) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        stopped = threading.Event()

        def drip():
            while not stopped.wait(0.05):
                try:
                    connection.sendall(b"a")
                except OSError:
                    return

        sender = threading.Thread(target=drip)
        sender.start()
        connection.settimeout(20)
        status = connection.recv(65536)
        stopped.set()
        sender.join()
        assert status.startswith(b"HTTP/1.1 408")


def test_request_in_time_is_answered_and_the_connection_kept(monkeypatch):
    with serving(monkeypatch) as address:
        connection = http.client.HTTPConnection(*address, timeout=20)
        connection.connect()
        first = connection.sock
        for _ in range(2):
            connection.request("POST", "/", body=b"abc")
            assert connection.getresponse().read() == b"3"
        assert connection.sock is first
        connection.close()


def test_client_that_leaves_is_not_an_error(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    with serving(monkeypatch) as address:
        with socket.create_connection(address) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
        deadline = time.monotonic() + 20
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answer_of(connection).startswith(b"HTTP/1.1 200")
        assert time.monotonic() < deadline
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_hundreds_of_begun_requests_keep_nobody_waiting(monkeypatch):
    with serving(monkeypatch) as address, contextlib.ExitStack() as held:
        monkeypatch.setattr(middleware, "_FIRST_BYTES_S", 20.0)
        begun = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\na"
        for _ in range(300):
            held.enter_context(socket.create_connection(address)).sendall(begun)
        began = time.monotonic()
        for _ in range(10):
            connection = http.client.HTTPConnection(*address, timeout=20)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()
        assert time.monotonic() - began < 5
