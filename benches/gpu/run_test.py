#!/usr/bin/env python3
"""Tests run.sh with stubs of our programs, of PyTorch and of NVIDIA's tools.

  python3 benches/gpu/run_test.py
"""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = ["run.sh", "table.py", "kernels.py", "planted_race.cu"]
# Stubs add their arguments to the file `calls`.
LOGGED = 'echo "${0##*/} $*" >>calls\n'
PASSED = LOGGED + "echo 'test result: ok. 3 passed; 0 failed'"
# Prints a line for each pass up to the one that BROKEN names, and fails there.
MEASURE = LOGGED + """
while [[ $# -gt 1 && $1 != --what ]]; do shift; done
for what in ${2//,/ }; do
    [[ $what != "${BROKEN-}" ]] || { echo 'the driver failed' >&2; exit 3; }
    echo "{\\"impl\\": \\"IMPL\\", \\"what\\": \\"$what\\", \\"batch\\": 64, \\"median_s\\": 0.5, \\"tflop\\": 100.0}"
done
"""
CEILINGS = """
print('{"impl": "ceiling", "what": "matmul", "median_s": 0.001, "tflop_per_s": 800.0}')
"""
# Runs the stub of MEASURE with the name of the implementation.
PEER = """
import subprocess, sys
if "--check" in sys.argv:
    raise SystemExit(print("the golden numbers agree"))
impl = sys.argv[sys.argv.index("--impl") + 1]
script = open("measure").read().replace("transdiff-rs", impl)
raise SystemExit(subprocess.run(["bash", "-c", script, impl, *sys.argv[1:]]).returncode)
"""
NCU = LOGGED + """
[[ $1 != --query-metrics ]] || { printf '%s \\n' gpu__time_duration dram__bytes_read dram__bytes_write; exit; }
[[ -z ${FORBIDDEN-} ]] || { echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1; }
while [[ $1 != --log-file ]]; do shift; done
cat >"$2" <<'CSV'
"ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum","dram__bytes_write.sum"
"","","ns","byte","byte"
"0","norm_warp_8_bf16(NormParams)","2000000","1000000000","1000000000"
CSV
"""
# Finds the race if it is asked to look at kernels of that name.
SANITIZER = LOGGED + """
names=$(sed -n 's/.*--kernel-name regex=\\([^ ]*\\).*/\\1/p' <<<"$*")
case "$*" in
    *initcheck*) exit 9 ;;
    *planted_race.fatbin) [[ -n ${BLIND-} || ! planted_race_f32 =~ $names ]] || { echo 'Race reported in planted_race_f32'; exit 9; } ;;
    *) echo "cases $TRANSDIFF_CASES"; echo 'test result: ok. 3 passed; 0 failed' ;;
esac
"""
NVCC = LOGGED + 'while [[ $1 != -o ]]; do shift; done; : >"$2"; chmod +x "$2"'
LIBRARIES = "echo '  libcublasLt.so.13 (libc6,x86-64) => /usr/lib/libcublasLt.so.13'"
ALL = ["sample", "step", "ar", "train", "vae"]


