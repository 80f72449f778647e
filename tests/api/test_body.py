"""One meaning per JSON text: what is taken equals json.loads, what is ambiguous or broken is refused by name."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api.body import parse
from service.errors import InvalidRequest

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**28), 10**28)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(text, value, max_size=4))
def test_what_json_says_is_what_is_read(document: dict[str, object]) -> None:
    assert parse(json.dumps(document).encode()) == document
    assert parse(json.dumps(document, ensure_ascii=False).encode()) == document


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        (b"", None, "not JSON"),
        (b'{"prompt": "x"', None, "line 1 column"),
        (b"[1]", None, "must be a JSON object"),
        (b'"x"', None, "must be a JSON object"),
        (b'{"seed": 1, "seed": 2}', "seed", "given twice"),
        (b'{"a": {"eta": 1, "eta": 1}}', "eta", "given twice"),
        (b'{"seed": NaN}', "seed", "finite"),
        (b'{"sigmas": [1, [-Infinity]]}', "sigmas", "finite"),
        (b'{"seed": 1e999}', "seed", "finite"),
        (b'{"seed": 1' + b"0" * 5000 + b"}", "seed", "finite"),
        (b'{"prompt": "\xff"}', None, "not UTF-8"),
        (b"\xff\xfe{\0}\0", None, "not UTF-8"),
        (b'{"prompt": "a\\u0000b"}', "prompt", "NUL"),
        (b'{"prompt": "\\ud83d"}', "prompt", "surrogate"),
        (b'{"tags": ["a\\u0000b"]}', "tags", "NUL"),
        (b'{"a":' * 100_000, None, "nested too deeply"),
        (b"[" * 100_000, None, "nested too deeply"),
        (b'{"prompt": "x"} {"prompt": "y"}', None, "Extra data"),
        (b"{'prompt': 'x'}", None, "not JSON"),
        (b'{"' + b"k" * 500 + b'": 1, "' + b"k" * 500 + b'": 1}', "k" * 100, "given twice"),
    ],
)
def test_refusals(data: bytes, field: str | None, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(data)
    assert refused.value.field == field
    assert words in refused.value.message
    assert len(refused.value.message) < 300
