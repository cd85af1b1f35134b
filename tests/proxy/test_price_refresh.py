from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from proxy import price_list
from proxy.errors import StartError
from proxy.price_book import PriceBook
from proxy.price_refresh import refresh
from proxy.price_snapshot import render
from tests.proxy.test_price_list import snapshot

ROOT = Path(__file__).parents[2]
TODAY = PriceBook.load().as_of + timedelta(days=30)
LISTED = [
    {
        "id": "openai",
        "name": "OpenAI",
        "api_pattern": "x",
        "models": [
            {
                "id": "m",
                "match": {"equals": "m"},
                "prices": {"input_mtok": 0.1, "output_mtok": 2},
            }
        ],
    }
]


@contextmanager
def serving(body: bytes, status: int = 200) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/data.json"
        finally:
            server.shutdown()
            thread.join()


def test_a_published_list_becomes_the_snapshot_in_use(tmp_path: Path) -> None:
    pytest.importorskip("genai_prices", reason="the source of prices is not installed")
    with serving(json.dumps(LISTED).encode()) as url:
        refresh(tmp_path, source=url, today=TODAY)
    book, warning = price_list.load(tmp_path)
    assert (book.as_of, warning) == (TODAY, "")
    price = book.find("openai", "m", TODAY)
    assert price
    assert (price.input, price.output, price.known_at) == (10**8, 2 * 10**9, TODAY)
    assert [path.name for path in tmp_path.iterdir()] == [price_list.REFRESHED]


def test_a_list_in_a_file_is_as_old_as_the_file(tmp_path: Path) -> None:
    pytest.importorskip("genai_prices", reason="the source of prices is not installed")
    file = tmp_path / "data.json"
    file.write_text(json.dumps(LISTED))
    moment = datetime(2026, 8, 21, 12, tzinfo=UTC).timestamp()
    os.utime(file, (moment, moment))
    assert "is newer" in refresh(tmp_path, source=str(file), today=TODAY)
    assert PriceBook.load(tmp_path / price_list.REFRESHED).as_of == date(2026, 8, 21)


def test_a_snapshot_keeps_its_own_date_and_needs_no_source_of_prices(tmp_path: Path) -> None:
    made, folder = tmp_path / "made.json", tmp_path / "data"
    folder.mkdir()
    made.write_text(render(snapshot(date(2027, 1, 1))))
    code = (
        "import sys; sys.modules['genai_prices'] = None\n"
        "from datetime import date; from pathlib import Path\n"
        "from proxy.price_refresh import refresh\n"
        f"refresh(Path({str(folder)!r}), source={str(made)!r}, today=date(2027, 2, 3))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert PriceBook.load(folder / price_list.REFRESHED).as_of == date(2027, 1, 1)


def test_the_next_refresh_replaces_the_last(tmp_path: Path) -> None:
    made = tmp_path / "made.json"
    for as_of in (TODAY - timedelta(days=1), TODAY):
        made.write_text(render(snapshot(as_of)))
        note = refresh(tmp_path, source=str(made), today=TODAY)
        assert "for 1 models; servers use it" in note
        assert PriceBook.load(tmp_path / price_list.REFRESHED).as_of == as_of


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"<html>", "no price list"),
        (b"5", "no price list"),
        (b'{"source": "x"}', "no price list"),
        (b"[]", "no prices"),
        (b"[5]", "no price list"),
        (json.dumps([{**LISTED[0], "models": [{"id": "m", "match": {}}]}]).encode(), "no price"),
        (
            json.dumps([{**LISTED[0], "models": [{"id": "m", "match": {"x": 1}}]}]).encode(),
            "no price",
        ),
        (json.dumps([{**LISTED[0], "models": 5}]).encode(), "no price list"),
        (render(snapshot(TODAY, match="(")).encode(), "no usable price list"),
        (b"[" * 100_000, "no price list"),
    ],
)
def test_what_is_no_price_list_changes_nothing(tmp_path: Path, body: bytes, problem: str) -> None:
    if body.startswith(b"["):
        pytest.importorskip("genai_prices", reason="the source of prices is not installed")
    file = tmp_path / "given"
    file.write_bytes(body)
    (tmp_path / price_list.REFRESHED).write_text("as it was")
    with pytest.raises(StartError) as caught:
        refresh(tmp_path, source=str(file), today=TODAY)
    assert str(caught.value).startswith(f"{file}: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / price_list.REFRESHED).read_text() == "as it was"


def test_an_address_that_does_not_answer_with_prices_is_named(tmp_path: Path) -> None:
    with serving(b"gone", 404) as url, pytest.raises(StartError, match=r"data\.json: answers 404"):
        refresh(tmp_path, source=url, today=TODAY)
    with pytest.raises(StartError, match="cannot be fetched"):
        refresh(tmp_path, source=url, today=TODAY)  # the server is gone
    with pytest.raises(StartError, match="cannot be read"):
        refresh(tmp_path, source=str(tmp_path / "nothing"), today=TODAY)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    made = tmp_path / "made.json"
    made.write_text(render(snapshot(TODAY)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / price_list.REFRESHED).mkdir()
    with pytest.raises(StartError, match="cannot be written"):
        refresh(tmp_path / "data", source=str(made), today=TODAY)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [price_list.REFRESHED]


def test_without_the_source_of_prices_the_remedy_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['genai_prices'] = None\n"
        "from proxy.cli import main; sys.argv = ['tollway', 'prices', '--refresh']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"TOLLWAY_DATA": str(tmp_path / "data")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "tollway[prices]" in line
    assert "--from" in line
