"""A served page: what it answers, and everything that it refuses while it lives on."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from example_bundle import example_bundle

from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.show.bundle import Bundle
from gossamer.show.desk import MOST_BYTES, Desk
from gossamer.show.live import Answer, Question, Reading, TokenProbability
from gossamer.show.server import Limits, Place, listen, server_at

NASTY = "</script><img src=x onerror=window.hit=1>"


class Double:
    """In place of a model: a prompt's words, last to first; some words are orders."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.gate = threading.Event()

    def tokenize(self, text: str) -> Sequence[str]:
        return re.findall(r"\s*\S+", text)

    def answer(self, question: Question) -> Answer:
        self.asked.append(question)
        if question.text == "wait":
            assert self.gate.wait(10)
        if question.text == "break":
            raise ZeroDivisionError("a defect")
        if question.text == "refuse":
            raise Unsupported("that", "it has no meaning", "this")
        tokens = self.tokenize(question.text)
        top = tuple(TokenProbability(token=t, id=i, probability=0.5) for i, t in enumerate(reversed(tokens)))
        reading = Reading(top=top, candidates=tuple(0.25 for _ in question.candidates), traces=(), patterns=())
        return Answer(tokens=tuple(tokens), model=reading, circuit=reading)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Served(NamedTuple):
    place: Place
    model: Double
    folder: Path

    def connection(self) -> HTTPConnection:
        return HTTPConnection(*self.place.socket.getsockname(), timeout=10)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        if body is not None:
            sent.setdefault("content-type", "application/json")
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connection()
        try:
            connection.request(method, path, body, sent)
            found = connection.getresponse()
            return Reply(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def lives(self) -> bool:
        """It still answers."""
        token = {} if self.place.token is None else {"authorization": f"Bearer {self.place.token}"}
        found = self("POST", "/api/ask", {"text": "a b"}, **token)
        return found.status == 200 and json.loads(found.body)["tokens"] == ["a", " b"]


@contextmanager
def serving(
    folder: Path, bundle: Bundle | None = None, token: str | None = None, limits: Limits | None = None, most: int = 20
) -> Iterator[Served]:
    model = Double()
    desk = Desk(
        bundle=bundle or example_bundle(), answer=model.answer, tokenize=model.tokenize, notes=folder / "notes.json",
        most_tokens=most,
    )  # fmt: skip
    place = listen(token=token)
    server = server_at(place, desk, limits)
    thread = threading.Thread(target=server.run, args=([place.socket],), daemon=True)
    thread.start()
    try:
        yield Served(place, model, folder)
    finally:
        model.gate.set()
        server.should_exit = True
        thread.join(10)
        place.socket.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("run")
    (folder / "record.json").write_text('{"secret": 1}')
    bundle = example_bundle()
    first = bundle.circuit.nodes[0].model_copy(update={"top_tokens_in": ((NASTY, 1.0),)})
    circuit = bundle.circuit.model_copy(update={"nodes": (first, *bundle.circuit.nodes[1:])})
    with serving(folder, bundle.model_copy(update={"title": NASTY, "circuit": circuit})) as found:
        yield found


def test_the_page_its_bundle_and_answers(served: Served) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", served.place.url)
    page = served("GET", "/")
    assert page.status == 200
    text = page.body.decode()
    assert 'data-server="api/"' in text
    assert "connect-src 'self'" in text
    assert "<img" not in text
    assert text.count("</script>") == 2
    bundle = Bundle.model_validate_json(served("GET", "/bundle.json").body)
    assert bundle.title == NASTY
    assert json.loads(served("POST", "/api/tokenize", {"text": "to be or"}).body) == ["to", " be", " or"]
    change = {"kind": "ablate", "site": bundle.circuit.nodes[0].site}
    answer = served("POST", "/api/ask", {"text": "to be", "interventions": [change], "candidates": ["x"]})
    assert Answer.model_validate_json(answer.body).model.candidates == (0.25,)
    assert served.model.asked[-1].interventions[0].site == change["site"]
    for reply in (page, answer):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_notes_are_kept_whole_beside_the_run(served: Served) -> None:
    assert json.loads(served("GET", "/api/notes").body) == {}
    notes = {"final_resid:83": "the quote, I think", "0.attn.v:1": NASTY}
    assert served("PUT", "/api/notes", notes).status == 200
    assert json.loads((served.folder / "notes.json").read_text()) == notes
    assert json.loads(served("GET", "/api/notes").body) == notes
    wrong: tuple[Any, ...] = (
        {"a": 1}, ["a"], {"a" * 201: "b"}, {"a": "b" * 20_001}, {f"site{i}": "é" * 9_000 for i in range(14)}, b"{",
    )  # fmt: skip
    for bad in wrong:
        assert served("PUT", "/api/notes", bad).status in (413, 422), str(bad)[:40]
    assert served("PUT", "/api/notes", {"a": "b"}, content_type="text/plain").status == 422
    assert json.loads(served("GET", "/api/notes").body) == notes
    assert sorted(p.name for p in served.folder.iterdir()) == ["notes.json", "record.json"]


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[]", '{"a": "' + "b" * MOST_BYTES + '"}'])
def test_notes_that_are_none_are_one_error_at_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "notes.json").write_text(content)
    with pytest.raises(CorruptFile, match="does not hold notes by node"), serving(tmp_path):
        pass


