"""`rul serve` against FastAPI + onnxruntime, MLServer and `mlflow models serve`: the same model file, the same client (wrk), one run.

Every server gets one processor of its own (0) and one thread for the model; the client runs on processor 1. The servers take
turns, so that a busy machine hurts all alike; of the turns the best counts. Every answer is checked against the others' first.

    bench/run serving
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).parent
WINDOW, FEATURES = 30, 16
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def windows(count):
    """Repeatable numbers, written with four places as a client would."""
    value = lambda i: round((i * 0.6180339887498949) % 1 * 2 - 1, 4)
    row = lambda w, t: [value((w * WINDOW + t) * FEATURES + f) for f in range(FEATURES)]
    return [[row(w, t) for t in range(WINDOW)] for w in range(count)]


def tensor(count):
    flat = [x for window in windows(count) for row in window for x in row]
    shape = [count, WINDOW, FEATURES]
    return {"inputs": [{"name": "input", "shape": shape, "datatype": "FP32", "data": flat}]}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def family(pid):
    """A process and all that it started."""
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def cpu_seconds(pid):
    total = 0
    for p in family(pid):
        fields = pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(") ", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_mib(pid):
    pages = sum(int(pathlib.Path(f"/proc/{p}/statm").read_text().split()[1]) for p in family(pid))
    return pages * PAGE / 2**20


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class Server:
    """One kind of server: how it is started, asked and understood."""

    def __init__(self, name, argv, env, ready, path, batch_path, body, batch_body, numbers, cwd=None):
        self.name, self.argv, self.env, self.ready, self.cwd = name, argv, env, ready, cwd
        self.path, self.batch_path, self.body, self.batch_body, self.numbers = path, batch_path, body, batch_body, numbers

    def __enter__(self):
        self.port = free_port()
        argv = ["taskset", "-c", "0", *[str(a).replace("PORT", str(self.port)) for a in self.argv]]
        env = {**os.environ, **{k: v.replace("PORT", str(self.port)) for k, v in self.env.items()}}
        self.log = tempfile.TemporaryFile()
        begin = time.perf_counter()
        self.process = subprocess.Popen(argv, env=env, cwd=self.cwd, stdout=self.log, stderr=self.log, start_new_session=True)
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready}", timeout=2).read()
                break
            except OSError:
                if self.process.poll() is not None or time.perf_counter() - begin > 180:
                    self.log.seek(0)
                    sys.exit(f"{self.name} did not start:\n{self.log.read().decode()[-3000:]}")
                time.sleep(0.002)
        self.ready_seconds = time.perf_counter() - begin
        return self

    def __exit__(self, *_):
        for pid in reversed(family(self.process.pid)):
            try:
                os.kill(pid, 15)
            except ProcessLookupError:
                pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()

    def url(self, count):
        return f"http://127.0.0.1:{self.port}{self.path if count == 1 else self.batch_path}"

    def payload(self, count):
        return self.body() if count == 1 else self.batch_body(count)

    def answers(self, count):
        return self.numbers(post(self.url(count), self.payload(count)))

    def load(self, scratch, count, connections, seconds):
        body = json.dumps(self.payload(count))
        script = scratch / "request.lua"
        script.write_text(
            f'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\nwrk.body = [==[{body}]==]\n'
        )
        before = cpu_seconds(self.process.pid)
        argv = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script]
        text = subprocess.run([*map(str, argv), self.url(count)], check=True, capture_output=True, text=True).stdout
        used = cpu_seconds(self.process.pid) - before
        if "Non-2xx" in text or "Socket errors" in text:
            sys.exit(f"{self.name}: requests failed\n{text}")
        requests = int(re.search(r"(\d+) requests in", text)[1])
        return {
            "requests_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
            "p50_ms": milliseconds(re.search(r"^ +50% +(\S+)", text, re.M)[1]),
            "p99_ms": milliseconds(re.search(r"^ +99% +(\S+)", text, re.M)[1]),
            "cpu_ms_per_request": used * 1000 / requests,
        }


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


def servers(args, scratch):
    directory = scratch / "model"
    directory.mkdir()
    onnx = directory / "model.onnx"
    subprocess.run([args.kernel, "--write", onnx, "--rounds", "1"], check=True, capture_output=True)
    manifest = {
        "name": "rul", "version": "1", "features": [f"f{i}" for i in range(FEATURES)], "window": WINDOW, "cap": 125.0,
        "sha256": hashlib.sha256(onnx.read_bytes()).hexdigest(),
    }
    (directory / "model.json").write_text(json.dumps(manifest))
    python = lambda venv: args.venvs / venv / "bin"
    mlflow = scratch / "mlflow"
    save = "import mlflow.onnx, onnx, sys; mlflow.onnx.save_model(onnx.load(sys.argv[1]), sys.argv[2])"
    subprocess.run([python("serving-mlflow") / "python", "-c", save, onnx, mlflow], check=True, capture_output=True)
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    mlserver = scratch / "mlserver"
    shutil.copytree(HERE / "mlserver", mlserver)
    ports = {"MLSERVER_HTTP_PORT": "PORT", "MLSERVER_GRPC_PORT": "0", "MLSERVER_METRICS_PORT": "0", "MLSERVER_PARALLEL_WORKERS": "0"}
    sequence, instances = lambda: {"sequence": windows(1)[0]}, lambda n: {"instances": windows(n)}
    predictions = lambda answer: answer["predictions"] if "predictions" in answer else [answer["rul"]]
    outputs = lambda answer: answer["outputs"][0]["data"]
    rul = [args.rul, "serve", "--listen", "127.0.0.1:PORT", "--model-dir", directory, "--model-name", "rul", "--threads", "1", "--batch-body-limit", "8388608"]
    invocations = lambda n: {"inputs": windows(n)}

    def flat(answer):
        values = answer["predictions"]
        values = next(iter(values.values())) if isinstance(values, dict) else values
        return [x for v in values for x in (v if isinstance(v, list) else [v])]

    return [
        Server("rul serve", rul, {}, "/readyz", "/predict", "/v1/models/rul:predict", sequence, instances, predictions),
        Server("FastAPI + onnxruntime",
               [python("serving-fastapi") / "uvicorn", "fastapi_app:app", "--port", "PORT", "--no-access-log", "--log-level", "warning"],
               {**one, "MODEL": str(onnx), "PYTHONPATH": str(HERE)}, "/readyz", "/predict", "/batch", sequence, instances, predictions),
        Server("MLServer + onnxruntime", [python("serving-mlserver") / "mlserver", "start", mlserver],
               {**one, **ports, "MODEL": str(onnx), "MLSERVER_DEBUG": "false"}, "/v2/models/rul/ready",
               "/v2/models/rul/infer", "/v2/models/rul/infer", lambda: tensor(1), tensor, outputs, cwd=mlserver),
        Server("mlflow models serve", [python("serving-mlflow") / "mlflow", "models", "serve", "-m", mlflow, "-p", "PORT", "--env-manager", "local"],
               {**one, **quiet, "PATH": f"{python('serving-mlflow')}:{os.environ['PATH']}"}, "/ping",
               "/invocations", "/invocations", lambda: invocations(1), invocations, flat),
    ]


def merge(results, turn):
    """Keeps the better of two measurements of the same thing."""
    for key, new in turn.items():
        old = results.setdefault(key, new)
        if isinstance(new, dict) and new["requests_per_second"] > old["requests_per_second"]:
            results[key] = new
        elif not isinstance(new, dict):
            results[key] = min(old, new)


def measure(server, scratch, args, expected):
    turn = {}
    with server:
        turn["ready_ms"] = server.ready_seconds * 1000
        for count in (1, 32, 256):
            numbers = server.answers(count)
            reference = expected.setdefault(count, numbers)
            worst = max(abs(a - b) for a, b in zip(numbers, reference, strict=True))
            if worst > 1e-2:
                sys.exit(f"{server.name} answers otherwise than {args.first}: {worst} cycles")
        server.load(scratch, 1, 1, 1)
        turn["one"] = server.load(scratch, 1, 1, args.seconds)
        turn["eight"] = server.load(scratch, 1, 8, args.seconds)
        # What one service for one model takes, before large batches grow its buffers.
        turn["memory_mib"] = resident_mib(server.process.pid)
        turn["batch32"] = server.load(scratch, 32, 1, args.seconds)
        turn["batch256"] = server.load(scratch, 256, 1, args.seconds)
    return turn


def table(results):
    rows = [
        ("requests/s, 1 connection", lambda r: r["one"]["requests_per_second"], True),
        ("requests/s, 8 connections", lambda r: r["eight"]["requests_per_second"], True),
        ("p50 ms, 1 connection", lambda r: r["one"]["p50_ms"], False),
        ("p99 ms, 1 connection", lambda r: r["one"]["p99_ms"], False),
        ("CPU ms per request", lambda r: r["eight"]["cpu_ms_per_request"], False),
        ("memory MiB", lambda r: r["memory_mib"], False),
        ("ready after ms", lambda r: r["ready_ms"], False),
        ("windows/s, batch 32", lambda r: 32 * r["batch32"]["requests_per_second"], True),
        ("windows/s, batch 256", lambda r: 256 * r["batch256"]["requests_per_second"], True),
    ]
    names = list(results)
    print("| " + " | ".join(["", *names]) + " |")
    print("|" + "---|" * (len(names) + 1))
    for label, get, more_is_better in rows:
        ours = get(results[names[0]])
        cells = []
        for name in names:
            value = get(results[name])
            ratio = ours / value if more_is_better else value / ours
            shown = f"{value:.3g}" if value < 100 else f"{value:,.0f}"
            cells.append(shown if name == names[0] else f"{shown} ({ratio:.1f}x)")
        print("| " + " | ".join([label, *cells]) + " |")
    print("\nIn brackets: how many times better the first is.")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rul", required=True)
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--venvs", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        all_servers, results, expected = servers(args, scratch), {}, {}
        args.first = all_servers[0].name
        for turn in range(args.turns):
            for server in all_servers:
                print(f"turn {turn + 1}: {server.name}", file=sys.stderr)
                merge(results.setdefault(server.name, {}), measure(server, scratch, args, expected))
    table(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
