"""The house rules, executed: layers, lint, types, sizes of files, and documents that agree with the code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.recipe import load_presets
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PACKAGES = ("service", "export", "training", "benchmarks")
README = (ROOT / "README.md").read_text()


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).exists()]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]],
    ids=["ruff", "format", "mypy", "layers"],
)
def test_the_tools_find_nothing(command: list[str]) -> None:
    run = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_files_and_functions_stay_short() -> None:
    for file in [f for f in tracked() if f.parts[0] in PACKAGES and f.suffix in {".py", ".js", ".css", ".html"}]:
        text = (ROOT / file).read_text()
        assert text.count("\n") <= 300, file
        if file.suffix == ".py":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert node.end_lineno - node.lineno < 50, f"{file}:{node.name}"  # type: ignore[operator]


def test_readme_tree_equals_the_disk() -> None:
    block = re.search(r"## Tree\n+```\n(.*?)```", README, re.S)
    assert block, "README has no tree"
    shown: set[str] = set()
    stack: list[str] = []
    for line in block.group(1).splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        stack[depth:] = [name.rstrip("/")]
        shown.add("/".join(stack))
    folders = {str(Path(*f.parts[:1])) for f in tracked() if len(f.parts) > 1 and not f.parts[0].startswith(".")}
    top = {f.name for f in tracked() if len(f.parts) == 1 and not f.name.startswith(".")}
    modules = {str(f) for f in tracked() if f.parts[0] == "service" and f.suffix == ".py" and f.name != "__init__.py"}
    assert folders | top | modules <= shown | {"README.md"}, (folders | top | modules) - shown
    assert all((ROOT / path).exists() for path in shown), [p for p in shown if not (ROOT / p).exists()]


def test_readme_settings_table_equals_settings() -> None:
    rows = set(re.findall(r"^\| `(DARKROOM_\w+)` \|", README, re.M))
    assert rows == {f"DARKROOM_{name.upper()}" for name in Settings.model_fields}


def test_readme_presets_table_equals_presets() -> None:
    section = README.split("## Presets")[1].split("\n## ")[0]
    rows = set(re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.M))
    assert rows == set(load_presets())


def test_every_declared_extra_is_imported_where_it_is_claimed() -> None:
    homes = dict.fromkeys(("torch", "diffusers", "transformers", "onnx_ir", "onnxscript"), "export")
    homes |= dict.fromkeys(("modelopt", "tensorrt", "xformers"), "export")
    homes |= dict.fromkeys(("scipy", "tqdm", "matplotlib"), "training") | {"opentelemetry": "service"}
    for package, folder in homes.items():
        sources = "".join((ROOT / f).read_text() for f in tracked() if f.parts[0] == folder and f.suffix == ".py")
        assert re.search(rf"^\s*(import|from) {package}\b", sources, re.M), (package, folder)