def test_notes_that_cannot_be_kept_are_said_without_the_path(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        (tmp_path / "notes.json").mkdir()
        found = served("PUT", "/api/notes", {"a": "b"})
        assert found.status == 422
        assert json.loads(found.body) == {"message": "Cannot keep the notes: Is a directory."}
        assert [p.name for p in tmp_path.iterdir()] == ["notes.json"]
        assert b"a link or a folder" in served("GET", "/api/notes").body


def test_notes_that_are_a_link_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "foreign.json").write_text('{"secret": "key"}')
    notes = tmp_path / "run" / "notes.json"
    notes.symlink_to(tmp_path / "foreign.json")
    with pytest.raises(CorruptFile, match="a link"), serving(tmp_path / "run"):
        pass
    notes.unlink()
    with serving(tmp_path / "run") as served:
        notes.symlink_to(tmp_path / "foreign.json")
        found = served("GET", "/api/notes")
        assert found.status == 422
        assert b"key" not in found.body
        assert str(tmp_path).encode() not in found.body
        assert served("PUT", "/api/notes", {"a": "b"}).status == 200
        assert json.loads(served("GET", "/api/notes").body) == {"a": "b"}
    assert (tmp_path / "foreign.json").read_text() == '{"secret": "key"}'


@pytest.mark.parametrize("path", [
    "/record.json", "/../record.json", "/..%2frecord.json", "/%2e%2e/record.json", "/bundle.json/../record.json",
    "/api/../record.json", "//record.json", "/static/../../etc/passwd", "/api/notes/..", "/docs", "/openapi.json",
    "/..%5crecord.json", "/%00", "/file:///etc/passwd",
])  # fmt: skip
def test_no_path_leads_to_a_file(served: Served, path: str) -> None:
    found = served("GET", path)
    assert found.status == 404
    assert b"secret" not in found.body
    assert b"root:" not in found.body
    assert served.lives()


def test_only_its_own_page_may_ask(served: Served) -> None:
    host, port = served.place.socket.getsockname()
    before = len(served.model.asked)
    foreign: tuple[dict[str, str], ...] = (
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": f"http://{host}:{port + 1}"},
        {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}, {"origin": "http://[::1"},
    )  # fmt: skip
    for headers in foreign:
        for method, path in (("POST", "/api/ask"), ("PUT", "/api/notes"), ("OPTIONS", "/api/ask"), ("DELETE", "/")):
            found = served(method, path, {"text": "a"}, **headers)
            assert found.status == 403, (method, headers)
            assert not [name for name in found.headers if name.startswith("access-control")]
    assert len(served.model.asked) == before
    assert served("POST", "/api/ask", {"text": "a"}, origin=f"http://{host}:{port}").status == 200
    assert served("DELETE", "/").status == 405
    assert served.lives()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.com",
                                  "[::1", "a b"])  # fmt: skip
