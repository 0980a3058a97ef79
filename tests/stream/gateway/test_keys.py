"""API keys: who is let in, and when a gateway refuses to start without any."""

from pathlib import Path

import pytest

from stream.errors import SettingsError
from stream.gateway.keys import ApiKeys, read_keys
from stream.settings import GatewaySettings

ONE, OTHER = "the-first-key-0001", "the-other-key-0002"


def test_only_a_bearer_of_one_of_the_keys_is_let_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the shop\n{ONE}\n\n  {OTHER}  \n")
    keys = read_keys(GatewaySettings(keys=str(file), address="0.0.0.0:80"))
    assert keys
    for good in (f"Bearer {ONE}", f"bearer {OTHER}", f"Bearer  {ONE} "):
        assert keys.accept(good)
    for bad in ("", ONE, f"Basic {ONE}", f"Bearer {ONE[:-1]}", "Bearer", "Bearer ", f"Bearer {ONE} {OTHER}", "é\udc80"):
        assert not keys.accept(bad)


def test_without_keys_everybody_is_let_in_on_this_machine_alone() -> None:
    for address in ("127.0.0.1:80", "localhost:80", "[::1]:80"):
        keys = read_keys(GatewaySettings(address=address))
        assert not keys
        assert keys.accept("")
    for address in ("0.0.0.0:80", ":80", "[::]:80", "shop.example:80", "10.0.0.5:80"):
        with pytest.raises(SettingsError, match="everybody could write"):
            read_keys(GatewaySettings(address=address))
        assert read_keys(GatewaySettings(address=address, allow_anonymous=True)).accept("")


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", f"{ONE}\nshort\n"])
def test_a_file_without_keys_or_with_a_short_one_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(SettingsError, match="at least 16 characters"):
        read_keys(GatewaySettings(keys=str(file)))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        read_keys(GatewaySettings(keys=str(tmp_path / "nowhere")))


def test_no_keys_let_nobody_in_by_an_empty_one() -> None:
    assert not ApiKeys([ONE]).accept("Bearer ")
