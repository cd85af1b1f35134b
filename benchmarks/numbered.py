"""A `router.yaml` with as many targets as one likes, of one provider, at a price each."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import yaml

from benchmarks.workloads import PROVIDER_KEY


def write_numbered(
    file: Path,
    upstream_port: int,
    *,
    model: str,
    routed: int,
    others: int = 0,
    policy: str = "cheapest",
    capabilities: Collection[str] = ("chat",),
) -> None:
    """Everything is on: see `benchmarks.subjects`. `others` are targets beside the route.

    The upstream answers each of them as `model`: by what stands before the colon.
    """
    names = [f"near/{model}:{number}" for number in range(routed + others)]
    config = {
        "server": {"access_log": False, "open_metrics": True},
        "providers": {
            "near": {
                "adapter": "openai",
                "base_url": f"http://127.0.0.1:{upstream_port}/v1",
                "api_key": PROVIDER_KEY,
            }
        },
        "targets": [
            {
                "target": name,
                "price": {"input": 0.15 + number / 1_000, "output": 0.6 + number / 250},
                "context_length": 128_000,
                "max_output_tokens": 4_096,
                "capabilities": [*capabilities],
            }
            for number, name in enumerate(names)
        ],
        "models": {model: {"policy": policy, "targets": names[:routed]}},
        "budgets": [{"scope": "global", "window": "month", "limit_usd": 1_000_000}],
    }
    file.write_text(yaml.safe_dump(config, sort_keys=False))