def test_a_name_that_is_not_its_own_is_refused(served: Served, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/bundle.json"), ("POST", "/api/ask")):
        assert served(method, path, {"text": "a"}, host=host, origin=f"http://{host}").status in (400, 421)
    assert served("GET", "/", host="localhost:1234").status == 200
    assert served("GET", "/", host="[::1]:1234").status == 200


def test_every_request_needs_the_token(tmp_path: Path) -> None:
    token = "a-token-of-my-own_1"
    with serving(tmp_path, token=token) as served:
        assert served.place.url.endswith(f"/?token={token}")
        for path in ("/", "/bundle.json", "/api/notes", "/nothing"):
            for wrong in ({}, {"authorization": "Bearer wrong"}, {"cookie": "gossamer=wrong"}):
                assert served("GET", path, **wrong).status == 401
            assert served("GET", f"{path}?token={token}x").status == 401
            assert served("GET", f"{path}?token=%ff").status == 401
        assert served("POST", "/api/ask", {"text": "a"}).status == 401
        assert served("PUT", "/api/notes", {}).status == 401
        assert not served.model.asked
        page = served("GET", f"/?token={token}")
        assert page.status == 200
        cookie = page.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        own = cookie.split(";")[0]
        assert str(served.place.socket.getsockname()[1]) in own
        assert served("GET", "/", cookie=own).status == 200
        assert served("POST", "/api/ask", {"text": "a"}, cookie=own).status == 200
        assert served("POST", "/api/ask", {"text": "a"}, cookie=own, origin="http://evil.example").status == 403
        assert served.lives()


def test_beyond_loopback_there_is_a_token() -> None:
    tokens = set()
    for _ in range(2):
        place = listen("0.0.0.0")
        with place.socket:
            port = place.socket.getsockname()[1]
        assert place.token is not None
        assert len(place.token) >= 32
        assert place.url == f"http://{socket.gethostname().lower()}:{port}/?token={place.token}"
        tokens.add(place.token)
    assert len(tokens) == 2
    for short in ("short", "spaces are not fit for it", "semicolon;semicolon;"):
        with pytest.raises(BadInput, match="a token of at least 16"):
            listen("0.0.0.0", token=short)
    with pytest.raises(BadInput, match=r"Cannot listen at nowhere\.invalid"):
        listen("nowhere.invalid")
    taken = listen()
    with taken.socket, pytest.raises(BadInput, match="choose another --host or --port"):
        listen(port=taken.socket.getsockname()[1])


def test_a_body_of_100_mb_is_not_read(served: Served) -> None:
    """Declared, it is refused at once; in chunks, as soon as it is longer than a request may be."""
    whole = 100 * 2**20
    head = "POST /api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(served.place.socket.getsockname(), timeout=10) as s:
        s.sendall(f"{head}Content-Length: {whole}\r\n\r\n".encode())
        assert s.recv(100).startswith(b"HTTP/1.1 413")
    sent, piece = 0, b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    with socket.create_connection(served.place.socket.getsockname(), timeout=10) as s:
        s.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        with suppress(ConnectionError):
            while sent < whole:
                s.sendall(piece)
                sent += len(piece)
    assert sent < whole / 5  # what the sockets' own buffers hold
    assert served("POST", "/api/ask", b" " * (MOST_BYTES + 1)).status == 413
    with socket.create_connection(
        served.place.socket.getsockname(), timeout=10
    ) as s:  # no body, whose rest would reset it
        s.sendall(f"{head}Content-Length: -1\r\n\r\n".encode())
        assert s.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
    assert served.lives()


def test_a_request_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, limits=Limits(slow=0.1)) as served:
        with socket.create_connection(served.place.socket.getsockname(), timeout=10) as s:
            s.sendall(b"POST /api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            assert s.recv(100).startswith(b"HTTP/1.1 408")
        assert served.lives()


def test_connections_without_a_request_take_no_place(tmp_path: Path) -> None:
    def hang(served: Served) -> list[socket.socket]:
        found = [socket.create_connection(served.place.socket.getsockname(), timeout=10) for _ in range(6)]
        for one in found[::2]:
            one.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        return found

    def closed(one: socket.socket) -> bool:
        with one, suppress(ConnectionError):
            return one.recv(1) == b""
        return True

    with serving(tmp_path, limits=Limits(connections=3, slow=60)) as served:
        held = hang(served)
        assert served.lives()
        assert all(closed(one) for one in held[:3])
        held[5].sendall(b"GET /bundle.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert held[5].recv(15) == b"HTTP/1.1 200 OK"
        for one in held[3:]:
            one.close()
    with serving(tmp_path, limits=Limits(slow=0.1)) as served:
        assert all(closed(one) for one in hang(served))
        assert served.lives()


def test_so_many_requests_at_a_time_and_no_more(tmp_path: Path) -> None:
    with serving(tmp_path, limits=Limits(connections=1)) as served:
        waiting = served.connection()
        waiting.request("POST", "/api/ask", b'{"text": "wait"}', {"content-type": "application/json"})
        wait(lambda: served.model.asked)
        found = served("GET", "/")
        assert found.status == 503
        assert "ask again" in json.loads(found.body)["message"]
        assert served("GET", "/", host="evil.example").status == 421
        served.model.gate.set()
        assert waiting.getresponse().status == 200
        assert served.lives()


def test_who_may_not_ask_hears_so_before_the_body_is_awaited(tmp_path: Path) -> None:
    head = b"POST /api/ask HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
    with serving(tmp_path, token="a-token-of-my-own_3", limits=Limits(slow=60)) as served:
        for host, status in ((b"localhost", b"401"), (b"evil.example", b"421")):
            with socket.create_connection(served.place.socket.getsockname(), timeout=10) as s:
                s.sendall(head + b"Host: " + host + b"\r\n\r\n")
                assert s.recv(12) == b"HTTP/1.1 " + status
        assert served("POST", "/api/ask", {"text": "a"}).status == 401
        assert served.lives()


def test_so_many_questions_wait_and_no_more(tmp_path: Path) -> None:
    with serving(tmp_path, limits=Limits(waiting=2)) as served:
        waiting = [served.connection() for _ in range(2)]
        for c in waiting:
            c.request("POST", "/api/ask", b'{"text": "wait"}', {"content-type": "application/json"})
        deadline = time.monotonic() + 10
        while (found := served("POST", "/api/tokenize", {"text": "a"})).status == 200 and time.monotonic() < deadline:
            pass
        assert found.status == 429
        assert "ask again" in json.loads(found.body)["message"]
        assert served("GET", "/").status == 200
        served.model.gate.set()
        assert [c.getresponse().status for c in waiting] == [200, 200]
        assert served.lives()


def test_an_answer_that_takes_too_long_keeps_its_place_until_it_ends(tmp_path: Path) -> None:
    with serving(tmp_path, limits=Limits(seconds=0.1, waiting=1)) as served:
        assert served("POST", "/api/ask", {"text": "wait"}).status == 504
        assert served("POST", "/api/ask", {"text": "a"}).status == 429
        served.model.gate.set()
        wait(served.lives)


@pytest.mark.parametrize("body, status, message", [
    ({"text": "break"}, 500, "ZeroDivisionError: a defect"),
    ({"text": "refuse"}, 200, "that is not supported: it has no meaning. Instead: this."),
    ({"text": "a " * 21}, 200, "Expected a prompt of at most 20 tokens, got 21"),
    ({"text": "a", "candidates": ["b"] * 257}, 200, "at most 256 candidates, got 257"),
    ({"text": "a", "interventions": [{"kind": "ablate"}] * 257}, 200, "at most 256 interventions, got 257"),
    ({"text": "a", "interventions": [{"kind": "explode"}]}, 422, "'ablate', 'clamp' or 'cut'"),
    ({"text": "a", "more": 1}, 422, "Extra inputs"),
    ({"text": 1}, 422, "valid string"),
    (b'{"text": "a", "interventions": [{"kind": "clamp", "site": "a", "value": NaN}]}', 422, "finite number"),
    (b'{"text": "\\ud800"}', 422, "body.text: Value error, expected whole characters"),
    (b'{"text": "a", "candidates": ["b", "b\\udfff"]}', 422, "candidates.1: Value error, expected whole characters"),
    (b'{"text": "a", "interventions": [{"kind": "cut", "src": "\\ud800"}]}', 422, "0.src: Value error"),
    (b'{"text": "a", "\\ud800": 1}', 422, "unicode"),
    (b"[" * 100_000, 400, "parsing"),
    (b"\xff\xfe", 422, ""),
])  # fmt: skip
def test_a_bad_question_is_one_message(served: Served, body: Any, status: int, message: str) -> None:
    found = served("POST", "/api/ask", body)
    assert found.status == status
    assert message in json.loads(found.body)["message"]
    assert served.lives()


def wait(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.browser
def test_the_address_of_an_open_page_holds_no_token(tmp_path: Path, browser: Any) -> None:
    with serving(tmp_path, token="a-token-of-my-own_2") as served:
        tokens = "return document.querySelectorAll('.lab-token').length"
        for address in (f"{served.place.url}#state", f"{served.place.url.split('?')[0]}#state"):
            browser.get("about:blank")
            browser.get(address)
            wait(lambda: browser.execute_script(tokens))
            assert browser.current_url == f"{served.place.url.split('?')[0]}#state"
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.browser
def test_the_served_page_asks_its_server_in_a_browser(served: Served, browser: Any) -> None:
    browser.get(served.place.url)
    text = browser.execute_script("return document.body.innerText")
    assert NASTY in text  # as text
    assert browser.execute_script("return [window.hit ?? 0, document.querySelectorAll('img').length]") == [0, 0]
    assert "This page asks the server it came from, and no other." in text
    tokens = "return [...document.querySelectorAll('.lab-token')].map((t) => t.textContent)"
    wait(lambda: browser.execute_script(tokens))
    browser.execute_script("""
        const prompt = document.querySelector('.lab-prompt');
        prompt.value = 'to be or not';
        prompt.dispatchEvent(new Event('input', {bubbles: true}));
    """)
    wait(lambda: browser.execute_script(tokens) == ["to", "␣be", "␣or", "␣not"])
    assert "to be or not" in [question.text for question in served.model.asked]
    browser.execute_script("""
        const prompt = document.querySelector('.lab-prompt');
        prompt.value = 'refuse';
        prompt.dispatchEvent(new Event('input', {bubbles: true}));
    """)
    browser.execute_script("""
        const note = document.querySelector('.note-text');
        note.value = 'I think so';
        for (const kind of ['input', 'change']) note.dispatchEvent(new Event(kind, {bubbles: true}));
    """)
    wait(lambda: "I think so" in (served.folder / "notes.json").read_text())
    wait(lambda: "has no meaning" in browser.execute_script("return document.querySelector('.lab-error').innerText"))
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.browser
def test_a_served_page_keeps_what_others_noted_and_what_was_typed_last(served: Served, browser: Any) -> None:
    browser.get(served.place.url)
    notes = served.folder / "notes.json"
    shown = "return document.querySelector('.note-text').value"
    wait(lambda: browser.execute_script("return document.querySelector('.note-text')"))
    kept = json.loads(notes.read_text()) if notes.is_file() else {}
    wait(lambda: browser.execute_script(shown) == kept.get("circuit", ""))
    notes.write_text(json.dumps({**kept, "0.mlp.post_act:1": "of another tab"}))
    field = browser.find_element("css selector", ".note-text")
    field.clear()
    field.send_keys("mine")
    wait(lambda: json.loads(notes.read_text()).get("circuit") == "mine")
    assert json.loads(notes.read_text())["0.mlp.post_act:1"] == "of another tab"
    field.send_keys("!")
    browser.get("about:blank")  # before the pause after which it is kept
    wait(lambda: json.loads(notes.read_text())["circuit"] == "mine!")
    assert json.loads(notes.read_text())["0.mlp.post_act:1"] == "of another tab"
