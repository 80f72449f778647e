"""API keys: hashes in a file, budgets that refill."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from service import keys
from service.__main__ import main
from service.errors import Forbidden, InvalidRequest, Overloaded, Unauthorized
from service.keys import Budget, Keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_new_key_opens_and_its_file_does_not_hold_it(file: Path) -> None:
    (studio, one), (guest, two) = keys.new("studio", [], None), keys.new("guest", ["fast", "ays"], 30.0)
    file.write_text(one + two)
    assert studio not in file.read_text()
    known = Keys(file)
    assert known.of(f"Bearer {studio}").name == "studio"  # type: ignore[union-attr]
    key = known.of(f"bearer  {guest} ")
    assert key is not None
    assert (key.presets, key.seconds_per_minute) == (("fast", "ays"), 30.0)
    assert set(known.budgets) == {"guest"}
    key.check("fast")
    with pytest.raises(Forbidden) as refused:
        key.check("quality")
    assert refused.value.field == "preset"


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", "Basic {secret}", "{secret}", "Bearer {secret}x", "Bearer é"]
)
def test_anything_else_does_not_open(file: Path, header: str) -> None:
    secret, entry = keys.new("studio", [], None)
    file.write_text(entry)
    with pytest.raises(Unauthorized):
        Keys(file).of(header.format(secret=secret))


def test_without_a_file_everyone_may_ask_and_an_empty_one_lets_nobody_in(file: Path) -> None:
    assert Keys().of("") is None
    assert not Keys().required
    file.write_text("")
    with pytest.raises(Unauthorized):
        Keys(file).of("Bearer x")


ENTRY = f'[[key]]\nname = "a"\nsha256 = "{"1" * 64}"\n'


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[[key]]", "name"),
        (ENTRY.replace('"a"', '"A b"'), "name"),
        (ENTRY.replace("11", ""), "sha256"),
        (ENTRY + 'secret = "x"', "secret"),
        (ENTRY + "seconds_per_minute = 0", "seconds_per_minute"),
        (2 * ENTRY, "two entries"),
        (ENTRY.replace("key", "keys"), "unknown keys"),
        ("key = 3", "int"),
        ("[[key", "document"),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong(file: Path, content: str, named: str) -> None:
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=named):
        Keys(file)
    with pytest.raises(InvalidRequest, match="No such file"):
        Keys(file.with_name("none"))


def test_a_budget_refills_evenly_and_says_when(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("service.keys.monotonic", lambda: now)
    budget = Budget(60.0)  # one second a second
    budget.spend(50)
    with pytest.raises(Overloaded) as refused:
        budget.spend(30)
    assert refused.value.retry_after == 20
    now += 20
    budget.spend(30)
    now += 1000
    budget.spend(500)  # more than fits: all of it
    with pytest.raises(Overloaded) as refused:
        budget.spend(500)
    assert refused.value.retry_after == 60


def test_names_and_presets_come_back_from_toml() -> None:
    _, entry = keys.new("a-b_1", ["it's"], 1.5)
    (read,) = tomllib.loads(entry)["key"]
    assert (read["name"], read["presets"], read["seconds_per_minute"]) == ("a-b_1", ["it's"], 1.5)


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a" * 64, 'a"\nb = 1'])
def test_a_name_is_a_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        keys.new(name, [], None)
    assert refused.value.field == "name"


def test_the_command_writes_an_entry_and_shows_the_key_once(file: Path) -> None:
    run = CliRunner().invoke(main, ["key", "studio", "--allow", "fast", "--seconds-per-minute", "30"])
    assert run.exit_code == 0
    file.write_text(run.stdout)
    name, secret = run.stderr.strip().split(": ")
    key = Keys(file).of(f"Bearer {secret}")
    assert key is not None
    assert (name, key.name, key.presets, key.seconds_per_minute) == ("studio", "studio", ("fast",), 30.0)
    assert CliRunner().invoke(main, ["key", "no name"]).exit_code == 2
