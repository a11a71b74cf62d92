"""Arithmetic of the forecast benchmark; no job runs."""

from forecasts import held_against, jobs, summed_up, table

UNKNOWN = {"low_seconds": None, "seconds": None, "high_seconds": None}


def told(low, likely, high):
    return {"low_seconds": low, "seconds": likely, "high_seconds": high}


def test_an_error_is_the_excess_over_what_it_took_and_a_range_holds_it_or_not():
    short = held_against(told(20, 22, 26), 25.0)
    assert (short["error_percent"], short["held"]) == (-12.0, True)
    assert held_against(told(20, 22, 26), 40.0)["held"] is False


def test_what_was_unknown_is_no_error_and_no_range():
    one = held_against(UNKNOWN, 25.0)
    assert (one["error_percent"], one["held"]) == (None, None)


def test_medians_are_of_errors_without_signs_and_ranges_that_held_are_counted():
    times = {"first": held_against(UNKNOWN, 9.0), "plan": held_against(told(9, 10, 11), 10.0)}
    found = [
        {"job": str(at), **times, "second": held_against(told(8, took, 12), 10.0)} for at, took in ((1, 9), (2, 13))
    ]
    result = summed_up(found)
    assert result["median_error_percent"] == {"first": None, "second": 20.0, "plan": 0.0}
    assert result["held"] == {"first": 0, "second": 2, "plan": 2}
    assert "unknown, 9 s" in table(result)
    assert "2 of 2 held" in table(result)


def test_there_are_four_jobs_of_a_model_two_variants_and_two_sizes(tmp_path):
    each = list(jobs(tmp_path, ["texts"], 0.2))
    assert sorted({job.variant for job in each}) == ["ctranslate2-int8", "onnx-fp32"]
    assert sorted({job.rows for job in each}) == [80, 320]
    assert len({job.written("first") for job in each} | {job.written("second") for job in each}) == 8
