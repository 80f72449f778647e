"""The soak, in small: hundreds of mixed requests over two restarts lose nothing, and no picture differs by a byte."""

from benchmarks.soak.__main__ import on_gaussian

LEFT = {"descriptors": 4, "threads": 8, "regions of shared memory": 0}  # a leak would be of one for each request


def test_mixed_requests_and_restarts_lose_nothing() -> None:
    report = on_gaussian(requests=250, restarts=2)
    assert report.clean, "\n".join(report.lines())
    assert (report.restarts, report.done.total()) == (2, 250)
    assert report.done.keys() >= {"picture", "file", "stream", "hang_up", "cancel", "job", "deleted_job", "bad_input"}
    assert report.pictures > report.jobs > 5
    assert {name: grown for name, grown in report.grown.items() if grown > LEFT[name]} == {}
