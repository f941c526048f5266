import os
import signal
import threading

import pytest

from cogvideox.training.fault_tolerance.preemption import PreemptionHandler, TrainingStopped


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_requests_a_stop_and_a_second_one_has_its_default_effect(signum):
    caught = []
    previous_handler = signal.signal(signum, lambda *_: caught.append("outer"))
    try:
        with PreemptionHandler() as preemption:
            assert preemption.stop_reason() is None
            os.kill(os.getpid(), signum)
            assert preemption.stop_reason() == signal.Signals(signum).name
            assert caught == []
            os.kill(os.getpid(), signum)
            assert caught == ["outer"]
            with pytest.raises(TrainingStopped):
                preemption.check()
        with PreemptionHandler():
            pass
        os.kill(os.getpid(), signum)
        assert caught == ["outer", "outer"]
    finally:
        signal.signal(signum, previous_handler)


def test_the_time_limit_allows_for_the_longest_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    preemption = PreemptionHandler(max_seconds=10.0)
    for seconds, stops in ((1, False), (4, False), (5, False), (7, False), (7.5, True)):
        now[0] = seconds
        assert (preemption.stop_reason() is not None) == stops, seconds


def test_other_threads_have_a_time_limit_but_no_signals():
    reasons = []

    def train() -> None:
        with PreemptionHandler(max_seconds=0.0) as preemption:
            reasons.append(preemption.stop_reason())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join(timeout=60)
    assert reasons == ["the time limit of 0 s is reached"]
