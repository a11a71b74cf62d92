"""Arithmetic of the growth benchmark; no job runs."""

from growth import ratios


def run(steady, driver, replica):
    speeds = {"steady_rows_per_second": steady, "steady_tokens_per_second": steady and 10 * steady}
    return {**speeds, "driver_peak_rss_mb": driver, "replica_peak_rss_mb": replica}


def test_ratios_are_the_last_run_over_the_first():
    assert ratios(run(200, 300, 500), run(190, 330, 500)) == {
        "steady_ratio": 0.95,
        "steady_tokens_ratio": 0.95,
        "driver_ratio": 1.1,
        "replica_ratio": 1.0,
    }


def test_a_table_without_a_steady_state_has_no_ratio():
    assert ratios(run(None, 300, 500), run(190, 330, 500))["steady_ratio"] is None
