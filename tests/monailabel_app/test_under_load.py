"""What a server stands, measured as `benchmarks/bench_server.py` does, with fewer saves and a smaller cohort."""

import importlib.util
from pathlib import Path

import pytest

from tests.load import shared

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_server.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_server", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def conf(untrained):
    return {"checkpoint": str(untrained), "replay": "none"}


def test_a_kill_in_the_middle_of_saves_loses_nothing_that_was_acknowledged(bench, tmp_path, conf):
    found = bench.kill_rounds(tmp_path / "studies", rounds=1, clients=8, saves=80, conf=conf)
    assert found["acknowledged"] >= 20
    assert found["lost"] == found["numbers_given_twice"] == found["damaged"] == 0
    assert found["left_over"] == []


def test_what_is_known_of_a_cohort_costs_no_look_at_the_disk(bench, tmp_path, conf):
    found = bench.scale(tmp_path / "studies", patients=50, versions=2, conf=conf)
    assert found["cts"] == 200
    assert found["look_again_s"] < shared(0.5)
