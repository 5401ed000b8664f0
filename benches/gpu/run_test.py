#!/usr/bin/env python3
"""Tests run.sh with stubs of all programs that it starts, but for table.py and kernels.py.

  python3 benches/gpu/run_test.py
"""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = ["run.sh", "table.py", "kernels.py", "planted_race.cu"]
PASSED = "echo 'test result: ok. 3 passed; 0 failed'"
# Prints a line for each pass up to the one that BROKEN names, and fails there.
MEASURE = """
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
impl = sys.argv[sys.argv.index("--impl") + 1]
script = open("measure").read().replace("transdiff-rs", impl)
raise SystemExit(subprocess.run(["bash", "-c", script, "peer", *sys.argv[1:]]).returncode)
"""
NCU = """
[[ $1 != --query-metrics ]] || { printf '%s \\n' gpu__time_duration dram__bytes_read dram__bytes_write; exit; }
[[ -z ${FORBIDDEN-} ]] || { echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1; }
while [[ $1 != --log-file ]]; do shift; done
cat >"$2" <<'CSV'
"ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum","dram__bytes_write.sum"
"","","ns","byte","byte"
"0","norm_warp_bf16(NormParams)","2000000","1000000000","1000000000"
CSV
"""
SANITIZER = """
case "$*" in
    *planted_race.fatbin) [[ -n ${BLIND-} ]] || { echo 'Race reported in planted_race_f32'; exit 9; } ;;
    *) echo 'test result: ok. 3 passed; 0 failed' ;;
esac
"""


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
        self.program("bin/ncu", NCU)
        self.program("bin/compute-sanitizer", SANITIZER)
        self.program("bin/nvcc", 'while [[ $1 != -o ]]; do shift; done; printf "" >"$2"; chmod +x "$2"')

    def program(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def run_parts(self, *parts, **variables):
        """Runs the parts; returns the exit code, the output, and (reason, command to repeat) of each failure."""
        environment = os.environ | {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", **variables}
        command = ["bash", self.root / "run.sh", *parts]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        failed = (self.root / "logs/failed").read_text()
        return done.returncode, done.stdout, re.findall(r"FAILED \((.*)\): .*\n    repeat: (.*) \n", failed)

    def table(self):
        rows = (self.root / "logs/table.md").read_text().splitlines()
        return {row.split(" | ")[0].strip("| "): row for row in rows[3:]}

    def test_first_measures_everything(self):
        code, output, failed = self.run_parts("first")
        self.assertEqual((code, failed), (0, []), output)
        self.assertEqual(list(self.table())[1:], ["sample", "step", "ar", "train", "vae"])
        self.assertIn("| 0.5000 | 0.5000 | - | 1.00 | - | 100.000 | 200.0 | 25% |", self.table()["step"])
        self.assertEqual(output.splitlines()[-1], "all passed: first")

    def test_failures_are_listed_with_the_command_that_repeats_them(self):
        failures = "failures:\n\nfailures:\n    cuda::sums\n    cuda::norms\n\ntest result: FAILED. 1 passed; 2 failed"
        self.program("tests/transdiff/backend_equivalence", f"echo '{failures}'; exit 101")
        self.program("tests/transdiff-ffi/empty", "echo 'test result: ok. 0 passed; 0 failed'")
        self.program("tests/transdiff-ffi/skipped", f"echo SKIPPED; {PASSED}")
        code, output, failed = self.run_parts("first", BROKEN="sample", LD_LIBRARY_PATH="/some dir")
        self.assertEqual(code, 1)
        reasons = [reason for reason, _ in failed]
        equivalence = "tests/transdiff/backend_equivalence cuda::"
        self.assertEqual(len([c for _, c in failed if equivalence in c and c.endswith("--exact --nocapture")]), 2)
        self.assertIn("no test ran", reasons)
        self.assertIn("SKIPPED", reasons)
        self.assertTrue(all(command.startswith("LD_LIBRARY_PATH=/some\\ dir ") for _, command in failed), failed)
        # The others are measured in processes of their own, the broken one last.
        ours = [shlex.split(command)[-1] for _, command in failed if "./measure" in command]
        self.assertEqual(ours, ["ar,step,sample,vae,train", "sample"])
        self.assertEqual(list(self.table())[1:], ["step", "ar", "train", "vae"])
        self.assertIn("FAILED", output.split("in all")[1])

    def test_hanging_tests_leave_time_for_measurements(self):
        self.program("tests/transdiff/cuda", "sleep 60")
        _, output, failed = self.run_parts("first", DEADLINE="50")
        self.assertIn("time limit", failed[0][0], output)
        self.assertEqual(failed[1][0], "skipped, no time left", "the next test")
        self.assertEqual(list(self.table())[1:], ["sample", "step", "ar", "train", "vae"])

    def test_second_alternates(self):
        code, output, failed = self.run_parts("second")
        self.assertEqual((code, failed), (0, []), output)
        self.assertIn("| 0.5000 | - | 0.5000 | - | 1.00 |", self.table()["train"])

    def test_profile_is_summed_by_kernel(self):
        code, output, failed = self.run_parts("profile", WHAT="step")
        self.assertEqual((code, failed), (0, []), output)
        self.assertIn("| norm | 1 | 2.000 | 100.0% | 1.00 | - |", output)
        self.assertFalse((self.root / "logs/table.md").exists(), "times under a profiler are no measurements")
        _, _, failed = self.run_parts("profile", WHAT="step", FORBIDDEN="1")
        self.assertIn("only root may read the counters", failed[0][0])

    def test_sanitizers_have_to_report_the_planted_race(self):
        code, output, failed = self.run_parts("sanitize")
        self.assertEqual((code, failed), (0, []), output)
        code, _, failed = self.run_parts("sanitize", BLIND="1")
        self.assertEqual(code, 1)
        self.assertIn("racecheck does not report the planted race", failed[0][0])

    def test_unknown_parts_are_refused(self):
        command = ["bash", self.root / "run.sh", "thirst"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr[:9]), (2, "usage: ru"))


if __name__ == "__main__":
    unittest.main()
