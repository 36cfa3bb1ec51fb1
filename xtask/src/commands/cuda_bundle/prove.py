"""Proves torchcache on this machine's GPU, step by step. `run.sh --prove` starts it.

Each step has its own time limit; together they take less than nine minutes. A step that fails, hangs or
cannot be run does not stop the others. Results are in output/proof.json, written after each step, and as
text in output/proof.txt; the full output of each step is in output/. Exit code: 0 when no step failed, else 1.
"""

import argparse
import datetime
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "output"

# All steps together, in seconds.
MOST = 540

# The version that published figures are of, with what it needs besides torch.
PEER = ["torchcache==0.6.0", "zstd<2"]

FACTS = """
import json, platform, torch
facts = {"python": platform.python_version(), "torch": torch.__version__, "devices": []}
if torch.cuda.is_available():
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        facts["devices"].append({
            "name": found.name,
            "capability": f"{found.major}.{found.minor}",
            "memory": found.total_memory,
            "multiprocessors": found.multi_processor_count,
        })
print(json.dumps(facts))
"""

SMI = [
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "clocks.max.mem",
    "pcie.link.gen.current",
    "pcie.link.width.current",
    "power.limit",
]


class NotRun(Exception):
    """The step cannot be run here."""


class Failed(Exception):
    """The step ran, and did not hold."""


class Program:
    """A line of the file `programs`."""

    def __init__(self, kind, package, target, file):
        self.kind, self.package, self.target = kind, package, target
        self.file = HERE / "bin" / file

    def folder(self):
        return HERE / self.package


def programs():
    """All programs, by kind and name."""
    lines = (HERE / "programs").read_text().splitlines()
    found = [Program(*line.split()) for line in lines]
    return {(program.kind, program.target): program for program in found}


class Proof:
    def __init__(self, cpu, factor):
        self.cpu, self.factor = cpu, factor
        self.programs = programs()
        self.start = time.monotonic()
        # Seconds that the steps so far had and did not take.
        self.left = 0
        self.peer_path = None
        self.results = {
            "format": 1,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "bundle": json.loads((HERE / "bundle.json").read_text()),
            "cpu": cpu,
            "machine": {},
            "seconds": 0,
            "steps": [],
            "figures": [],
        }

    def step(self, name, limit, run):
        """Runs a step and notes what came of it."""
        print(f"=== {name}", flush=True)
        limit *= self.factor
        if name == LONGEST:
            limit, self.left = limit + self.left, 0
        step = Step(self, name, limit)
        start = time.monotonic()
        try:
            status, reason = "passed", run(step) or ""
        except NotRun as error:
            status, reason = "not run", str(error)
        except Failed as error:
            status, reason = "failed", str(error)
        except Exception as error:  # The other steps run all the same.
            status, reason = "failed", f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - start, 1)
        print(f"{status}, {seconds} s{': ' if reason else ''}{reason}", flush=True)
        self.results["steps"].append(
            {
                "name": name,
                "status": status,
                "reason": reason,
                "seconds": seconds,
                "limit": limit,
            }
        )
        self.left += max(limit - seconds, 0)
        self.results["seconds"] = round(time.monotonic() - self.start, 1)
        # Under its name a file is complete.
        partial = OUTPUT / "proof.json.partial"
        partial.write_text(json.dumps(self.results, indent=1) + "\n")
        partial.replace(OUTPUT / "proof.json")
        (OUTPUT / "proof.txt").write_text(self.summary())

    def count(self, status):
        return sum(step["status"] == status for step in self.results["steps"])

    def summary(self):
        results = self.results
        devices = results["machine"].get("devices") or []
        names = ", ".join(device["name"] for device in devices)
        lines = [f"torchcache on {names or 'the CPU: a dry run, whose figures count for nothing'}", ""]
        for step in results["steps"]:
            took = f"{step['seconds']:.1f} s of {step['limit']:.0f}"
            lines.append(f"{step['status']:8} {step['name']:28} {took:>16}  {step['reason']}".rstrip())
        for figure in results["figures"]:
            limit, bar = figure.get("limit"), figure.get("bar")
            text = f"{figure['part']:8} {figure['what']}: {figure.get('text', figure.get('not_run'))}"
            if limit:
                text += f"; {limit['what']}: {limit['text']}; ratio {limit['ratio']}"
            if bar:
                text += f"; {'reached' if bar['reached'] else 'MISSED'}: {bar['text']}"
            lines += ["", text] if figure is results["figures"][0] else [text]
        counts = [f"{self.count(status)} {status}" for status in ("passed", "failed", "not run")]
        return "\n".join(lines) + f"\n\n{', '.join(counts)}, {results['seconds']:.0f} s\n"


