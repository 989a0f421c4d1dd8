"""Signals: heard where a run can stop, never elsewhere."""

import os
import signal
import threading

import pytest

from plusx.engine import stop
from plusx.engine.stop import SIGNALS, Interrupt, Stopped, StopSignals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_safe_point(number: int) -> None:
    with StopSignals() as signals:
        signals.check()
        send(number)
        assert signals.received == number
        with pytest.raises(Interrupt):
            signals.check()


def test_a_signal_leaves_a_wait_at_once() -> None:
    after: list[str] = []
    with StopSignals() as signals, pytest.raises(Interrupt), signals.waiting():  # noqa: PT012
        send(signal.SIGTERM)
        after.append("still waiting")
    assert not after


def test_a_signal_from_before_a_wait_ends_it() -> None:
    with StopSignals() as signals:
        send(signal.SIGTERM)
        with pytest.raises(Interrupt), signals.waiting():
            pytest.fail("waited")
        send(signal.SIGTERM)  # outside a wait again: nothing happens


def test_another_signal_does_not_interrupt_what_a_left_wait_puts_in_order() -> None:
    after: list[str] = []
    with StopSignals() as signals, pytest.raises(Interrupt), signals.waiting():  # noqa: PT012
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGHUP)
            after.append("in order")
    assert after == ["in order"]


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stop, "time", clock)
    return clock


def test_the_second_ctrl_c_stops_at_once_and_other_signals_do_not(clock: Clock) -> None:
    with StopSignals() as signals:
        send(signal.SIGINT)
        clock.now += 0.6
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signals.received == signal.SIGINT


def test_a_ctrl_c_that_is_passed_on_besides_is_one(clock: Clock) -> None:
    """The terminal sends it to every process, and the one that started this one passes its own on."""
    with StopSignals() as signals:
        for _ in range(3):
            send(signal.SIGINT)
            clock.now += 0.16
        assert signals.received == signal.SIGINT
        clock.now += 0.16
        with pytest.raises(KeyboardInterrupt):  # half a second after the first, whatever came between
            send(signal.SIGINT)


def test_ctrl_c_twice_stops_at_once_whatever_came_before(clock: Clock) -> None:
    with StopSignals() as signals:
        send(signal.SIGTERM)
        send(signal.SIGINT)  # a terminal sends it to all ranks, of which torchrun may have told one already
        clock.now += 0.6
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signals.received == signal.SIGTERM


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopSignals() as signals:
            send(signal.SIGHUP)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_is_not_pythons_keeps_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", {signal.SIGTERM: None}.get)
        with StopSignals():
            assert signal.signal(signal.SIGTERM, before) is before


def test_in_another_thread_it_does_nothing() -> None:
    failed: list[BaseException] = []

    def enter() -> None:
        try:
            with StopSignals() as signals, signals.waiting():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_exit_codes(number: int, code: int) -> None:
    assert Stopped("stopped", number).exit_code == code
