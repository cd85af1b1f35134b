"""Every client through every provider: what it is asked for comes out the same, whoever answers.

`python -m tests.e2e.matrix` writes `docs/compatibility.md` from what it finds.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.dialect_upstream import MODELS, Providers
from tests.e2e.stand_ins import NPM, has_npm_peers
from tests.e2e.tollway import Tollway, serving

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- matrix: begin -->\n", "<!-- matrix: end -->\n"

FEATURES = (
    "text",
    "stream",
    "tools",
    "parallel_tools",
    "tool_results",
    "image",
    "structured_output",
    "reasoning",
    "reasoning_kept",
    "usage",
)


@dataclass(frozen=True, slots=True)
class Client:
    """A program that is asked for every feature."""

    name: str
    program: tuple[str, ...]

    @property
    def is_node(self) -> bool:
        return self.program[0].endswith(".mjs")


CLIENTS = (
    Client("openai-python, chat", ("openai_python_chat",)),
    Client("openai-node, chat", ("openai_node_chat.mjs",)),
    Client("AI SDK, openai-compatible", ("ai_sdk.mjs", "openai_compatible")),
    Client("AI SDK, openai chat", ("ai_sdk.mjs", "openai_chat")),
    Client("openai-python, responses", ("openai_python_responses",)),
    Client("openai-node, responses", ("openai_node_responses.mjs",)),
    Client("AI SDK, openai responses", ("ai_sdk.mjs", "openai_responses")),
    Client("anthropic-python", ("anthropic_python",)),
    Client("anthropic-node", ("anthropic_node.mjs",)),
    Client("AI SDK, anthropic", ("ai_sdk.mjs", "anthropic")),
)

Cell = tuple[str, str, str]
"""Client, provider, feature."""

_UNREAD = "the client reads no reasoning from chat completions"
_UNSIGNED = (
    "the client does not send back what signs the thoughts, so the turn goes on without them"
)
_OWN_TOOL = (
    "the client does not know the model and asks for JSON as the call of a tool of its own, which "
    "this provider cannot be bound to: tell it `structuredOutputMode: 'outputFormat'`"
)
EXPLAINED: Mapping[Cell, str] = {
    ("AI SDK, openai chat", "*", "reasoning"): _UNREAD,
    ("AI SDK, openai chat", "*", "reasoning_kept"): _UNREAD,
    ("AI SDK, openai-compatible", "anthropic", "reasoning_kept"): _UNSIGNED,
    ("AI SDK, anthropic", "gemini", "structured_output"): _OWN_TOOL,
    ("AI SDK, anthropic", "ollama", "structured_output"): _OWN_TOOL,
}
"""Why a feature is not to be had somewhere; `*` stands for any provider."""


def reason(cell: Cell) -> str | None:
    """Why a cell is not to be had, if it is known not to be."""
    client, _, feature = cell
    return EXPLAINED.get(cell) or EXPLAINED.get((client, "*", feature))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Tollway, Providers]]:
    """The server, with the four providers behind it; each is a virtual model by its name."""
    providers = Providers()
    try:
        with serving(folder, _configuration(providers)) as tollway:
            yield tollway, providers
    finally:
        providers.close()


def _configuration(providers: Providers) -> dict[str, Any]:
    adapters = {"openai": "openai_compatible"}
    capabilities = ["chat", "tools", "vision", "json_schema"]
    return {
        "discover": False,
        "providers": {
            name: {
                "adapter": adapters.get(name, name),
                "base_url": providers.base_url(name),
                "api_key": f"sk-{name}",
            }
            for name in MODELS
        },
        "targets": [
            {
                "target": f"{name}/{model}",
                "price": {"input": 1, "output": 2},
                "capabilities": capabilities,
                "context_length": 100_000,
                "max_output_tokens": 8000,
            }
            for name, model in MODELS.items()
        ],
        "models": {f"via-{name}": {"targets": [f"{name}/{MODELS[name]}"]} for name in MODELS},
    }


def ask(client: Client, url: str, key: str) -> dict[Cell, str | None]:
    """What became of each cell of one client: None, or what went wrong."""
    name, *arguments = client.program
    program = [sys.executable, "-m", f"tests.e2e.clients.{name}"]
    if client.is_node:
        program = ["node", str(NPM / name), *arguments]
    done = subprocess.run(
        [*program, url, key, ",".join(f"via-{name}" for name in MODELS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AI_SDK_LOG_WARNINGS": "false"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        (client.name, line["model"].removeprefix("via-"), line["feature"]): line["error"]
        for line in lines
    }


# --- the page -------------------------------------------------------------------------------------


def rows(client: Client) -> dict[str, str]:
    """The client's row in the table of each provider."""
    reasons = list(dict.fromkeys(EXPLAINED.values()))
    found = {}
    for provider in MODELS:
        known = [reason((client.name, provider, feature)) for feature in FEATURES]
        cells = ["yes" if why is None else f"[{reasons.index(why) + 1}]" for why in known]
        found[provider] = f"| {' | '.join((client.name, *cells))} |\n"
    return found


def tables() -> str:
    """The whole matrix, as the page has it."""
    made = [rows(client) for client in CLIENTS]
    titles = " | ".join(("client", *(feature.replace("_", " ") for feature in FEATURES)))
    rule = "| --- |" + " :---: |" * len(FEATURES)
    text = "".join(
        f"### Answered by {provider}\n\n| {titles} |\n{rule}\n"
        + "".join(row[provider] for row in made)
        + "\n"
        for provider in MODELS
    )
    reasons = dict.fromkeys(EXPLAINED.values())
    return text + "".join(f"{place}. {why}.\n" for place, why in enumerate(reasons, 1))


def unexpected(found: Mapping[Cell, str | None]) -> list[str]:
    """Cells that failed, and those of which it is explained why they do but did not."""
    failed = [f"{cell}: {error}" for cell, error in found.items() if error and not reason(cell)]
    stale = [f"{cell} works" for cell, error in found.items() if not error and reason(cell)]
    return failed + stale


def summary(failed: Mapping[str, Sequence[tuple[str, str]]]) -> list[str]:
    """A table of clients and features: `+`, or the providers that do not have it."""
    lines = [["client", *(feature.replace("_", " ") for feature in FEATURES)]]
    for client, cells in failed.items():
        lacking = [[name for name, found in cells if found == feature] for feature in FEATURES]
        lines.append([client, *map(_cell, lacking)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def _cell(lacking: Sequence[str]) -> str:
    if not lacking:
        return "+"
    return "none" if len(lacking) == len(MODELS) else f"not {', '.join(lacking)}"


def _main() -> int:
    if not has_npm_peers():
        print("Node.js or the npm packages are missing: `make .venv/.installed`")
        return 2
    wrong = []
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (tollway, _):
        key = tollway.admin("POST", "/keys", {"name": "matrix"})["key"]
        for client in CLIENTS:
            wrong += unexpected(ask(client, tollway.url, key))
    print(*wrong, sep="\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + tables() + "\n" + END + rest.partition(END)[2])
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(_main())
