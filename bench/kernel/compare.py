"""Microseconds per prediction, our kernels against onnxruntime: same model file, one thread each,
taking turns in one run so that a busy machine hurts both alike.

    python -m venv venv && venv/bin/pip install -r bench/kernel/requirements.txt
    cargo build --release -p model --example kernel
    venv/bin/python bench/kernel/compare.py PATH/TO/release/examples/kernel
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

BATCHES = (1, 32, 256)
TURNS = 7
# Short rounds: the best one is then undisturbed even on a busy machine.
ROUNDS = 51


def peer(session, batch):
    x = np.random.default_rng(batch).uniform(-1, 1, (batch, 30, 16)).astype(np.float32)
    # An IoBinding leaves out what Python adds to every call.
    binding = session.io_binding()
    binding.bind_cpu_input("input", x)
    binding.bind_output("output")
    calls = max(1, 64 // batch)
    times = []
    for _ in range(ROUNDS + 2):
        start = time.perf_counter()
        for _ in range(calls):
            session.run_with_iobinding(binding)
        times.append((time.perf_counter() - start) * 1e6 / (calls * batch))
    return statistics.median(times[2:]), min(times[2:])


def main():
    kernel = sys.argv[1]
    ours = {b: [] for b in BATCHES}
    theirs = {b: [] for b in BATCHES}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        subprocess.run([kernel, "--write", path, "--rounds", "1"], check=True, capture_output=True)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(TURNS):
            text = subprocess.run(
                [kernel, "--rounds", str(ROUNDS)], check=True, capture_output=True, text=True
            ).stdout
            for line in text.splitlines():
                if not line.startswith("#"):
                    batch, median, best = line.split()
                    ours[int(batch)].append((float(median), float(best)))
            for batch in BATCHES:
                theirs[batch].append(peer(session, batch))
    for batch in BATCHES:
        a, b = (
            (statistics.median(m for m, _ in side[batch]), min(m for _, m in side[batch]))
            for side in (ours, theirs)
        )
        print(
            json.dumps(
                {
                    "batch": batch,
                    "ours_us": round(a[0], 2),
                    "onnxruntime_us": round(b[0], 2),
                    "ratio": round(b[0] / a[0], 2),
                    "ours_best_us": round(a[1], 2),
                    "onnxruntime_best_us": round(b[1], 2),
                    "ratio_best": round(b[1] / a[1], 2),
                    "onnxruntime": ort.__version__,
                }
            )
        )


if __name__ == "__main__":
    main()
