"""Content negotiation of pictures, RFC 9110 section 12.5.1: the Accept header against JSON and file formats."""

from service.api.errors import NotAcceptable

JSON = "application/json"
SVG = "image/svg+xml"
EVENTS = "text/event-stream"
OFFERS = (JSON, "image/png", "image/webp", "image/jpeg")  # in the order that decides ties


def best(accept: str, offers: tuple[str, ...] = OFFERS) -> str:
    """The offer that the header likes most; no header takes anything."""
    ranges = [_range(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    quality = {offer: _quality(offer, ranges) for offer in offers}
    favourite = max(offers, key=quality.__getitem__)
    if quality[favourite] <= 0:
        raise NotAcceptable(f"Accept allows none of {', '.join(offers)}")
    return favourite


def of_pictures(accept: str, *, stream: bool) -> str:
    """What a request for pictures gets. A stream suits who takes events or JSON: OpenAI's client asks for JSON."""
    if stream:
        best(accept, (EVENTS, JSON))
        return EVENTS
    return best(accept)


def _range(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip() for piece in part.lower().split(";"))
    quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        return media, min(max(float(quality), 0.0), 1.0)
    except ValueError:
        return media, 0.0


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The most specific range that covers the offer decides."""
    for pattern in (offer, f"{offer.split('/')[0]}/*", "*/*"):
        found = [quality for media, quality in ranges if media == pattern]
        if found:
            return max(found)
    return 0.0
