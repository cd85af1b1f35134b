"""The command line: without a server, and beside one that is running."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from proxy.ledger.export import COLUMNS
from tests.e2e.tollway import Tollway, clean_environ, provider, run_cli, serving
from tests.e2e.upstream import Upstream


class Folder:
    """A data folder without a server."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *arguments: str, columns: int = 200) -> subprocess.CompletedProcess[str]:
        environ = clean_environ() | {"COLUMNS": str(columns)}
        return run_cli(*arguments, "--data", "data", environ=environ, cwd=self.path)

    def ok(self, *arguments: str, columns: int = 200) -> str:
        done = self.run(*arguments, columns=columns)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_life_of_a_key_with_all_its_settings(folder: Folder) -> None:
    folder.ok("teams", "create", "Dev", "--id", "dev")
    made = folder.ok(
        *("keys", "create", "alice", "--team", "dev", "--model", "auto", "--model", "cheap"),
        *("--endpoint", "chat", "--network", "10.0.0.0/8", "--network", "192.0.2.7"),
        *("--expires", "30d", "--rpm", "60", "--tpm", "1000", "--concurrent", "2"),
        *("--at-cap", "finish", "--clamp", "--tag", "nightly", "--metadata", '{"cost": [1]}'),
        *("--budget", "20", "--budget", "1/5h", "--window", "quarter"),
    )
    assert made.startswith("sk-tw-")
    (key,) = folder.json("keys", "list")
    assert 29 * 86_400 < key.pop("expires_at") - time.time() < 31 * 86_400
    key_id, created_at = key.pop("key_id"), key.pop("created_at")
    assert abs(created_at - time.time()) < 60
    secret = made.split()[0]
    assert key.pop("hint").endswith(secret[-4:])
    assert key == {
        "name": "alice",
        "team_id": "dev",
        "models": ["auto", "cheap"],
        "endpoints": ["chat"],
        "networks": ["10.0.0.0/8", "192.0.2.7/32"],
        "blocked": False,
        "limits": {"requests_per_minute": 60, "tokens_per_minute": 1000, "concurrent": 2},
        "at_cap": "finish",
        "clamp": True,
        "tags": ["nightly"],
        "metadata": {"cost": [1]},
        "revoked_at": None,
        "previous_until": None,
    }
    budgets = [
        (b["scope"], b["limit_nanousd"], b["window"]) for b in folder.json("budgets", "list")
    ]
    assert budgets == [(f"key:{key_id}", 20 * 10**9, "quarter"), (f"key:{key_id}", 10**9, "5h")]

    shown = folder.ok("keys", "show", key_id)
    assert "10.0.0.0/8" in shown
    assert secret not in shown
    folder.ok("keys", "update", key_id, "--name", "al", "--rpm", "", "--tpm", "7", "--no-clamp")
    folder.ok("keys", "update", key_id, "--team", "", "--model", "", "--expires", "")
    key = folder.json("keys", "show", key_id)
    assert (key["name"], key["clamp"], key["team_id"], key["models"]) == ("al", False, "", [])
    assert key["limits"] == {"requests_per_minute": None, "tokens_per_minute": 7, "concurrent": 2}
    assert (key["expires_at"], key["tags"]) == (None, ["nightly"])

    rotated = folder.ok("keys", "rotate", key_id, "--overlap", "1h")
    assert rotated.split()[0] not in (secret, "")
    assert "accepted until" in rotated
    assert 3_500 < folder.json("keys", "show", key_id)["previous_until"] - time.time() < 3_700
    folder.ok("keys", "block", key_id)
    assert "blocked" in folder.ok("keys", "list")
    folder.ok("keys", "unblock", key_id)
    assert folder.json("keys", "show", key_id)["blocked"] is False
    folder.ok("keys", "revoke", key_id)
    assert "revoked 20" in folder.ok("keys", "list")


def test_teams_and_organisations(folder: Folder) -> None:
    assert folder.ok("organisations", "create", "Acme", "--id", "acme", "--budget", "9") == "acme\n"
    team = folder.ok("teams", "create", "Dev", "--organisation", "acme", "--rpm", "5").strip()
    (shown,) = folder.json("teams", "list")
    assert (shown["id"], shown["organisation_id"]) == (team, "acme")
    assert shown["limits"]["requests_per_minute"] == 5
    folder.ok("teams", "update", team, "--name", "Ops", "--blocked", "--model", "auto", "--rpm", "")
    (shown,) = folder.json("teams", "list")
    assert (shown["name"], shown["blocked"], shown["models"]) == ("Ops", True, ["auto"])
    assert shown["limits"]["requests_per_minute"] is None
    assert "blocked" in folder.ok("teams", "list")
    assert folder.run("organisations", "delete", "acme").returncode == 2
    folder.ok("teams", "delete", team)
    folder.ok("organisations", "update", "acme", "--metadata", '{"a": 1}')
    folder.ok("organisations", "delete", "acme")
    (organisation,) = folder.json("organisations", "list")
    assert organisation["deleted_at"] is not None
    assert "organisation_id" not in organisation
    assert "deleted 20" in folder.ok("teams", "list")
    assert "no team" in folder.run("teams", "delete", team).stderr


