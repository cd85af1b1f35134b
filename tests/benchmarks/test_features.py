"""Each feature that is measured is one that can be turned on, and is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.features import FEATURES, Feature, configured, features
from benchmarks.generator import generator
from benchmarks.measure import Bench
from benchmarks.subjects import upstream, write_config
from proxy import config_file

_NO_CHANGE = "nothing: the same once more"


def _config(folder: Path, feature: Feature) -> config_file.Config:
    file = write_config(folder, 9, access_log=False)
    configured(file, feature)
    return config_file.load(file, {})


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_a_feature_is_a_configuration_of_its_own(tmp_path: Path, feature: Feature) -> None:
    without = _config(tmp_path, Feature(name="without"))
    with_it = _config(tmp_path, feature)
    assert (with_it == without) == (not feature.config)
    is_else = feature.asks or feature.key or feature.name == _NO_CHANGE
    assert feature.config or is_else, "it changes nothing"


def test_what_a_feature_costs_is_measured_beside_the_same_server_without_it(
    tmp_path: Path,
) -> None:
    chosen = [feature for feature in FEATURES if feature.name in (_NO_CHANGE, "`hedge`")]
    with upstream() as provider, generator() as load:
        bench = Bench(
            generator=load,
            effort=measure.QUICK,
            folder=tmp_path,
            upstream_port=provider.port,
            progress=lambda _: None,
        )
        nothing, hedge = (row.as_json() for row in features(bench, quick=True, chosen=chosen))
    assert abs(nothing["more_steps"]) < nothing["off_steps"] / 50
    assert hedge["off_steps"] == nothing["off_steps"] > 1_000
    assert hedge["more_steps"] > nothing["more_steps"]
    assert nothing["off_us"] > 0
    assert nothing["on_us"] > 0
