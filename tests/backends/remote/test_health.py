from backends.remote.health import Health, HealthWatch


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_silence_turns_ready_into_stalled_and_then_lost():
    clock = Clock()
    watch = HealthWatch(clock)
    assert watch.report().health is Health.CONNECTING
    watch.heard("ready")
    assert watch.report().health is Health.READY
    clock.now_s += 21
    assert watch.report().health is Health.STALLED
    clock.now_s += 25
    assert watch.report().health is Health.LOST
    watch.heard()
    assert watch.report().health is Health.READY


def test_a_broken_connection_is_lost_at_once_with_its_reason():
    watch = HealthWatch(Clock())
    watch.heard("busy")
    watch.lost("gone")
    assert watch.report().health is Health.LOST
    assert watch.report().detail == "gone"
    watch.heard("engine_died", "SIGKILL")
    assert (watch.report().health, watch.report().detail) == (Health.ENGINE_DIED, "SIGKILL")