def test_budgets_of_any_scope_and_window(folder: Folder) -> None:
    folder.ok("teams", "create", "Dev", "--id", "dev")
    folder.ok(
        *("budgets", "create", "team:dev & user:*", "5.000000001", "--window", "30d"),
        *("--mode", "soft", "--holds", "full", "--timezone", "Europe/Berlin", "--name", "each"),
    )
    folder.ok("budgets", "create", "global", "1", "--window", "year")
    for scope in ("model:auto & user:*", "target:openai/gpt-4o", "provider:tollway"):
        folder.ok("budgets", "create", scope, "1")
    for budget in folder.json("budgets", "list")[2:]:
        folder.ok("budgets", "delete", str(budget["budget_id"]))
    first, second = folder.json("budgets", "list")
    assert (first["scope"], first["limit_nanousd"]) == ("team:dev & user:*", 5_000_000_001)
    assert (first["window"], first["mode"], first["holds"]) == ("30d", "soft", "full")
    assert (first["timezone"], first["name"]) == ("Europe/Berlin", "each")
    number = str(second["budget_id"])
    folder.ok("budgets", "update", number, "--limit", "2", "--mode", "soft", "--name", "all")
    changed = folder.json("budgets", "list")[1]
    assert (changed["limit_nanousd"], changed["mode"], changed["name"]) == (
        2 * 10**9,
        "soft",
        "all",
    )
    narrow = folder.ok("budgets", "list", columns=80)
    assert "$5.000000001" in narrow
    assert "0.0%" in narrow
    folder.ok("budgets", "delete", number)
    assert len(folder.json("budgets", "list")) == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["keys", "create", ""], "name: is empty"),
        (["keys", "create", "a\x1b[31mb"], r"'a\x1b[31mb' is not up to 256 printable"),
        (["keys", "create", "x", "--tag", "*"], "'*' cannot be a tag"),
        (["teams", "create", " "], "name: is empty"),
        (["keys", "create", "x", "--team", "nope"], "nope"),
        (["keys", "create", "x", "--endpoint", "smoke"], "--endpoint: 'smoke' is none of chat"),
        (["keys", "create", "x", "--network", "10.0.0.7/8"], "--network: "),
        (["keys", "create", "x", "--expires", "soon"], "--expires: 'soon' is no time"),
        (["keys", "create", "x", "--at-cap", "cry"], "--at-cap: 'cry' is none of downgrade"),
        (["keys", "create", "x", "--metadata", "{"], "--metadata: "),
        (["keys", "create", "x", "--rpm", "many"], "--rpm: 'many' is no number"),
        (["keys", "create", "x", "--budget", "-1"], "--budget: "),
        (["keys", "create", "x", "--budget", "1/eon"], "--budget: unknown window 'eon'"),
        (["keys", "show", "k_nobody"], "k_nobody"),
        (["keys", "update", "k_nobody", "--name", "x"], "k_nobody"),
        (["keys", "update", "k_nobody"], "nothing to change"),
        (["keys", "rotate", "k_nobody"], "k_nobody"),
        (["keys", "rotate", "k_nobody", "--overlap", "x"], "--overlap: 'x' is no length"),
        (["teams", "create", "x", "--organisation", "nope"], "nope"),
        (["teams", "update", "nope", "--name", "x"], "there is no team 'nope'"),
        (["organisations", "delete", "nope"], "there is no organisation 'nope'"),
        (["budgets", "create", "globl", "5"], "unknown scope 'globl'"),
        (["budgets", "create", "team:nope", "5"], "there is no team 'nope'"),
        (["budgets", "create", "key:nope & tag:x", "5"], "there is no key 'nope'"),
        (["budgets", "create", "user:* & tag:*", "5"], "only one part"),
        (["budgets", "create", "template:x", "5"], "unknown scope 'template:x'"),
        (["budgets", "create", "model:autoo", "5"], "there is no model 'autoo'"),
        (["budgets", "create", "target:nobody/x", "5"], "there is no target 'nobody/x'"),
        (["budgets", "create", "provider:opnai & user:*", "5"], "there is no provider 'opnai'"),
        (["budgets", "create", "global", "x"], "USD: an amount must be a number"),
        (["budgets", "create", "global", "5", "--window", "eon"], "--window: unknown window"),
        (["budgets", "create", "global", "5", "--timezone", "Mars/X"], "Mars/X"),
        (["budgets", "update", "7"], "nothing to change"),
        (["budgets", "update", "7", "--limit", "1"], "7"),
        (["budgets", "delete", "7"], "7"),
        (["spend", "--by", "mood"], "--by: 'mood' is none of day, hour"),
        (["spend", "--timezone", "Mars/X"], "--timezone: unknown time zone"),
        (["spend", "--last", "3", "--team", "x"], "leave the filters out"),
        (["spend", "--json", "--csv"], "give one of them"),
        (["reconcile", "good.csv", "--provider", "x", "--json", "--csv"], "give one of them"),
        (["export", "-o", "nowhere/x.csv"], "nowhere/x.csv: cannot be written"),
        (["export", "-o", "x", "--format", "xls"], "--format: 'xls' is none of csv"),
        (["prune"], "give either --before or --older-than"),
        (["prune", "--older-than", "1y"], "--older-than: '1y' is no length"),
        (["prune", "--older-than", "31d"], "give --yes"),
        (["prune", "--before", "2100-01-01", "--yes"], "last day"),
        (["reconcile", "nothing.json", "--provider", "x"], "nothing.json: cannot be read"),
        (["reconcile", "bad.json", "--provider", "x"], "bad.json: line 1: is not valid JSON"),
        (["reconcile", "good.csv", "--provider", "x"], "'x' has no attempts on record"),
        (["reconcile", "good.csv", "--provider", "x", "--alert-percent", "x"], "--alert-percent"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Folder, command: list[str], said: str) -> None:
    (folder.path / "bad.json").write_text("{]")
    (folder.path / "good.csv").write_text("day,model,cost_usd\n2026-01-01,m,1\n")
    done = folder.run(*command)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("tollway: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr


def test_every_report_of_an_empty_ledger(folder: Folder) -> None:
    assert "total" in folder.ok("spend")
    assert folder.json("spend") == []
    assert folder.ok("spend", "--csv", "--by", "tag").startswith("tag,requests,attempts,")
    assert folder.ok("alerts") == "no alert was raised yet\n"
    assert folder.json("alerts") == []
    assert folder.ok("audit") == "no differences in 0 attempts, 0 balances\n"
    assert folder.ok("export", "-o", "-") == ",".join(COLUMNS) + "\n"
    assert folder.ok("prune", "--older-than", "400d").startswith("0 attempts from before 20")


def test_parquet_without_its_library_says_what_to_install(folder: Folder) -> None:
    (folder.path / "pyarrow").mkdir()
    (folder.path / "pyarrow/__init__.py").write_text("raise ModuleNotFoundError('pyarrow')")
    environ = clean_environ()
    environ["PYTHONPATH"] = f"{folder.path}{os.pathsep}{environ['PYTHONPATH']}"
    done = run_cli("export", "-o", "x.parquet", "--data", "d", environ=environ, cwd=folder.path)
    assert done.returncode == 2
    assert "pip install 'tollway[parquet]'" in done.stderr
    assert not (folder.path / "x.parquet").exists()


def test_serve_imports_no_other_command() -> None:
    """What it imports is what its start costs."""
    code = (
        "import sys; from proxy import cli; import typer.main;"
        "typer.main.get_command(cli.app).commands['serve']; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    commands = {name for name in loaded if name.startswith("proxy.cli.")}
    assert commands == {"proxy.cli.asking", "proxy.cli.output", "proxy.cli.serving"}
    unwanted = {"sqlite_utils", "rich.progress", "proxy.ledger.reports", "proxy.invoices"}
    assert not loaded & unwanted


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def busy(upstream: Upstream, tmp_path: Path) -> Iterator[tuple[Tollway, str]]:
    """A server that has answered 2 requests of nobody's, and 3 of a key of team `dev`."""
    config = provider(upstream.base_url, "m1", "m2-2026-01-01")
    config["models"]["spare"] = {"targets": ["up/m2-2026-01-01"]}
    with serving(tmp_path, config) as tollway:
        for _ in range(2):
            assert tollway.chat().status_code == 200
        assert tollway.cli("teams", "create", "Dev", "--id", "dev").returncode == 0
        made = tollway.cli("keys", "create", "alice", "--team", "dev", "--tag", "a", "--tag", "b")
        assert made.returncode == 0, made.stderr
        key = made.stdout.split()[0]
        for model in ("auto", "auto", "spare"):
            assert tollway.chat(model, user="u 1", headers=_bearer(key)).status_code == 200
        tollway.rows(5)
        yield tollway, key


COST = 25_000  # nano-USD of one request


def test_spend_beside_a_running_server(busy: tuple[Tollway, str]) -> None:
    tollway, _ = busy

    def spent(*arguments: str) -> dict[str, int]:
        done = tollway.cli("spend", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return {
            " ".join(row["group"]): row["cost_nanousd"] // COST for row in json.loads(done.stdout)
        }

    assert spent("--by", "team") == {"": 2, "dev": 3}
    assert spent("--by", "tag") == {"": 2, "a": 3, "b": 3}
    assert spent("--by", "user,virtual_model") == {" auto": 2, "u 1 auto": 2, "u 1 spare": 1}
    assert spent("--by", "model", "--team", "dev") == {"m1": 2, "m2-2026-01-01": 1}
    assert spent("--by", "outcome", "--key", "anonymous") == {"ok": 2}
    assert spent("--by", "endpoint", "--tag", "a", "--user", "u 1") == {"chat": 3}
    assert spent("--by", "provider", "--since", "1h", "--until", "2100-01-01") == {"up": 5}
    assert spent("--by", "target", "--until", "1h") == {}
    table = tollway.cli("spend", "--by", "tag").stdout
    total = next(line for line in table.splitlines() if line.startswith("total"))
    assert total.split() == ["total", "5", "5", *total.split()[3:5], "$0.000125"]
    assert "█" in table
    rows = list(csv.DictReader(io.StringIO(tollway.cli("spend", "--csv", "--by", "team").stdout)))
    assert [(row["team"], row["cost_nanousd"]) for row in rows] == [
        ("", str(2 * COST)),
        ("dev", str(3 * COST)),
    ]


def test_spend_leaves_out_the_budgets_that_a_star_made(busy: tuple[Tollway, str]) -> None:
    tollway, key = busy
    assert tollway.cli("budgets", "create", "user:*", "1").returncode == 0
    tollway.admin("POST", "/budgets", {"scope": "global", "limit_usd": 1})
    for user in ("ann", "bob"):
        assert tollway.chat(user=user, headers=_bearer(key)).status_code == 200
    shown = tollway.cli("spend").stdout
    assert "user:*" in shown
    assert "user:ann" not in shown
    assert "and 2 made by '*'" in shown
    assert "user:ann" in tollway.cli("budgets", "list").stdout


def test_a_revoked_key_is_not_served_again(folder: Folder) -> None:
    folder.ok("keys", "create", "alice")
    (key,) = folder.json("keys", "list")
    folder.ok("keys", "revoke", key["key_id"])
    done = folder.run("keys", "unblock", key["key_id"])
    assert done.returncode == 2
    assert done.stderr.startswith(f"tollway: {key['key_id']} is revoked for good")


def test_a_key_that_is_blocked_on_the_command_line_is_refused(busy: tuple[Tollway, str]) -> None:
    tollway, key = busy
    (record,) = json.loads(tollway.cli("keys", "list", "--json").stdout)
    assert tollway.cli("keys", "block", record["key_id"]).returncode == 0
    assert tollway.chat(headers=_bearer(key)).status_code in (401, 403)
    assert tollway.cli("keys", "unblock", record["key_id"]).returncode == 0
    assert tollway.chat(headers=_bearer(key)).status_code == 200
    rotated = tollway.cli("keys", "rotate", record["key_id"]).stdout.split()[0]
    assert tollway.chat(headers=_bearer(rotated)).status_code == 200
    assert tollway.chat(headers=_bearer(key)).status_code == 401


def test_a_budget_of_the_command_line_holds_at_once(busy: tuple[Tollway, str]) -> None:
    tollway, key = busy
    made = tollway.cli("budgets", "create", "team:dev & user:*", "0.00001", "--window", "5h")
    assert made.returncode == 0, made.stderr
    refused = tollway.chat(user="u 2", headers=_bearer(key))
    assert refused.status_code == 429
    assert "u 2" in refused.text


def test_audit_and_export_beside_a_running_server(busy: tuple[Tollway, str]) -> None:
    tollway, _ = busy
    assert tollway.cli("budgets", "create", "global", "1").returncode == 0
    audited = tollway.cli("audit")
    assert (audited.returncode, audited.stderr) == (0, "")
    assert audited.stdout.startswith("no differences in 5 attempts, ")
    done = tollway.cli("export", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "5 attempts exported\n"
    rows = [json.loads(line) for line in (tollway.folder / "out.jsonl").read_text().splitlines()]
    assert [row["cost_nanousd"] for row in rows] == [COST] * 5
    assert "tag:a" in rows[-1]["scopes"]
    assert (tollway.folder / "out.jsonl").stat().st_mode & 0o077 == 0
    piped = tollway.cli("export", "-o", "-", "--format", "csv", "--since", "1h")
    assert len(piped.stdout.splitlines()) == 6
    left = [path.name for path in tollway.folder.iterdir() if path.name.startswith(".out")]
    assert left == []


def test_an_export_that_fails_leaves_what_was_there(folder: Folder) -> None:
    (folder.path / "out.csv").mkdir()
    done = folder.run("export", "-o", "out.csv")
    assert done.returncode == 2
    assert "out.csv: cannot be written" in done.stderr
    assert sorted(path.name for path in folder.path.iterdir()) == ["data", "out.csv"]


def test_the_audit_reports_what_was_falsified(folder: Folder) -> None:
    folder.ok("budgets", "create", "global", "1")
    with closing(sqlite3.connect(folder.path / "data/ledger.db")) as forger:
        forger.execute("INSERT INTO balances VALUES (1, 0, 7, 0, 0)")
        forger.commit()
    done = folder.run("audit")
    assert done.returncode == 1
    assert "budget 1 in the window from 0: the balance says spent 7" in done.stdout
    assert done.stdout.count("\n") == 1


def test_pruned_attempts_are_gone_and_balances_stay(busy: tuple[Tollway, str]) -> None:
    tollway, _ = busy
    tollway.stop()
    # As if they had been made long ago: with the guards of the tables out of the way.
    with closing(sqlite3.connect(tollway.data / "ledger.db")) as db:
        db.executescript(
            "DROP TRIGGER attempts_refuse_update;"
            "UPDATE attempts SET started_at = started_at - 40 * 86400 WHERE number = 1 "
            "AND key_id = ''"
        )
    tollway.start()
    done = tollway.cli("prune", "--older-than", "33d")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 attempts from before 20")
    assert "No report or export has them" in done.stderr
    assert len(json.loads(tollway.cli("spend", "--json", "--last", "9").stdout)) == 3
    assert tollway.cli("audit").stdout.startswith("no differences in 3 attempts")


def test_reconciliation_shows_drift_and_raises_an_alert(busy: tuple[Tollway, str]) -> None:
    tollway, _ = busy
    (day,) = {
        datetime.fromtimestamp(row["started_at"], UTC).date().isoformat() for row in tollway.rows(5)
    }
    invoice = tollway.folder / "invoice.csv"
    invoice.write_text(
        f"day,model,cost_usd,requests\n{day},m1-2026-02-02,0.000110,4\n"
        f"{day},m2-2026-01-01,0.000025,1\n"
    )
    command = ("reconcile", "invoice.csv", "--provider", "up")
    done = tollway.cli(*command, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    drifts = {row["target"]: row["drift_nanousd"] for row in shown["rows"]}
    assert drifts == {"up/m1": 10_000, "up/m2-2026-01-01": 0}
    assert shown["total"]["drift_percent"] == "7.41"
    assert "alert: up charged $0.00001 more than was counted" in done.stderr
    table = tollway.cli(*command, "--alert-percent", "10")
    assert "+7.41%" in table.stdout
    assert table.stderr == ""
    rows = list(csv.DictReader(io.StringIO(tollway.cli(*command, "--csv").stdout)))
    assert [row["theirs_nanousd"] for row in rows] == ["110000", "25000"]
    (alert,) = json.loads(tollway.cli("alerts", "--json").stdout)
    assert (alert["kind"], alert["subject"], alert["amount_nanousd"]) == ("drift", "up", 10_000)
    assert "more than was counted" in tollway.cli("alerts").stdout
    kept = tollway.query("SELECT model, cost_nanousd, source FROM invoice_lines ORDER BY model")
    assert kept == [
        {"model": "m1-2026-02-02", "cost_nanousd": 110_000, "source": "invoice.csv"},
        {"model": "m2-2026-01-01", "cost_nanousd": 25_000, "source": "invoice.csv"},
    ]
