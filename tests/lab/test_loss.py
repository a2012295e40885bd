"""Loss is measured by the first request of a connection, however late a busy computer looks."""

from __future__ import annotations

import pytest

from .faults import rules
from .network import Stage
from .services import Service

pytestmark = pytest.mark.lab

CONNECT = """
import socket, sys
from bothends.streams import asked_again
with socket.create_connection((sys.argv[1], 4242), timeout=10) as sock:
    print(asked_again(sock))
"""


@pytest.mark.parametrize("lost", [True, False])
def test_a_request_that_was_sent_again_is_told(stage: Stage, *, lost: bool) -> None:
    Service(mode="silent")(stage)
    if lost:
        once = "tcp dport 4242 tcp flags syn limit rate 1/day burst 1 packets counter drop"
        rules("destination", "input", once)(stage)
    told = stage.source.python(CONNECT, stage.destination_address).stdout.strip()
    assert told == str(lost)