class Step:
    def __init__(self, proof, name, limit):
        self.proof, self.name = proof, name
        self.log = OUTPUT / f"prove-{name.replace(' ', '-')}.log"
        self.deadline = time.monotonic() + limit
        self.limit = limit

    def run(self, command, folder=HERE, **variables):
        """The output of a command that ends within the time limit, and its exit code."""
        env = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        with open(self.log, "ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # What it starts ends with it.
                start_new_session=True,
            )
            try:
                code = process.wait(max(self.deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                raise Failed(f"killed after its time limit of {self.limit:.0f} s") from None
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()
        with open(self.log, "rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace"), code

    def start(self, kind, target, arguments, before=(), **variables):
        """The same for a program of the bundle, as cargo would run it."""
        program = self.proof.programs.get((kind, target))
        if program is None:
            raise Failed(f"the bundle has no {kind} {target}")
        return self.run(
            [*before, program.file, *arguments],
            program.folder(),
            CARGO_MANIFEST_DIR=program.folder(),
            **variables,
        )

    def tests(self, target, arguments, before=(), **variables):
        """Runs tests, at least one of which must run."""
        try:
            output, code = self.start("test", target, arguments, before, **variables)
        except Failed as error:
            passed = len(re.findall(r"^test .*\bok$", self.log.read_text(errors="replace"), re.M))
            raise Failed(f"{error}; {passed} tests had passed") from None
        counts = re.findall(r"^test result: \S+ (\d+) passed; (\d+) failed", output, re.M)
        passed, failed = (sum(int(count[side]) for count in counts) for side in (0, 1))
        if failed:
            names = re.findall(r"^test (\S+) .*FAILED$", output, re.M)
            panic = re.search(r"panicked at .*\n(.*)", output)
            why = f"; the first: {panic[1][:300]}" if panic else ""
            raise Failed(f"{passed} passed, {failed} failed: {', '.join(names[:5])}{why}")
        if code:
            raise Failed(f"{ended(code)}: {last_line(output)}")
        if not passed:
            raise Failed("no test ran")
        return f"{passed} tests"

    def bench(self, *parts, **variables):
        """Runs parts of the benchmark and takes its figures, also those measured before a failure."""
        file = self.log.with_suffix(".figures")
        file.unlink(missing_ok=True)
        cpu = ["--cpu"] if self.proof.cpu else []
        try:
            output, code = self.start(
                "bench", "cuda", [*parts, *cpu, "--figures", file], **variables
            )
        finally:
            lines = file.read_text().splitlines() if file.exists() else []
            figures = [json.loads(line) for line in lines]
            self.proof.results["figures"] += figures
        if code:
            raise Failed(f"{ended(code)}: {last_line(output)}")
        if not figures:
            raise Failed("it measured nothing")
        bars = [figure for figure in figures if figure.get("bar")]
        missed = [figure["what"] for figure in bars if not figure["bar"]["reached"]]
        if missed:
            raise Failed(f"missed {len(missed)} of {len(bars)} bars: {'; '.join(missed)}")
        return f"{len(figures)} figures, {len(bars)} bars reached"


def ended(code):
    return f"ended by signal {-code}" if code < 0 else f"exit code {code}"


def last_line(output):
    return (output.strip().splitlines() or ["no output"])[-1][:200]


def machine(step):
    """What the GPUs are, by torch and by nvidia-smi."""
    output, code = step.run([sys.executable, "-c", FACTS])
    if code:
        raise Failed(f"torch cannot be asked for its devices: {last_line(output)}")
    facts = json.loads(output.strip().splitlines()[-1])
    step.proof.results["machine"] = facts
    if step.proof.cpu:
        return f"torch {facts['torch']}"
    if not facts["devices"]:
        raise Failed("torch finds no CUDA device")
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader"]
        output, code = step.run(query)
        if code == 0:
            for device, line in zip(facts["devices"], output.strip().splitlines()):
                device.update(zip(SMI, (value.strip() for value in line.split(","))))
    return ", ".join(device["name"] for device in facts["devices"])


def needs_gpu(step):
    if step.proof.cpu:
        raise NotRun("--cpu")


# The kernels are off by default.
HASHING = {"TORCHCACHE_DEVICE_HASHING": "on"}


# Tests that need a device are ignored by default. They run one after another, for the memory that they need.
ON_DEVICE = ["--include-ignored", "--test-threads", "1"]


def across_devices(name, **variables):
    def run(step):
        needs_gpu(step)
        tests = [f"across_devices::{name}", *ON_DEVICE]
        return step.tests("behaviour", tests, **variables, **HASHING)

    return run


def kernels(step):
    """Unit tests of the device layer."""
    needs_gpu(step)
    return step.tests("torchcache", ["device::", *ON_DEVICE], **HASHING)


# Without those that are about the fake device.
IGNORED = ["device_hashing::", "output_devices::", "--skip", "on_the_default_stream_of_a_thread"]


def ignored_tests(step):
    """Tests of behaviour that need a GPU, and are ignored where there may be none."""
    needs_gpu(step)
    return step.tests("behaviour", [*IGNORED, *ON_DEVICE], **HASHING)


def several_devices(step):
    needs_gpu(step)
    if len(step.proof.results["machine"].get("devices") or []) < 2:
        raise NotRun("this machine has one device")
    return across_devices("rows_in_memory")(step)


def sanitizer(tool):
    def run(step):
        needs_gpu(step)
        places = [os.environ.get("CUDA_HOME", ""), *glob.glob("/usr/local/cuda*")]
        path = os.pathsep.join([os.environ["PATH"], *(f"{place}/bin" for place in places if place)])
        found = shutil.which("compute-sanitizer", path=path)
        if not found:
            raise NotRun("compute-sanitizer not found")
        before = [found, "--tool", tool, "--error-exitcode", "99"]
        return step.tests("torchcache", ["device::", *ON_DEVICE], before, **HASHING)

    return run


def behaviour(step):
    return step.tests("behaviour", [], **HASHING)


def python_package(step):
    """Makes the Python package importable for the benchmark."""
    check = [sys.executable, "-c", "import numpy, torchcache, sys; sys.exit(not torchcache.torchcache)"]
    output, code = step.run(check)
    if code == 0:
        step.proof.peer_path = ""
        return "it is installed"
    target = OUTPUT / "python"
    pip = [sys.executable, "-m", "pip", "install", "--no-input", "--no-deps", "--target", target]
    output, code = step.run([*pip, *PEER])
    if code:
        raise NotRun(f"pip cannot install it: {last_line(output)}")
    output, code = step.run(check, PYTHONPATH=target)
    if code:
        raise NotRun(f"it cannot be imported: {last_line(output)}")
    step.proof.peer_path = target
    return "installed below output/"


def bench(part):
    def run(step):
        variables = dict(HASHING)
        if step.proof.peer_path is not None:
            variables["TORCHCACHE_PEER_PYTHON"] = sys.executable
        if step.proof.peer_path:
            variables["PYTHONPATH"] = step.proof.peer_path
        return step.bench(part, **variables)

    return run


# It also has the time that the steps before it did not take.
LONGEST = "behaviour"

# Names, time limits in seconds, and what is run. Steps named `bench …` measure: `cargo xtask bench --proof`
# also takes figures that miss their bars.
STEPS = [
    ("machine", 20, machine),
    # Fails with the reason where the library finds no driver, or a function of it is missing.
    ("device hashing", 20, across_devices("each_device")),
    ("kernels", 20, kernels),
    ("random rows", 20, across_devices("rows_of_any")),
    ("ignored tests", 20, ignored_tests),
    ("large rows", 45, across_devices("large_", TORCHCACHE_TEST_BYTES=4 << 30)),
    ("memcheck", 40, sanitizer("memcheck")),
    ("racecheck", 40, sanitizer("racecheck")),
    ("behaviour", 105, behaviour),
    ("one directory", 15, across_devices("rows_on_disk")),
    ("several devices", 15, several_devices),
    ("python package", 20, python_package),
    ("bench limits", 15, bench("limits")),
    ("bench hashing", 20, bench("hashing")),
    ("bench hits", 30, bench("hits")),
    ("bench epoch", 30, bench("epoch")),
    ("bench models", 60, bench("models")),
]


def main():
    parser = argparse.ArgumentParser(prog="run.sh --prove", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="a dry run without a GPU")
    parser.add_argument(
        "--limits", type=float, default=1, metavar="FACTOR", help="multiply the time limits"
    )
    parser.add_argument("names", nargs="*", metavar="STEP", help="only these steps")
    arguments = parser.parse_args()
    names = [name for name, *_ in STEPS]
    unknown = [name for name in arguments.names if name not in names]
    if unknown:
        parser.error(f"there is no step {unknown[0]}; there are {', '.join(names)}")
    assert sum(limit for _, limit, _ in STEPS) < MOST
    OUTPUT.mkdir(exist_ok=True)
    for old in OUTPUT.glob("prove-*"):
        old.unlink()
    proof = Proof(arguments.cpu, arguments.limits)
    for name, limit, run in STEPS:
        if not arguments.names or name in arguments.names:
            proof.step(name, limit, run)
    print(f"\n{proof.summary()}\nresults: {OUTPUT / 'proof.json'}")
    return int(proof.count("failed") > 0)


if __name__ == "__main__":
    sys.exit(main())
