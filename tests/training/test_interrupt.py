"""Signals as a request to stop."""

import os
import signal
import threading

import pytest

from noah_tf.training.interrupt import stop_requests

pytestmark = pytest.mark.one_stack


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_sets_the_request_and_the_second_works_as_usual(signum, capfd):
    received = []
    before = signal.signal(signum, lambda *_: received.append(1))
    try:
        with stop_requests() as stop:
            assert not stop and stop.signum is None
            os.kill(os.getpid(), signum)
            assert stop and stop.signum == signum
            assert not received
            os.kill(os.getpid(), signum)
            assert received == [1]
        os.kill(os.getpid(), signum)
        assert received == [1, 1]
    finally:
        signal.signal(signum, before)
    assert f"{signal.Signals(signum).name}: saving after this step" in capfd.readouterr().out


def test_handlers_are_restored_without_a_signal():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_do_not_change_in_a_thread():
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def body():
        with stop_requests() as stop:
            inside.append((signal.getsignal(signal.SIGTERM), bool(stop)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert inside == [(before, False)]
