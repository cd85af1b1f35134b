"""What came of a replay as JSON has it, and as a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from proxy.pricing import format_usd
from proxy.replay import Change, Report, Side

_MOST_ON_PAGE = 200
_BAR_PX = 360
_ROW_PX = 40

_STYLE = """
:root { color-scheme: light dark; --then: #8a94a6; --now: #2f6fde; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884;
  vertical-align: top; overflow-wrap: break-word }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
svg text { font: 13px system-ui, sans-serif; fill: currentColor }
.then { fill: var(--then) } .now { fill: var(--now) }
small { opacity: .75 }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What was replayed."""

    policy: str
    """The configuration that it was put to."""
    since: str
    until: str
    figures: str


def as_json(report: Report, about: About) -> dict[str, Any]:
    """Amounts are in USD, latencies in milliseconds to the first token."""
    return {
        "policy": about.policy,
        "since": about.since,
        "until": about.until,
        "figures": about.figures,
        "requests": report.asked,
        "compared": report.compared,
        "changed": report.changed,
        "same_decisions": report.same_decisions,
        "left_out": dict(sorted(report.left_out.items())),
        "then": _side(report.then),
        "now": _side(report.now),
        "changes": [
            {
                "request_id": change.request_id,
                "model": change.model,
                "task": change.task,
                "then": change.then,
                "now": change.now,
                "cost_then_usd": change.cost_then / 1e9,
                "cost_now_usd": None if change.cost_now is None else change.cost_now / 1e9,
                "reason": change.reason,
            }
            for change in report.changes
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "cost_usd": side.total_nanousd / 1e9,
        "quality": side.mean_quality,
        "latency_ms": side.mean_latency_ms,
        "targets": {
            name: {"requests": count, "cost_usd": side.cost_nanousd[name] / 1e9}
            for name, count in side.requests.most_common()
        },
    }


def targets_of(report: Report) -> list[str]:
    """Every target that had requests then or would have now, those with most first."""
    both = report.then.requests + report.now.requests
    return [name for name, _ in both.most_common()]


def summary(report: Report) -> list[tuple[str, str, str]]:
    """What is compared in all: its name, then, now."""
    then, now = report.then, report.now
    saved = then.total_nanousd - now.total_nanousd
    part = f" ({-saved / then.total_nanousd:+.1%})" if then.total_nanousd else ""
    return [
        ("cost", format_usd(then.total_nanousd), format_usd(now.total_nanousd) + part),
        ("expected quality", _number(then.mean_quality, ".3f"), _number(now.mean_quality, ".3f")),
        (
            "expected ms to the first token",
            _number(then.mean_latency_ms, ",.0f"),
            _number(now.mean_latency_ms, ",.0f"),
        ),
    ]


def share(part: int, whole: int) -> str:
    """A part as a percentage."""
    return f"{part / whole:.1%}" if whole else "-"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


# --- the page ----------------------------------------------------------------------------------


def page(report: Report, about: About) -> str:
    """The report as HTML: no script, no image, nothing from elsewhere. All text is escaped."""
    left_out = ", ".join(f"{count:,} {why}" for why, count in report.left_out.most_common())
    listed = report.changes[:_MOST_ON_PAGE]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Replay under {escape(about.policy)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>Replay under {escape(about.policy)}</h1>
<p>{escape(about.since)} to {escape(about.until)} (UTC), {about.figures} figures.
{report.asked:,} requests, of which {report.compared:,} can be compared;
{report.changed:,} would go elsewhere. {f"Left out: {escape(left_out)}." if left_out else ""}</p>
{_table(("", "then", "now"), summary(report), numbers={1, 2})}
<h2>Share of requests</h2>
{_chart(report)}
<h2>Targets</h2>
{_table(("target", "requests", "now", "cost", "now"), _targets(report), numbers={1, 2, 3, 4})}
<h2>Decisions that change</h2>
<p><small>{len(listed):,} of {report.changed:,}</small></p>
{
        _table(
            ("request", "model", "task", "then", "now", "cost", "now", "why now"),
            map(_cells, listed),
            numbers={5, 6},
        )
    }
</body></html>
"""


def _targets(report: Report) -> Iterable[tuple[str, ...]]:
    then, now = report.then, report.now
    for name in targets_of(report):
        yield (
            name,
            f"{then.requests[name]:,}",
            f"{now.requests[name]:,}",
            format_usd(then.cost_nanousd[name]),
            format_usd(now.cost_nanousd[name]),
        )


def _cells(change: Change) -> tuple[str, ...]:
    return (
        change.request_id,
        change.model,
        change.task,
        change.then or "refused",
        change.now,
        format_usd(change.cost_then),
        "-" if change.cost_now is None else format_usd(change.cost_now),
        change.reason,
    )


def _table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Container[int]
) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        made = (
            f'<{tag} class="number">{escape(cell)}</{tag}>'
            if place in numbers
            else f"<{tag}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table>{line(headers, 'th')}{body}</table>"


def _chart(report: Report) -> str:
    """Two bars a target: then above, now below."""
    names = targets_of(report)
    most = max((*report.then.requests.values(), *report.now.requests.values()), default=1)
    bars = []
    for row, name in enumerate(names):
        top = row * _ROW_PX
        bars.append(f'<text x="0" y="{top + 20}">{escape(_cut(name))}</text>')
        for side, kind, offset in ((report.then, "then", 4), (report.now, "now", 18)):
            count = side.requests[name]
            width = round(_BAR_PX * count / most, 1)
            bars.append(
                f'<rect class="{kind}" x="260" y="{top + offset}" width="{width}" height="12"/>'
                f'<text x="{266 + width}" y="{top + offset + 10}">'
                f"{share(count, report.compared)}</text>"
            )
    height = max(1, len(names)) * _ROW_PX
    return (
        f'<svg viewBox="0 0 700 {height}" width="700" height="{height}" role="img" '
        f'aria-label="Share of requests by target, then and now">{"".join(bars)}</svg>'
        '<p><svg width="12" height="12"><rect class="then" width="12" height="12"/></svg> then '
        '<svg width="12" height="12"><rect class="now" width="12" height="12"/></svg> now</p>'
    )


def _cut(name: str) -> str:
    return name if len(name) <= 36 else f"{name[:35]}…"
