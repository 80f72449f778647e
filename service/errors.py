"""Everything that can go wrong on purpose, as one tree.

DarkroomError
|-- InvalidRequest        400  the caller's input; names the field
|   |-- UnknownModel      404  a model or preset that does not exist
|   |-- NotFound          404  a job or picture that does not exist
|   `-- Conflict          409  what is asked for contradicts what was accepted before
|-- Unauthorized          401  no API key, or one that is not known
|-- Forbidden             403  the key may not do this
|-- Overloaded            429  admission refused; carries retry_after seconds
|-- Unavailable           503  draining, not ready, or the engine is away
|-- DeadlineExceeded      504  the request's own deadline passed
|-- Cancelled             499  the client left or asked to stop
`-- EngineFailure         500  a network call failed for a reason that is not the caller's

The message of every error here may be shown to the caller; nothing else may.
"""


class DarkroomError(Exception):
    """Base of all expected errors: an HTTP status, a stable code, a sentence for the caller."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after


class InvalidRequest(DarkroomError):
    """The caller's input cannot be honoured; ``field`` names what to change."""

    status = 400
    code = "invalid_value"


class UnknownModel(InvalidRequest):
    """The named thing does not exist here."""

    status = 404
    code = "model_not_found"


class NotFound(InvalidRequest):
    """The named thing does not exist here, or not for this caller."""

    status = 404
    code = "not_found"


class Conflict(InvalidRequest):
    """What is asked for contradicts what was accepted before."""

    status = 409
    code = "conflict"


class Unauthorized(DarkroomError):
    """No API key, or one that is not known."""

    status = 401
    code = "invalid_api_key"


class Forbidden(DarkroomError):
    """The API key may not do this."""

    status = 403
    code = "permission_denied"


class Overloaded(DarkroomError):
    """More work than fits; come back after ``retry_after`` seconds."""

    status = 429
    code = "rate_limit_exceeded"


class Unavailable(DarkroomError):
    """Not ready, draining, or the engine is away."""

    status = 503
    code = "unavailable"


class DeadlineExceeded(DarkroomError):
    """The deadline of the request passed."""

    status = 504
    code = "deadline_exceeded"


class Cancelled(DarkroomError):
    """The client left or asked to stop."""

    status = 499
    code = "cancelled"


class EngineFailure(DarkroomError):
    """A network call failed."""

    code = "engine_failure"
