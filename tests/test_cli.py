"""The command line as its users run it: a process, from any directory."""

import io
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from service.__main__ import main
from service.images import recipe_of
from service.recipe import load_presets

SMALL = ["--engine", "gaussian", "--size", "64x64", "--steps", "3", "--seed", "7"]


DARKROOM = Path(sys.executable).parent / "darkroom"


def process(*arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([DARKROOM, *arguments], cwd=cwd, capture_output=True, timeout=60)


def darkroom(*arguments: str | Path) -> Result:
    """The same command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="darkroom")


def complaint(run: Result, code: int) -> str:
    """The one line that explains a failure."""
    assert (run.exit_code, run.stdout) == (code, ""), run
    assert isinstance(run.exception, SystemExit)  # nothing but click's own way out: no traceback
    line = run.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    return line


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_and_stdout_and_a_recipe_give_the_same_bytes(tmp_path: Path) -> None:
    to_file = process("generate", "a café 🚤", "-o", "picture.png", *SMALL, cwd=tmp_path)
    assert (to_file.returncode, to_file.stdout) == (0, b""), to_file.stderr
    data = (tmp_path / "picture.png").read_bytes()
    recipe = recipe_of(data)
    assert (recipe["prompt"], recipe["seed"], recipe["num_inference_steps"]) == ("a café 🚤", 7, 3)
    module = [sys.executable, "-m", "service", "generate", "a café 🚤", "-o", "-", *SMALL]
    to_stdout = subprocess.run(module, capture_output=True)
    assert to_stdout.stdout == data
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    for source in ("picture.png", "recipe.json"):
        again = darkroom("generate", "-o", "-", "--recipe", source, "--engine", "gaussian")
        assert again.stdout_bytes == data, again.stderr
    other = darkroom("generate", "-o", "-", "--recipe", "picture.png", "--steps", "4", *SMALL[:2])
    assert recipe_of(other.stdout_bytes) | {"num_inference_steps": 3, "sigmas": recipe["sigmas"]} == recipe


@pytest.mark.parametrize(("name", "kind"), [("x.webp", "WEBP"), ("x.JPG", "JPEG"), ("x.jpeg", "JPEG")])
def test_the_name_chooses_the_format(tmp_path: Path, name: str, kind: str) -> None:
    assert darkroom("generate", "x", "-o", tmp_path / name, *SMALL).exit_code == 0
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (kind, (64, 64))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "x"], "--output"),
        (["generate", "x", "-o", "x.gif"], "must end in one of"),
        (["generate", "x", "-o", "no/folder/x.png"], "no folder"),
        (["generate", "-o", "x.png", "--engine", "gaussian"], "prompt"),
        (["generate", "x", "-o", "x.png", *SMALL, "--size", "63x64"], "63x64"),
        (["generate", "x", "-o", "x.png", *SMALL, "--steps", "0"], "num_inference_steps"),
        (["generate", "x", "-o", "x.png", *SMALL, "--steps", "nan"], "integer"),
        (["generate", "x", "-o", "x.png", *SMALL, "--seed", "-1"], "seed"),
        (["generate", "x", "-o", "x.png", *SMALL, "--preset", "nope"], "balanced"),
        (["generate", "x", "-o", "x.png", *SMALL, "--model", "nope"], "gaussian"),
        (["generate", "x", "-o", "x.png", *SMALL, "--guidance-scale", "inf"], "guidance_scale"),
        (["generate", "x" * 2000, "-o", "x.png", *SMALL], "tokens"),
        (["generate", "x", "-o", "x.png", "--recipe", "nope.json"], "nope.json"),
        (["generate", "x", "-o", "x.png", "--recipe", "bad.json", *SMALL], "JSON"),
        (["generate", "x", "-o", "x.png", "--recipe", "bad.png", *SMALL], "recipe"),
        (["explain", "--engine", "gaussian", "--sampler", "nope"], "euler"),
        (["explain", "-o", "x.png", *SMALL], "--output"),
        (["explain", "-o", "x.svg", "--json", *SMALL], "--output"),
        (["explain", "-o", "no/folder/x.svg", *SMALL], "no folder"),
        (["explain", *SMALL, "--negative-prompt", "fog", "--guidance-scale", "1"], "negative_prompt"),
        (["models", "--engine", "nope"], "embedded"),
        (["serve", "--port", "70000"], "65535"),
        (["nope"], "nope"),
    ],
)
def test_input_that_cannot_be_honoured_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "bad.json").write_text('{"prompt"')
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    assert words in complaint(darkroom(*arguments), 2)
    assert not (tmp_path / "x.png").exists()


def test_a_setting_that_cannot_be_honoured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_MAX_STEPS", "0")
    assert "DARKROOM_MAX_STEPS" in complaint(darkroom("models"), 2)


def test_a_port_in_use_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = complaint(darkroom("serve", "--engine", "gaussian", "--port", port), 1)
    assert f"cannot listen on 127.0.0.1:{port}" in line


def test_tables_and_json_say_the_same() -> None:
    listed = json.loads(darkroom("presets", "--json").stdout)
    assert [preset["name"] for preset in listed] == list(load_presets())
    assert [line.split()[0] for line in darkroom("presets").stdout.splitlines()[1:]] == list(load_presets())
    (model,) = json.loads(darkroom("models", "--json", "--engine", "gaussian").stdout)
    assert model["digest"] in darkroom("models", "--engine", "gaussian").stdout
    explained = json.loads(darkroom("explain", "--json", *SMALL).stdout)
    assert [call["nfe"] for call in explained["steps"]] == [1, 2, 3]
    fields, table = darkroom("explain", *SMALL).stdout.split("\n\n")
    assert len(table.splitlines()) == 4
    assert [line.split()[0] for line in fields.splitlines()] == [n for n in explained["recipe"] if n != "sigmas"]


def test_explain_draws_what_it_lists(tmp_path: Path) -> None:
    assert darkroom("explain", "x", "-o", "steps.svg", *SMALL).exit_code == 0
    drawn = ET.fromstring((tmp_path / "steps.svg").read_text("utf-8"))
    listed = json.loads(darkroom("explain", "x", "--json", *SMALL).stdout)
    assert json.loads(drawn.findtext("{*}metadata") or "") == listed["recipe"]
    assert len(drawn.findall("{*}circle")) == len(listed["steps"])
    assert darkroom("explain", "x", "-o", "-", *SMALL).stdout == (tmp_path / "steps.svg").read_text("utf-8")


def test_ctrl_c_is_exit_code_130_without_a_file(tmp_path: Path) -> None:
    command = [DARKROOM, "generate", "x", "-o", "x.png", "--engine", "gaussian"]
    slow = ["--size", "512x512", "--steps", "200", "--sampler", "heun"]
    with subprocess.Popen([*command, *slow], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert process.stderr.read(1) == b"d"  # the progress bar's label: the work has begun
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(20) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    line = f"{DARKROOM} generate x -o - {' '.join(SMALL)} | head -c 4"
    run = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True)
    assert run.stdout == b"\x89PNG"
    assert b"Traceback" not in run.stderr


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    code = "import sys, service.__main__; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.split(".")[0] for name in run.stdout.split()}
    assert "click" in imported
    assert not {"numpy", "fastapi", "pydantic", "PIL", "openvino", "uvicorn"} & imported
    for arguments in (["-h"], ["generate", "--help"], ["serve", "--help"], ["--version"]):
        assert "darkroom" in darkroom(*arguments).stdout.lower()


def test_stdout_is_the_picture_and_stderr_the_rest() -> None:
    run = darkroom("generate", "x", "-o", "-", *SMALL)
    with Image.open(io.BytesIO(run.stdout_bytes)) as image:
        image.load()
    assert "seed 7" in run.stderr
