import os
import signal

import pytest

from cogvideox.training.fault_tolerance.preemption import Interruption, Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_reason_and_a_second_one_goes_through(number):
    caught = []
    before = signal.signal(number, lambda *_: caught.append("outer"))
    try:
        with Interruption() as interruption:
            assert interruption.reason() is None
            os.kill(os.getpid(), number)
            assert interruption.reason() == signal.Signals(number).name
            assert caught == []
            os.kill(os.getpid(), number)
            assert caught == ["outer"]
            with pytest.raises(Stopped):
                interruption.check()
        with Interruption():
            pass
        os.kill(os.getpid(), number)
        assert caught == ["outer", "outer"]
    finally:
        signal.signal(number, before)


def test_time_leaves_room_for_the_longest_stretch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    interruption = Interruption(max_seconds=10.0)
    for time, stops in ((1, False), (4, False), (5, False), (7, False), (7.5, True)):
        now[0] = time
        assert (interruption.reason() is not None) == stops, time
