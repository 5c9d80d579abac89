"""What goes into an error's headers."""

import pytest

from gateway.errors import EngineUnavailable, InvalidRequest, Overloaded, render


@pytest.mark.parametrize(("seconds", "whole", "most"), [(None, "1", 1500), (7.5, "8", 11_250), (50, "50", 60_000)])
def test_those_who_are_refused_together_do_not_come_back_together(seconds: float | None, whole: str, most: int) -> None:
    """The milliseconds, which OpenAI's clients go by, are spread; none is too soon, none over a minute."""
    told = [render(Overloaded("full", retry_after=seconds))[1] for _ in range(50)]
    waits = {int(headers["retry-after-ms"]) for headers in told}

    assert {headers["retry-after"] for headers in told} == {whole}
    assert min(waits) >= (seconds or 1) * 1000
    assert max(waits) <= most
    assert len(waits) > 5


def test_what_does_not_heal_by_itself_is_not_to_be_tried_again() -> None:
    """And what does is."""
    assert render(InvalidRequest("no"))[1]["x-should-retry"] == "false"
    assert "x-should-retry" not in render(EngineUnavailable("soon"))[1]
