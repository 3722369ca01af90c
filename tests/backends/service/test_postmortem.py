import signal
from pathlib import Path

from backends.service.postmortem import EngineLog, count_oom_kills, explain_end


def test_memory_is_named_only_with_evidence():
    assert explain_end(-signal.SIGKILL, oom_kills=0) == "it was ended by SIGKILL"
    assert "memory ran out" in explain_end(-signal.SIGKILL, oom_kills=1)
    assert explain_end(-signal.SIGSEGV, oom_kills=1) == "it was ended by SIGSEGV"
    assert explain_end(7, oom_kills=1) == "it ended with exit code 7"


def test_the_kernels_count_is_read_from_the_control_group_or_else_the_machine(tmp_path: Path):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    assert count_oom_kills(proc, groups) == 0
    (proc / "vmstat").write_text("pgfault 5\noom_kill 3\n")
    assert count_oom_kills(proc, groups) == 3
    (groups / "mine").mkdir(parents=True)
    (groups / "mine" / "memory.events").write_text("low 0\noom_kill 8\n")
    (proc / "self" / "cgroup").write_text("0::/mine\n")
    assert count_oom_kills(proc, groups) == 8


def test_the_log_is_bounded_and_its_end_is_known(tmp_path: Path):
    log = EngineLog(tmp_path / "engine.log")
    log.begin("first")
    for number in range(300):
        log.write(f"{number} {'x' * 9990}\n".encode())
    log.write(b"progress 1\rprogress 2\rthe end")
    assert log.last_lines(2) == ["progress 2", "the end"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2.1 * 2**20
    log.begin("second")
    assert log.last_lines() == []
