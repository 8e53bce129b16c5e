"""The simulation of how work is spread over a cluster."""

from __future__ import annotations

import cluster_speed
import pytest
from cluster_speed import SimulatedOrder, lower_bound, simulated


@pytest.mark.parametrize("make", [cluster_speed.one_environment, cluster_speed.many_environments])
def test_ten_thousand_cases_end_within_15_percent_of_the_lower_bound(make):
    orders = make(cluster_speed.recorded_seconds())
    assert sum(len(group) for order in orders for group in order.groups) == 9984
    assert 1 <= simulated(orders) / lower_bound(orders) <= 1.15


def test_it_would_be_worse_if_all_nodes_went_from_environment_to_environment(monkeypatch):
    orders = cluster_speed.many_environments(cluster_speed.recorded_seconds())
    monkeypatch.setattr(cluster_speed, "MOST_AT_ONCE", 1)
    assert simulated(orders) / lower_bound(orders) > 1.15


def test_a_small_schedule_is_the_one_worked_out_by_hand():
    # Node 0 takes 3 and 1 of x, node 1 takes 2 of y, and then 1 of x after a start.
    orders = [SimulatedOrder("x", [[3.0], [1.0], [1.0]]), SimulatedOrder("y", [[2.0]])]
    assert simulated(orders, nodes=2, start_seconds=0.5) == 4.5
    assert lower_bound(orders, nodes=2) == 3.5


def test_the_command_prints_both_ratios(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cluster_speed.py"])
    with pytest.raises(SystemExit) as stopped:
        cluster_speed.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.count("of the lower bound (promised: 1.15)") == 2
