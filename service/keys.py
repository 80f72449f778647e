"""Who may ask: API keys, kept as hashes in a file, each with a name, presets and a budget of engine seconds."""

import hmac
import json
import re
import secrets
import threading
import tomllib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from time import monotonic

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import Forbidden, InvalidRequest, Overloaded, Unauthorized

PREFIX = "dk-"
NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


class Budget:
    """A bucket of engine seconds that refills evenly; a minute's worth fits in."""

    def __init__(self, per_minute: float) -> None:
        self._rate, self._capacity = per_minute / 60, per_minute
        self._level, self._seen = per_minute, monotonic()
        self._lock = threading.Lock()

    def spend(self, seconds: float) -> None:
        """Take so much, or Overloaded with the time until it is there. What exceeds a full bucket takes all of it."""
        with self._lock:
            now = monotonic()
            self._level = min(self._capacity, self._level + (now - self._seen) * self._rate)
            self._seen = now
            missing = min(seconds, self._capacity) - self._level
            if missing > 0:
                wait = missing / self._rate
                raise Overloaded(f"this key's budget is spent; try again in {wait:.0f} s", retry_after=max(1.0, wait))
            self._level -= min(seconds, self._capacity)


class Key(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    presets: tuple[str, ...] | None = None  # all
    seconds_per_minute: float | None = Field(None, gt=0, allow_inf_nan=False)  # no limit

    def allows(self, preset: str) -> bool:
        """Whether this key may use the preset."""
        return self.presets is None or preset in self.presets

    def check(self, preset: str) -> None:
        """Raise Forbidden unless this key may use the preset."""
        if self.presets is not None and not self.allows(preset):
            allowed = ", ".join(self.presets)
            raise Forbidden(f"the key {self.name} may use these presets: {allowed}", field="preset")


class Keys:
    """The keys of a file; without a file everyone may ask."""

    def __init__(self, file: Path | None = None) -> None:
        self._keys = _read(file) if file else None
        limited = [(key.name, key.seconds_per_minute) for key in self._keys or () if key.seconds_per_minute]
        self.budgets = {name: Budget(seconds) for name, seconds in limited}

    @property
    def required(self) -> bool:
        """Whether there is a file of keys."""
        return self._keys is not None

    def of(self, authorization: str) -> Key | None:
        """The key of an Authorization header; None where keys are not asked for. Every entry is compared."""
        if self._keys is None:
            return None
        scheme, _, secret = authorization.partition(" ")
        given = sha256(secret.strip().encode()).hexdigest()
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, given)]
        if scheme.lower() != "bearer" or not matches:
            raise Unauthorized("an API key is needed: Authorization: Bearer ...")
        return matches[0]


def new(name: str, presets: Sequence[str], seconds_per_minute: float | None) -> tuple[str, str]:
    """A fresh secret, and its entry for the file."""
    if not re.fullmatch(NAME, name):
        raise InvalidRequest(
            "a name is up to 63 of a-z, 0-9, - and _, and begins with one of the first two", field="name"
        )
    secret = PREFIX + secrets.token_urlsafe(32)
    lines = ["[[key]]", f'name = "{name}"', f'sha256 = "{sha256(secret.encode()).hexdigest()}"']
    if presets:
        lines.append(f"presets = {json.dumps(list(presets))}")
    if seconds_per_minute is not None:
        lines.append(f"seconds_per_minute = {seconds_per_minute}")
    return secret, "\n".join(lines) + "\n"


def _read(file: Path) -> list[Key]:
    try:
        entries = tomllib.loads(file.read_text())
        keys = [Key.model_validate(entry) for entry in entries.pop("key", [])]
    except (OSError, ValueError, TypeError) as error:  # pydantic's and tomllib's are ValueErrors
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            error = ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        raise InvalidRequest(f"DARKROOM_KEYS_FILE {file}: {error}", field="keys_file") from error
    if entries:
        raise InvalidRequest(f"DARKROOM_KEYS_FILE {file}: unknown {', '.join(entries)}", field="keys_file")
    if len({key.name for key in keys}) < len(keys) or len({key.sha256 for key in keys}) < len(keys):
        raise InvalidRequest(f"DARKROOM_KEYS_FILE {file}: two entries of one name or key", field="keys_file")
    return keys
