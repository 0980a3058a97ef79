"""Ports that nobody else takes meanwhile."""

import pytest

from stream.errors import BrokerError
from stream.local import ports


def test_no_port_is_given_twice_and_each_lies_in_the_part_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _: True)
    monkeypatch.setattr(ports, "PORTS", range(20_002, 20_010, 4))
    monkeypatch.setattr(ports, "_given", set())
    assert {ports.free_port(), ports.free_port()} == {20_002, 20_006}
    with pytest.raises(BrokerError, match="no two free ports"):
        ports.free_port()
