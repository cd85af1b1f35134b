"""The ledger's tables, and the numbered steps that lead to them.

A migration is never edited once released; a change of the schema is a further one, and
`SCHEMA_VERSION` in `store` counts them. This is the only module that imports sqlite-utils, which
takes as long to import as the rest of the ledger: it is loaded only when a file has to be created
or migrated.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("tollway-ledger")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a file up to date, each step in a transaction of its own. Raises `sqlite3.Error`."""
    migrations.apply(Database(connection, execute_plugins=False, recursive_triggers=False))


APPEND_ONLY = ("attempts", "settlements", "corrections")


@migrations(name="0001_ledger")
def ledger(db: Database) -> None:
    """The first schema. `window_start` of a lifetime is 0; `legs` are [budget, window_start]."""
    db.executescript(
        """
        CREATE TABLE sessions (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL,
            opened_at INTEGER NOT NULL
        ) STRICT;

        CREATE TABLE keys (
            id TEXT NOT NULL PRIMARY KEY,
            digest BLOB NOT NULL UNIQUE,
            name TEXT NOT NULL,
            hint TEXT NOT NULL,
            models TEXT NOT NULL CHECK (json_valid(models)),
            created_at INTEGER NOT NULL,
            revoked_at INTEGER
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE budgets (
            id INTEGER PRIMARY KEY,
            scope TEXT NOT NULL CHECK (scope <> ''),
            window TEXT NOT NULL CHECK (window IN ('day', 'week', 'month', 'lifetime')),
            timezone TEXT NOT NULL,
            limit_nanousd INTEGER NOT NULL CHECK (limit_nanousd >= 0),
            mode TEXT NOT NULL CHECK (mode IN ('hard', 'soft')),
            managed TEXT NOT NULL CHECK (managed IN ('api', 'config')),
            created_at INTEGER NOT NULL,
            deleted_at INTEGER
        ) STRICT;

        CREATE TABLE balances (
            budget_id INTEGER NOT NULL REFERENCES budgets (id),
            window_start INTEGER NOT NULL,
            spent INTEGER NOT NULL CHECK (spent >= 0),
            held INTEGER NOT NULL CHECK (held >= 0),
            overrun INTEGER NOT NULL CHECK (overrun >= 0),
            PRIMARY KEY (budget_id, window_start)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE attempts (
            id INTEGER PRIMARY KEY,
            started_at REAL NOT NULL,
            request_id TEXT NOT NULL,
            number INTEGER NOT NULL,
            endpoint TEXT NOT NULL,
            key_id TEXT NOT NULL,
            virtual_model TEXT NOT NULL,
            target TEXT NOT NULL,
            provider TEXT NOT NULL,
            policy TEXT NOT NULL,
            route_reason TEXT NOT NULL,
            scopes TEXT NOT NULL,
            hold_nanousd INTEGER NOT NULL CHECK (hold_nanousd >= 0),
            floor_nanousd INTEGER NOT NULL CHECK (floor_nanousd >= 0),
            deadline INTEGER NOT NULL,
            revision INTEGER NOT NULL,
            priced INTEGER NOT NULL CHECK (priced IN (0, 1)),
            legs TEXT NOT NULL
        ) STRICT;

        CREATE TABLE holds (
            attempt INTEGER PRIMARY KEY REFERENCES attempts (id),
            amount INTEGER NOT NULL CHECK (amount >= 0),
            floor INTEGER NOT NULL CHECK (floor >= 0),
            deadline INTEGER NOT NULL
        ) STRICT;

        CREATE TABLE settlements (
            attempt INTEGER PRIMARY KEY REFERENCES attempts (id),
            settled_at INTEGER NOT NULL,
            outcome TEXT NOT NULL,
            cost_nanousd INTEGER NOT NULL CHECK (cost_nanousd >= 0),
            input_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            reasoning_tokens INTEGER NOT NULL,
            estimated INTEGER NOT NULL CHECK (estimated IN (0, 1)),
            status INTEGER NOT NULL,
            first_token_us INTEGER,
            total_us INTEGER NOT NULL,
            error TEXT NOT NULL
        ) STRICT;

        CREATE TABLE corrections (
            id INTEGER PRIMARY KEY,
            attempt INTEGER NOT NULL REFERENCES attempts (id),
            corrected_at INTEGER NOT NULL,
            reason TEXT NOT NULL,
            delta_nanousd INTEGER NOT NULL,
            overrun_nanousd INTEGER NOT NULL,
            outcome TEXT NOT NULL,
            input_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            reasoning_tokens INTEGER NOT NULL,
            estimated INTEGER NOT NULL CHECK (estimated IN (0, 1)),
            status INTEGER NOT NULL,
            first_token_us INTEGER,
            total_us INTEGER NOT NULL,
            error TEXT NOT NULL
        ) STRICT;
        """
    )
    db.table("attempts").create_index(["started_at"])
    db.table("corrections").create_index(["attempt"])
    for table in APPEND_ONLY:
        _refuse_changes(db, table)
    db.create_view("spend", _FIRST_SPEND)
    db.execute("PRAGMA application_id = 0x746f6c6c")
    db.execute("PRAGMA user_version = 1")