class Run(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        for name in SCRIPTS:
            shutil.copy(HERE / name, self.root)
        self.program("measure", MEASURE.replace("IMPL", "transdiff-rs"))
        (self.root / "ceilings.py").write_text(CEILINGS)
        (self.root / "peer_pytorch.py").write_text(PEER)
        self.program("tests/transdiff/cuda", PASSED)
        self.program("tests/transdiff-ffi/guards", PASSED)
        tools = {"ncu": NCU, "compute-sanitizer": SANITIZER, "nvcc": NVCC, "ldconfig": LIBRARIES, "nvidia-smi": "echo GPU"}
        for name, text in tools.items():
            self.program(f"bin/{name}", text)

    def program(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def run_parts(self, *parts, **variables):
        """Runs the parts; returns the exit code, the output, and (reason, command to repeat) of each failure."""
        # Of the caller's variables those alone that programs need: run.sh reads many.
        kept = {name: os.environ[name] for name in ["HOME", "LANG", "TMPDIR"] if name in os.environ}
        environment = kept | {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", **variables}
        (self.root / "calls").write_text("")
        command = ["bash", self.root / "run.sh", *parts]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        failed = (self.root / "logs/failed").read_text()
        return done.returncode, done.stdout, re.findall(r"FAILED \((.*)\): .*\n    repeat: (.*) \n", failed)

    def calls(self):
        return (self.root / "calls").read_text().splitlines()

    def table(self):
        rows = (self.root / "logs/table.md").read_text().splitlines()
        return {row.split(" | ")[0].strip("| "): row for row in rows[4:]}

    def test_first_measures_everything(self):
        code, output, failed = self.run_parts("first", BATCH="32", PEER_DEVICE="cuda:1")
        self.assertEqual((code, failed), (0, []), output)
        self.assertEqual(list(self.table()), ALL)
        self.assertIn("| 0.5000 | 0.5000 | - | 1.00 | - | 100.000 | 200.0 | 25% |", self.table()["step"])
        self.assertEqual(output.splitlines()[-1], "all passed: first")
        same = "--preset large --dtype bf16 --res 256 --batch 32 --steps 100 --train-batch 64 --repeat 3"
        expected = ["cuda --nocapture", "guards cuda --nocapture"]
        expected += [f"measure --device cuda {same} --what ar,step,sample,vae,train"]
        expected += [f"plain --impl plain --device cuda:1 {same} --what ar,step,sample,vae,train"]
        self.assertEqual(self.calls(), expected)

    def test_failures_are_listed_with_the_command_that_repeats_them(self):
        failures = "failures:\n\nfailures:\n    cuda::sums\n    cuda::norms\n\ntest result: FAILED. 1 passed; 2 failed"
        self.program("tests/transdiff/backend_equivalence", f"echo '{failures}'; exit 101")
        self.program("tests/transdiff-ffi/empty", "echo 'test result: ok. 0 passed; 0 failed'")
        self.program("tests/transdiff-ffi/skipped", f"echo SKIPPED; {PASSED}")
        code, output, failed = self.run_parts("first", BROKEN="sample", LD_LIBRARY_PATH="/some dir")
        self.assertEqual(code, 1)
        reasons = [reason for reason, _ in failed]
        alone = [shlex.split(command)[-4:] for _, command in failed if "--exact" in command]
        program = "tests/transdiff/backend_equivalence"
        self.assertEqual(alone, [[program, f"cuda::{test}", "--exact", "--nocapture"] for test in ["sums", "norms"]])
        self.assertIn("no test ran", reasons)
        self.assertIn("SKIPPED", reasons)
        self.assertTrue(all(command.startswith("LD_LIBRARY_PATH=/some\\ dir ") for _, command in failed), failed)
        # The others are measured in processes of their own, the broken one last.
        ours = [shlex.split(command)[-1] for _, command in failed if "./measure" in command]
        self.assertEqual(ours, ["ar,step,sample,vae,train", "sample"])
        self.assertEqual([call.split()[-1] for call in self.calls() if call.startswith("measure")][1:], ["vae", "train", "sample"])
        self.assertEqual(sorted(self.table()), ["ar", "step", "train", "vae"])
        self.assertIn("FAILED", output.split("in all")[1])

    def test_hanging_tests_leave_time_for_measurements(self):
        self.program("tests/transdiff/cuda", "sleep 60")
        _, output, failed = self.run_parts("first", DEADLINE="50")
        self.assertIn("time limit", failed[0][0], output)
        self.assertEqual(failed[1][0], "skipped, no time left", "the next test")
        self.assertEqual(list(self.table()), ALL)

    def test_second_alternates(self):
        code, output, failed = self.run_parts("second")
        self.assertEqual((code, failed), (0, []), output)
        self.assertEqual([call.split()[0] for call in self.calls()], ["measure", "strong"] * 2)
        self.assertIn("| 0.5000 | - | 0.5000 | - | 1.00 |", self.table()["train"])

    def test_bench_has_rounds(self):
        code, output, failed = self.run_parts("bench", WHAT="step mrar")
        self.assertEqual((code, failed), (0, []), output)
        passes = [(call.split()[0], call.split()[-1]) for call in self.calls()]
        step = [(impl, "step") for impl in ["measure", "plain", "strong"]]
        self.assertEqual(passes, [*step, ("measure", "mrar")] * 2)
        self.assertIn("| step | 64 | 2 | 0.5000 | 0.5000 | 0.5000 | 1.00 | 1.00 |", self.table()["step"])

    def test_profile_is_summed_by_kernel(self):
        code, output, failed = self.run_parts("profile", WHAT="step")
        self.assertEqual((code, failed), (0, []), output)
        metrics = "--metrics gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum "
        self.assertIn(metrics, self.calls()[1], "those alone that this GPU has")
        self.assertIn("| norm | 1 | 2.000 | 100.0% | 1.00 | - |", output)
        self.assertFalse((self.root / "logs/table.md").exists(), "times under a profiler are no measurements")
        code, _, failed = self.run_parts("profile", WHAT="step", FORBIDDEN="1")
        self.assertEqual(code, 1)
        self.assertIn("only root may read the counters", failed[0][0])

    def test_sanitizers_have_to_report_the_planted_race(self):
        code, output, failed = self.run_parts("sanitize")
        self.assertEqual((code, failed), (0, []), output)
        memcheck, racecheck, *_, planted = self.calls()
        self.assertNotIn("--kernel-name", memcheck)
        self.assertIn("--tool racecheck --kernel-name", racecheck)
        self.assertTrue(memcheck.endswith("backend_equivalence cuda --nocapture --test-threads 1"), memcheck)
        self.assertIn("cases 7", output)
        self.assertEqual(racecheck.split()[:6], planted.split()[:6], "the same filter")
        code, _, failed = self.run_parts("sanitize", BLIND="1")
        self.assertEqual(code, 1)
        self.assertIn("racecheck does not report the planted race", failed[0][0])
        self.program("bin/nvcc", "exit 1")
        _, output, failed = self.run_parts("sanitize")
        self.assertIn("NOT CHECKED", output)
        self.assertEqual(len(failed), 1)

    def test_initcheck_is_for_information(self):
        code, output, failed = self.run_parts("initcheck")
        self.assertEqual((code, failed), (0, []), output)
        self.assertIn("for information: exit code 9", output)

    def test_programs_are_unpacked(self):
        with tarfile.open(self.root / "programs.tar.xz", "w:xz") as packed:
            packed.add(self.root / "measure", "measure")
        (self.root / "measure").unlink()
        code, output, failed = self.run_parts("second", WHAT="step")
        self.assertEqual((code, failed), (0, []), output)
        (self.root / "measure").unlink()
        (self.root / "programs.tar.xz").write_text("broken")
        code, _, failed = self.run_parts("initcheck")
        self.assertEqual((code, failed[0][0]), (1, "the programs cannot be unpacked"))

    def test_unknown_parts_are_refused(self):
        command = ["bash", self.root / "run.sh", "thirst"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr[:9]), (2, "usage: ru"))


if __name__ == "__main__":
    unittest.main()
