"""The SDK's configuration: names of the environment, precedence, secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamfill.config import Profile, SeamlessConfig
from seamfill.errors import InvalidInput
from seamfill.provider import SeamlessDataProvider


def test_both_names_of_the_url_are_honoured_and_ours_wins() -> None:
    old = {"QMTL_SEAMLESS_COORDINATOR_URL": "http://a:1,http://b:2"}
    assert SeamlessConfig.from_env(old).coordinator_urls == ("http://a:1", "http://b:2")
    both = {**old, "SEAMFILL_COORDINATOR_URL": "http://c:3/"}
    assert SeamlessConfig.from_env(both).coordinator_urls == ("http://c:3",)


def test_a_token_comes_from_its_variable_or_file_and_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret\n", encoding="utf-8")
    config = SeamlessConfig.from_env({"SEAMFILL_TOKEN_FILE": str(path)})
    assert config.token == "s3cret"
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("env", "field"),
    [
        ({"SEAMFILL_PROFILE": "staging"}, "SEAMFILL_PROFILE"),
        ({"SEAMFILL_COORDINATOR_URL": "localhost:1"}, "SEAMFILL_COORDINATOR_URL"),
        ({"QMTL_SEAMLESS_COORDINATOR_URL": "x"}, "QMTL_SEAMLESS_COORDINATOR_URL"),
        ({"SEAMFILL_TOKEN_FILE": "/nonexistent/token"}, "SEAMFILL_TOKEN_FILE"),
    ],
)
def test_a_wrong_variable_is_named(env: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SeamlessConfig.from_env(env)
    assert caught.value.field == field


@pytest.mark.parametrize("profile", list(Profile))
async def test_without_a_coordinator_the_start_names_the_variable(profile: Profile) -> None:
    with pytest.raises(InvalidInput) as caught:
        async with SeamlessDataProvider(SeamlessConfig(profile=profile)):
            pass
    assert caught.value.field == "SEAMFILL_COORDINATOR_URL"
