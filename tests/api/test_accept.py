"""RFC 9110, section 12.5.1."""

import pytest

from service.api.accept import best
from service.api.errors import NotAcceptable


@pytest.mark.parametrize(
    ("header", "offer"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/webp, image/png;q=0.5", "image/webp"),
        ("image/png;q=0.5, image/webp;q=0.9, */*;q=0.1", "image/webp"),
        ("image/*", "image/png"),
        ("image/*, image/png;q=0", "image/webp"),
        ("image/avif,image/webp,*/*;q=0.8", "image/webp"),
        ("text/html, */*;q=0.1", "application/json"),
        ("image/jpeg;q=0.8;level=1, application/json;q=0.2", "image/jpeg"),
        ("application/json;q=0, */*", "image/png"),
    ],
)
def test_the_best_offer_wins(header: str, offer: str) -> None:
    assert best(header) == offer


@pytest.mark.parametrize(
    "header", ["text/html", "image/gif", "image/png;q=0", "image/png;q=high", "png", ";", "*/*;q=0"]
)
def test_nothing_acceptable(header: str) -> None:
    with pytest.raises(NotAcceptable):
        best(header)
