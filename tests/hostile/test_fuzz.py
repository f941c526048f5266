"""Run hostile cases (`tests.hostile.cases`), each in a forked process with time and memory limits.

    python -m tests.hostile.test_fuzz 300 --seed 0 --jobs 2     run cases 0 to 299; status 1 if there are findings
    python -m tests.hostile.test_fuzz --only 17 --keep out      run only case 17, and keep its folder

A finding is a traceback, a hang, excessive memory use or output, a leftover or lost file, or undetected damage. To fuzz
another version of the package, put its folder before this one in PYTHONPATH, and pass a corpus written by this version.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import pkgutil
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.hostile import bombs, cases, results
from tests.hostile.corpus import Case, Corpus, build_corpus

ROOT = Path(__file__).parents[2]
CLASSES = cases.WEIGHTS | bombs.WEIGHTS | results.WEIGHTS
"""The classes of cases, and how often each occurs."""

CPU_SECONDS = 20
WALL_SECONDS = 120
MEMORY_MB = 1200  # in addition to the memory of the process when it is forked
MAX_OUTPUT = 2**26  # bytes of all new files
STATUSES = {0, 2, 75}  # success, error message, stopped early
TEMPORARY = re.compile(r"\.tmp|\.partial$|\.(new|old)$|^\.lock|^tmp\w{8}$")


Build = Callable[[Corpus], Case]


@dataclass(frozen=True)
class Finding:
    """A case in which the package misbehaved."""

    index: int
    name: str
    kind: str
    argv: list[str]
    detail: str

    def __str__(self) -> str:
        command = " ".join(word if len(word) < 60 else f"{word[:57]}..." for word in self.argv)
        return f"case {self.index} ({self.name}): {self.kind}: cogvideox {command!r}\n    {self.detail}"


def fuzz(
    indices: range,
    corpus: Path,
    *,
    seed: int = 0,
    jobs: int = 2,
    names: list[str] | None = None,
    keep: Path | None = None,
) -> list[Finding]:
    """Run the cases with these numbers, of all classes or only those in `names`, and print each finding."""
    _import_everything()
    findings: list[Finding] = []
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        queue, running = list(reversed(indices)), {}
        while queue or running:
            while queue and len(running) < jobs:
                index = queue.pop()
                build, rng = choose_class(seed, index, names)
                case = _CaseProcess(index, build, rng, corpus, Path(folder), baseline)
                running[case.pid] = case
            time.sleep(0.01)
            for pid, case in list(running.items()):
                if not case.poll():
                    continue
                del running[pid]
                if (finding := case.finding()) is not None:
                    findings.append(finding)
                    print(finding, flush=True)
                if keep is not None:
                    shutil.copytree(case.folder, keep, symlinks=True, dirs_exist_ok=True)
                shutil.rmtree(case.folder)
    return findings


def choose_class(seed: int, index: int, names: list[str] | None) -> tuple[Build, Random]:
    """Return the class of a case, and the random generator that builds it."""
    weights = {build: weight for build, weight in CLASSES.items() if names is None or build.__name__ in names}
    rng = Random(f"{seed}:{index}")
    return rng.choices([*weights], [*weights.values()])[0], rng


class _CaseProcess:
    """A case in a forked process."""

    def __init__(self, index: int, build: Build, rng: Random, corpus: Path, parent: Path, baseline: int) -> None:
        self.index, self.folder, self.limit = index, parent / str(index), baseline + 1024 * MEMORY_MB
        self.start, self.peak, self.killed, self.status = time.monotonic(), 0, "", 0
        self.build = build
        (self.folder / "here").mkdir(parents=True)
        (self.folder / "tmp").mkdir()
        if (pid := os.fork()) == 0:
            _run(self.build, rng, corpus, self.folder)
        self.pid = pid

    def poll(self) -> bool:
        """Return whether the process has ended. Kill it if it exceeds its time or memory limit."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            with contextlib.suppress(OSError, ValueError, IndexError):
                self.peak = int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[0])
            if self.peak > self.limit:
                self.killed = "memory"
            elif time.monotonic() - self.start > WALL_SECONDS:
                self.killed = "hang"
            if self.killed:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            return False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its workers
        self.status, self.peak = status, max(self.peak, usage.ru_maxrss)
        return True

    def finding(self) -> Finding | None:
        stderr = (self.folder / "err").read_text(errors="replace") if (self.folder / "err").exists() else ""
        report = json.loads((self.folder / "report").read_text()) if (self.folder / "report").exists() else {}
        code, last_line = os.waitstatus_to_exitcode(self.status), " ".join(stderr.strip().splitlines()[-1:])[:300]
        kind, detail = "", ""
        if self.killed or code == -signal.SIGXCPU:
            kind, detail = self.killed or "hang", f"{self.peak // 1024} MB, {time.monotonic() - self.start:.0f} s"
        elif self.peak > self.limit:
            kind, detail = "memory", f"{self.peak // 1024} MB"
        elif code not in STATUSES or "Traceback" in stderr:
            kind, detail = "traceback", f"status {code}: {last_line}"
        elif code == 2 and "cogvideox: " not in stderr:
            kind, detail = "no error message", last_line
        elif report.get("problem"):
            kind, detail = report["problem"]
        elif report.get("expected") not in (None, code != 2):
            kind, detail = "unexpected", f"status {code}: {last_line}"
        return Finding(self.index, self.build.__name__, kind, report.get("argv", []), detail) if kind else None


