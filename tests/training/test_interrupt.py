"""Signals as a wish to stop."""

import os
import signal
import threading

import pytest

from noah_tf.training.interrupt import stop_requests


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_works_as_usual(signum, capfd):
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


def test_handlers_come_back_when_no_signal_came():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def body():
        with stop_requests() as stop:
            inside.append((signal.getsignal(signal.SIGTERM), bool(stop)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert inside == [(before, False)]
