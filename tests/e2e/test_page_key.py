"""The page of a service that asks for an API key: it asks once, and keeps the key for the tab."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from service import keys
from service.app import create_app
from service.engines.gaussian import GaussianEngine
from service.settings import Settings
from tests.e2e.browser import Visit, serving

pytestmark = pytest.mark.browser


def test_the_page_asks_for_the_key_and_asks_again_for_a_better_one(browser: Browser, tmp_path: Path):
    secret, entry = keys.new("studio", [], None)
    file = tmp_path / "keys.toml"
    file.write_text(entry)
    answers, asked = ["wrong", f" {secret} "], []
    with serving(
        create_app(Settings(engine="gaussian", keys_file=file, cache_dir=tmp_path), GaussianEngine())
    ) as address:
        context = browser.new_context(reduced_motion="reduce")
        one = Visit(context.new_page(), address)
        one.page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept(answers[len(asked) - 1])))
        one.open()
        one.generate("mountains at dawn")
        one.page.reload()
        one.page.wait_for_selector("#generate:enabled")
        assert len(asked) == 2
        assert [line for line in one.complaints if "401" not in line] == []
        context.close()