def _run(build: Build, rng: Random, corpus: Path, folder: Path) -> None:
    """Build the case, run its command, and compare the folder before and after. Called in the forked process."""
    os.setpgid(0, 0)
    status = 70
    try:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        os.chdir(here := folder / "here")
        case = build(Corpus(corpus, here, rng))
        report = {"argv": case.argv, "expected": case.expected}
        (folder / "report").write_text(json.dumps(report))
        case.prepare()
        before = _snapshot(folder)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
        descriptor = os.open(folder / "err", os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        from cogvideox.cli.main import main

        status = main(case.argv)
        (folder / "report").write_text(
            json.dumps({**report, "problem": _compare(folder, before, _snapshot(folder), case, status)})
        )
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def _snapshot(folder: Path) -> dict[str, str]:
    """Map every path below a folder to a hash of its content, the target of a link, or "" for a folder."""
    contents = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.parent == folder and name in ("err", "report"):
                continue
            content = "" if path.is_dir() else hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "?"
            contents[str(path.relative_to(folder))] = f"link to {path.readlink()}" if path.is_symlink() else content
    return contents


def _size(path: Path) -> int:
    return path.lstat().st_size if path.is_file() else 0


def _compare(
    folder: Path, before: dict[str, str], after: dict[str, str], case: Case, status: int
) -> tuple[str, str] | None:
    """Return (kind, name) of the first file that is lost, changed or left over, or the size of a large output."""

    def may_change(name: str) -> bool:
        parts = Path(name).parts
        return parts[0] == "here" and parts[1:2] != () and parts[1] in case.writes and "mine" not in parts[-1]

    for name, content in before.items():
        if after.get(name) != content and not may_change(name):
            if (content.startswith("link") or content == "?") and status == 0:
                continue  # the command may replace its own links by files
            return ("lost" if name not in after else "changed"), name
    if (size := sum(_size(folder / name) for name in after.keys() - before.keys())) > MAX_OUTPUT:
        return "large output", f"{size // 2**20} MB"
    for name in after.keys() - before.keys():
        file_name = Path(name).name
        if (
            (TEMPORARY.search(file_name) and "mine" not in file_name)
            or name.startswith("tmp/")
            or (status == 2 and not may_change(name))
        ):
            return "left over", name
    return None


def _import_everything() -> None:
    """Import the package and its lazy dependencies, so that the forked processes start fast."""
    import cogvideox

    for name in (
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg",
        "PIL.Image",
    ):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(cogvideox.__path__, "cogvideox."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def test_300_hostile_cases_have_no_findings():
    """In a separate process, because pytest replaces the output streams and starts threads, which forks do not keep."""
    command = [sys.executable, "-m", "tests.hostile.test_fuzz", "300"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]


def main() -> int:
    parser = argparse.ArgumentParser(description="Run hostile cases.")
    parser.add_argument("number", nargs="?", type=int, default=300, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="INDEX", help="number of the first case")
    parser.add_argument("--only", type=int, metavar="INDEX", help="run only this case")
    parser.add_argument(
        "--class", dest="names", action="append", metavar="NAME", choices=[build.__name__ for build in CLASSES]
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--corpus", type=Path, help="folder with the valid files; created if it does not exist")
    parser.add_argument("--keep", type=Path, help="copy the folders of the cases to this folder")
    options = parser.parse_args()
    first, number = (options.first, options.number) if options.only is None else (options.only, 1)
    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus or Path(folder) / "corpus"
        if not corpus.exists():
            build_corpus(corpus)
        start = time.monotonic()
        indices = range(first, first + number)
        findings = fuzz(
            indices, corpus.resolve(), seed=options.seed, jobs=options.jobs, names=options.names, keep=options.keep
        )
    seconds = time.monotonic() - start
    print(f"{number} cases in {seconds:.0f} s: {len(findings)} findings")
    counts = Counter(choose_class(options.seed, index, options.names)[0].__name__ for index in indices)
    for name, count in sorted(counts.items()):
        kinds = Counter(finding.kind for finding in findings if finding.name == name)
        print(f"  {name:14} {count:6} cases", *(f"{kind}: {times}" for kind, times in sorted(kinds.items())), sep="  ")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
