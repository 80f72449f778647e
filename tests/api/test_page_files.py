"""The page's files are served at / and never hide a route."""

import pytest

from service.app import PAGE
from tests.api.harness import Running


def test_the_root_is_the_page_and_every_file_is_there(running: Running) -> None:
    root = running.client.get("/")
    assert root.content == (PAGE / "index.html").read_bytes()
    assert root.headers["content-security-policy"].startswith("default-src 'self'")
    for file in PAGE.iterdir():
        answer = running.client.get(f"/{file.name}")
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_file_that_did_not_change_is_not_sent_again(running: Running) -> None:
    tag = running.client.get("/").headers["etag"]
    assert running.client.get("/", headers={"if-none-match": tag}).status_code == 304
    assert running.client.head("/").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/", 404), ("GET", "/v1/", 404), ("PUT", "/v1/models", 405)]
)
def test_other_methods_and_the_api_are_not_the_pages(running: Running, method: str, path: str, status: int) -> None:
    assert running.client.request(method, path).status_code == status