def _refuse_changes(db: Database, table: str) -> None:
    for change in ("UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER {table}_refuse_{change.lower()} BEFORE {change} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )


# One row for each attempt with what it finally cost: the last correction's words, all their sums.
# Overrun is what was billed above the money that was held for it at that moment.
_FIRST_SPEND = """
    SELECT
        a.id AS attempt,
        a.started_at,
        a.request_id,
        a.number,
        a.endpoint,
        a.key_id,
        a.virtual_model,
        a.target,
        a.provider,
        a.policy,
        a.route_reason,
        a.revision,
        a.priced,
        a.hold_nanousd,
        coalesce(h.amount, 0) AS held_nanousd,
        coalesce(c.outcome, s.outcome, 'open') AS outcome,
        coalesce(s.cost_nanousd, 0) + coalesce(d.delta_nanousd, 0) AS cost_nanousd,
        max(0, coalesce(s.cost_nanousd, 0) - a.hold_nanousd) + coalesce(d.overrun_nanousd, 0)
            AS overrun_nanousd,
        coalesce(c.estimated, s.estimated, 0) AS estimated,
        coalesce(c.input_tokens, s.input_tokens, 0) AS input_tokens,
        coalesce(c.cached_tokens, s.cached_tokens, 0) AS cached_tokens,
        coalesce(c.output_tokens, s.output_tokens, 0) AS output_tokens,
        coalesce(c.reasoning_tokens, s.reasoning_tokens, 0) AS reasoning_tokens,
        coalesce(c.status, s.status, 0) AS status,
        iif(c.id IS NULL, s.first_token_us, c.first_token_us) AS first_token_us,
        coalesce(c.total_us, s.total_us, 0) AS total_us,
        coalesce(c.error, s.error, '') AS error,
        coalesce(c.corrected_at, s.settled_at) AS settled_at
    FROM attempts AS a
    LEFT JOIN settlements AS s ON s.attempt = a.id
    LEFT JOIN holds AS h ON h.attempt = a.id
    LEFT JOIN (
        SELECT
            attempt,
            max(id) AS id,
            sum(delta_nanousd) AS delta_nanousd,
            sum(overrun_nanousd) AS overrun_nanousd
        FROM corrections GROUP BY attempt
    ) AS d ON d.attempt = a.id
    LEFT JOIN corrections AS c ON c.id = d.id
"""


@migrations(name="0002_teams_and_windows")
def teams_and_windows(db: Database) -> None:
    """Teams, rotated keys, any window, metered holds, alerts, invoices, retention.

    What operators set is JSON of the protocol's structs from here on: their defaults fill in what
    an older row does not have. `applied` is what the configuration last said. `archived` keeps
    what forgotten rows had cost, so that balances can still be recomputed; only rows older than
    `retention.before` can be deleted.
    """
    db.executescript(
        """
        CREATE TABLE groups (
            id TEXT NOT NULL PRIMARY KEY,
            kind TEXT NOT NULL CHECK (kind IN ('team', 'organisation')),
            settings TEXT NOT NULL CHECK (json_valid(settings)),
            created_at INTEGER NOT NULL,
            deleted_at INTEGER
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE new_keys (
            id TEXT NOT NULL PRIMARY KEY,
            digest BLOB NOT NULL UNIQUE,
            hint TEXT NOT NULL,
            settings TEXT NOT NULL CHECK (json_valid(settings)),
            created_at INTEGER NOT NULL,
            revoked_at INTEGER,
            previous_digest BLOB NOT NULL DEFAULT x'',
            previous_until INTEGER NOT NULL DEFAULT 0
        ) STRICT, WITHOUT ROWID;
        INSERT INTO new_keys (id, digest, hint, settings, created_at, revoked_at)
            SELECT id, digest, hint, json_object('name', name, 'models', json(models)),
                created_at, revoked_at
            FROM keys;
        DROP TABLE keys;
        ALTER TABLE new_keys RENAME TO keys;

        CREATE TABLE new_budgets (
            id INTEGER PRIMARY KEY,
            scope TEXT NOT NULL CHECK (scope <> ''),
            settings TEXT NOT NULL CHECK (json_valid(settings)),
            managed TEXT NOT NULL CHECK (managed IN ('api', 'config', 'each')),
            parent INTEGER REFERENCES budgets (id),
            created_at INTEGER NOT NULL,
            deleted_at INTEGER
        ) STRICT;
        INSERT INTO new_budgets (id, scope, settings, managed, created_at, deleted_at)
            SELECT id, scope,
                json_object(
                    'limit_nanousd', limit_nanousd, 'window', window, 'mode', mode,
                    'timezone', timezone
                ),
                managed, created_at, deleted_at
            FROM budgets;
        DROP TABLE budgets;
        ALTER TABLE new_budgets RENAME TO budgets;

        ALTER TABLE attempts ADD COLUMN tokens INTEGER NOT NULL DEFAULT 0;

        ALTER TABLE settlements ADD COLUMN hold_nanousd INTEGER;
        ALTER TABLE settlements ADD COLUMN uncertain_nanousd INTEGER;
        ALTER TABLE settlements ADD COLUMN cache_write_tokens INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE settlements ADD COLUMN cache_write_1h_tokens INTEGER NOT NULL DEFAULT 0;

        ALTER TABLE corrections ADD COLUMN cache_write_tokens INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE corrections ADD COLUMN cache_write_1h_tokens INTEGER NOT NULL DEFAULT 0;

        CREATE TABLE alerts (
            id INTEGER PRIMARY KEY,
            occasion TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            raised_at INTEGER NOT NULL,
            subject TEXT NOT NULL,
            alert TEXT NOT NULL CHECK (json_valid(alert)),
            delivered_at INTEGER
        ) STRICT;
        CREATE INDEX undelivered_alerts ON alerts (id) WHERE delivered_at IS NULL;

        CREATE TABLE invoice_lines (
            provider TEXT NOT NULL,
            day TEXT NOT NULL,
            model TEXT NOT NULL,
            cost_nanousd INTEGER NOT NULL CHECK (cost_nanousd >= 0),
            input_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            requests INTEGER NOT NULL,
            source TEXT NOT NULL,
            imported_at INTEGER NOT NULL,
            PRIMARY KEY (provider, day, model)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE archived (
            budget_id INTEGER NOT NULL,
            window_start INTEGER NOT NULL,
            spent INTEGER NOT NULL,
            overrun INTEGER NOT NULL,
            PRIMARY KEY (budget_id, window_start)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE applied (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            revision INTEGER NOT NULL,
            limits TEXT NOT NULL CHECK (json_valid(limits)),
            alert_percents TEXT NOT NULL CHECK (json_valid(alert_percents))
        ) STRICT;
        INSERT INTO applied VALUES (1, 0, '{}', '[50,80,100]');

        CREATE TABLE retention (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            before INTEGER NOT NULL
        ) STRICT;
        INSERT INTO retention VALUES (1, 0);

        DROP TRIGGER attempts_refuse_delete;
        DROP TRIGGER settlements_refuse_delete;
        DROP TRIGGER corrections_refuse_delete;
        CREATE TRIGGER attempts_refuse_delete BEFORE DELETE ON attempts
            WHEN old.started_at >= (SELECT before FROM retention)
            BEGIN SELECT RAISE(ABORT, 'attempts is append-only'); END;
        CREATE TRIGGER settlements_refuse_delete BEFORE DELETE ON settlements
            WHEN (SELECT started_at FROM attempts WHERE id = old.attempt)
                >= (SELECT before FROM retention)
            BEGIN SELECT RAISE(ABORT, 'settlements is append-only'); END;
        CREATE TRIGGER corrections_refuse_delete BEFORE DELETE ON corrections
            WHEN (SELECT started_at FROM attempts WHERE id = old.attempt)
                >= (SELECT before FROM retention)
            BEGIN SELECT RAISE(ABORT, 'corrections is append-only'); END;

        DROP VIEW spend;
        """
    )
    db.create_view("spend", _SPEND)
    db.execute("PRAGMA user_version = 2")


# One row for each attempt with what it finally cost: the last correction's words, all their sums.
# Overrun is what was billed above the money that was held for it at that moment. `scopes` is a
# JSON list: "team:t_1", "user:someone", "tag:nightly" … are found in it.
_SPEND = """
    SELECT
        a.id AS attempt,
        a.started_at,
        a.request_id,
        a.number,
        a.endpoint,
        a.key_id,
        a.virtual_model,
        a.target,
        a.provider,
        a.policy,
        a.route_reason,
        a.revision,
        a.priced,
        a.scopes,
        coalesce(s.hold_nanousd, a.hold_nanousd) AS hold_nanousd,
        coalesce(h.amount, 0) AS held_nanousd,
        coalesce(c.outcome, s.outcome, 'open') AS outcome,
        coalesce(s.cost_nanousd, 0) + coalesce(d.delta_nanousd, 0) AS cost_nanousd,
        max(0, coalesce(s.cost_nanousd, 0) - coalesce(s.hold_nanousd, a.hold_nanousd))
            + coalesce(d.overrun_nanousd, 0) AS overrun_nanousd,
        coalesce(c.estimated, s.estimated, 0) AS estimated,
        coalesce(c.input_tokens, s.input_tokens, 0) AS input_tokens,
        coalesce(c.cached_tokens, s.cached_tokens, 0) AS cached_tokens,
        coalesce(c.cache_write_tokens, s.cache_write_tokens, 0) AS cache_write_tokens,
        coalesce(c.cache_write_1h_tokens, s.cache_write_1h_tokens, 0) AS cache_write_1h_tokens,
        coalesce(c.output_tokens, s.output_tokens, 0) AS output_tokens,
        coalesce(c.reasoning_tokens, s.reasoning_tokens, 0) AS reasoning_tokens,
        coalesce(c.status, s.status, 0) AS status,
        iif(c.id IS NULL, s.first_token_us, c.first_token_us) AS first_token_us,
        coalesce(c.total_us, s.total_us, 0) AS total_us,
        coalesce(c.error, s.error, '') AS error,
        coalesce(c.corrected_at, s.settled_at) AS settled_at
    FROM attempts AS a
    LEFT JOIN settlements AS s ON s.attempt = a.id
    LEFT JOIN holds AS h ON h.attempt = a.id
    LEFT JOIN (
        SELECT
            attempt,
            max(id) AS id,
            sum(delta_nanousd) AS delta_nanousd,
            sum(overrun_nanousd) AS overrun_nanousd
        FROM corrections GROUP BY attempt
    ) AS d ON d.attempt = a.id
    LEFT JOIN corrections AS c ON c.id = d.id
"""
_SPEND_BY_DECISION = _SPEND.replace("a.route_reason,", "a.route_reason,\n        a.decision,")


@migrations(name="0003_swaps")
def swaps(db: Database) -> None:
    """What operators moved from one target to another: what they wanted, and all that came of it.

    A swap is in the state of its last event.
    """
    db.executescript(
        """
        CREATE TABLE swaps (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL,
            plan TEXT NOT NULL CHECK (json_valid(plan)),
            created_at INTEGER NOT NULL
        ) STRICT;

        CREATE TABLE swap_events (
            id INTEGER PRIMARY KEY,
            swap INTEGER NOT NULL REFERENCES swaps (id),
            at INTEGER NOT NULL,
            state TEXT NOT NULL,
            percent INTEGER NOT NULL,
            reason TEXT NOT NULL
        ) STRICT;
        CREATE INDEX events_of_swaps ON swap_events (swap);
        """
    )
    for table in ("swaps", "swap_events"):
        _refuse_changes(db, table)
    db.execute("PRAGMA user_version = 3")


@migrations(name="0004_decisions")
def decisions(db: Database) -> None:
    """Which decision an attempt was routed by."""
    db.executescript(
        """
        ALTER TABLE attempts ADD COLUMN decision TEXT NOT NULL DEFAULT '';
        DROP VIEW spend;
        """
    )
    db.create_view("spend", _SPEND_BY_DECISION)
    db.execute("PRAGMA user_version = 4")


@migrations(name="0005_feedback")
def feedback(db: Database) -> None:
    """What callers say of the answers they got, and what that says of targets at a task.

    `quality` sums up all feedback there ever was, also that of attempts which are forgotten: of
    each answer the mean of what was said of it, in millionths.
    """
    db.executescript(
        """
        ALTER TABLE attempts ADD COLUMN task TEXT NOT NULL DEFAULT '';
        CREATE INDEX attempts_of_requests ON attempts (request_id);

        CREATE TABLE feedback (
            request_id TEXT NOT NULL,
            metric TEXT NOT NULL,
            attempt INTEGER NOT NULL REFERENCES attempts (id),
            worth_ppm INTEGER NOT NULL CHECK (worth_ppm BETWEEN 0 AND 1000000),
            given_at INTEGER NOT NULL,
            PRIMARY KEY (request_id, metric)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX feedback_of_attempts ON feedback (attempt);
        CREATE INDEX feedback_by_time ON feedback (given_at);

        CREATE TABLE quality (
            target TEXT NOT NULL,
            task TEXT NOT NULL,
            answers INTEGER NOT NULL CHECK (answers >= 0),
            worth_ppm INTEGER NOT NULL CHECK (worth_ppm >= 0),
            PRIMARY KEY (target, task)
        ) STRICT, WITHOUT ROWID;
        """
    )
    db.execute("PRAGMA user_version = 5")


@migrations(name="0006_outvoted")
def outvoted(db: Database) -> None:
    """Attempts that were answered, while another answer to the same request was taken."""
    db.executescript(
        """
        CREATE TABLE outvoted (
            attempt INTEGER PRIMARY KEY REFERENCES attempts (id)
        ) STRICT;
        """
    )
    db.execute("PRAGMA user_version = 6")
