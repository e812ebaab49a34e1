import os
import signal

import pytest

from ultraedit.history.interrupts import interruptible


def test_the_first_interrupt_only_answers_and_the_second_ends():
    handler = signal.getsignal(signal.SIGINT)
    with interruptible() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_handler_is_as_before_when_nothing_happened():
    handler = signal.getsignal(signal.SIGINT)
    with interruptible() as interrupted:
        assert not interrupted()
    assert signal.getsignal(signal.SIGINT) is handler


def test_where_interrupts_are_ignored_they_still_are():
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupted()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
