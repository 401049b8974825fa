"""Load `bcdnet serve` from this machine: images per second and latency at several numbers of connections, then a soak.

    python benchmarks/serve.py MODEL            # a packed file, a shipped model's name or a run folder

Each connection sends one image (raw bytes, kept alive) and waits for its answer, over and over. The client is one
process of plain asyncio, which takes CPU from the server: the rates are those of server and client together. The soak
keeps 8 connections busy and reads the server's memory from its own metrics. Writes `benchmarks/results/<date>-serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image
from race import machine
from race.out import results_folder

ROOT = Path(__file__).resolve().parents[1]
CONNECTIONS, SOAK_CONNECTIONS = (1, 8, 64), 8
IMAGES = 64  # different ones, in turn


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what `bcdnet serve` takes")
    parser.add_argument("--side", type=int, help="side of the square JPEGs that are sent (default: the model's input)")
    parser.add_argument("--seconds", type=float, default=15, help="for each number of connections (default 15)")
    parser.add_argument("--soak", type=float, default=300, help="seconds of the soak; 0 leaves it out (default 300)")
    parser.add_argument("--out", type=results_folder, help="results folder (default benchmarks/results/<date>-serve)")
    parser.add_argument("--serve", default="", metavar="OPTIONS", help="for `bcdnet serve`, such as '--threads 1'")
    arguments = parser.parse_args()
    if arguments.side is not None and arguments.side < 1:
        parser.error(f"--side: at least 1, got {arguments.side}")
    if not 0 < arguments.seconds < sys.maxsize:
        parser.error(f"--seconds: above 0, got {arguments.seconds}")
    if arguments.soak and not 10 <= arguments.soak < sys.maxsize:
        parser.error("--soak: at least 10 seconds, of which the first tenth is left out, or 0")
    return arguments


class Server:
    """`bcdnet serve` as a process, at a free port."""

    def __init__(self, model: str, options: list[str]) -> None:
        command = [sys.executable, "-c", "from bcdnet.cli.main import main; main()", "serve", model, "--port", "0"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)", line)
        if found is None:
            sys.exit(f"the server did not start: {line}")
        self.host, self.port = found[1], int(found[2])

    def stop(self) -> int:
        """Ask it to end, and its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)


class Connection:
    """HTTP/1.1 over one kept connection: just enough of it, so that the client costs little."""

    async def open(self, server: Server) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(server.host, server.port)
        return self

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer. `body`: a JPEG, if there is one."""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        return int(answer[9:12]), await self._reader.readexactly(int(length[1]) if length else 0)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@dataclass
class Load:
    """What came of a load; seconds for each answered request, and the other answers by status."""

    connections: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        if not self.latencies:
            raise SystemExit(f"{self.connections} connections: no request was answered; refused: {self.refused}")
        p50, p90, p99 = (round(1e3 * float(value), 2) for value in np.percentile(self.latencies, (50, 90, 99)))
        return {
            "connections": self.connections,
            "seconds": round(self.seconds, 1),
            "images": len(self.latencies),
            "images_per_second": round(len(self.latencies) / self.seconds, 1),
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "refused": self.refused,
        }


async def load(server: Server, images: list[bytes], connections: int, seconds: float) -> Load:
    """Keep so many connections busy for so long."""
    result = Load(connections)
    opened = [await Connection().open(server) for _ in range(connections)]
    begin = perf_counter()

    async def client(connection: Connection, turn: int) -> None:
        while perf_counter() - begin < seconds:
            start = perf_counter()
            status, _ = await connection.ask("POST", "/v1/predict", images[turn % len(images)])
            if status == 200:
                result.latencies.append(perf_counter() - start)
            else:
                result.refused[status] = result.refused.get(status, 0) + 1
            turn += connections

    await asyncio.gather(*(client(connection, turn) for turn, connection in enumerate(opened)))
    result.seconds = perf_counter() - begin
    for connection in opened:
        await connection.close()
    return result


async def metrics(server: Server) -> dict[str, float]:
    """The server's own figures, summed over labels."""
    connection = await Connection().open(server)
    _, body = await connection.ask("GET", "/metrics")
    await connection.close()
    figures: dict[str, float] = {}
    for line in body.decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            key = name.split("{")[0]
            figures[key] = figures.get(key, 0.0) + float(value)
    return figures


async def soak(server: Server, images: list[bytes], seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Resident memory of the server over time, in MB, under a steady load."""
    samples: list[tuple[float, float]] = []
    begin = perf_counter()

    async def sample() -> None:
        while True:
            resident = (await metrics(server))["process_resident_memory_bytes"]
            samples.append((round(perf_counter() - begin, 1), round(resident / 1e6, 2)))
            await asyncio.sleep(max(1.0, seconds / 60))

    sampler = asyncio.create_task(sample())
    result = await load(server, images, SOAK_CONNECTIONS, seconds)
    sampler.cancel()
    # The first tenth fills caches and allocators.
    times, memory = np.array([row for row in samples if row[0] >= seconds / 10]).T
    slope = float(np.polyfit(times, memory, 1)[0]) * 60 if len(times) > 2 else float("nan")
    say(f"soak: {memory.min():.1f} to {memory.max():.1f} MB, {slope:+.2f} MB a minute")
    return result.summary() | {
        "resident_mb": {"least": float(memory.min()), "most": float(memory.max()), "slope_per_minute": round(slope, 3)},
        "samples": samples,
    }


def pictures(side: int) -> list[bytes]:
    """JPEGs with edges and texture, so that decoding costs about what it does for photographs."""
    random = np.random.default_rng(0)
    encoded = []
    for _ in range(IMAGES):
        coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        noise = random.normal(0, 8, (side, side, 3))
        stream = io.BytesIO()
        Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=88)
        encoded.append(stream.getvalue())
    return encoded


async def measure(server: Server, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything but the command and the machine."""
    connection = await Connection().open(server)
    _, body = await connection.ask("GET", "/v1/models")
    await connection.close()
    model = json.loads(body)["models"][0]
    del model["labels"]
    side = arguments.side or max(model["input"][1:])
    images = pictures(side)
    await load(server, images, 8, min(2.0, arguments.seconds))  # warm
    loads = []
    busy, used, own = machine.busy_seconds(), 0.0, sum(os.times()[:2])
    begin = perf_counter()
    for connections in CONNECTIONS:
        before = await metrics(server)
        result = await load(server, images, connections, arguments.seconds)
        after = await metrics(server)
        batches = after["bcdnet_batch_images_count"] - before["bcdnet_batch_images_count"]
        summary = result.summary() | {
            "images_per_batch": round((after["bcdnet_images_total"] - before["bcdnet_images_total"]) / batches, 2),
            "server_cpu_seconds": round(after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"], 2),
        }
        used += summary["server_cpu_seconds"]
        loads.append(summary)
        print(f"{connections} connections: {summary}", flush=True)
    elapsed = perf_counter() - begin
    client = sum(os.times()[:2]) - own
    total = machine.busy_seconds()
    others = None if busy is None or total is None else max(0.0, total - busy - used - client) / elapsed
    measured = {
        "model": model,
        "image": {"side": side, "mean_bytes": round(float(np.mean([len(image) for image in images])))},
        "cpus_used_by_other_processes": None if others is None else round(others, 2),
        "load_average_at_end": [round(value, 2) for value in os.getloadavg()],
        "loads": loads,
    }
    if arguments.soak:
        measured["soak"] = await soak(server, images, arguments.soak, lambda text: print(text, flush=True))
    return measured


def render(results: dict[str, Any]) -> str:
    """The page of a results folder."""
    described, model, image = results["machine"], results["model"], results["image"]
    others = results["cpus_used_by_other_processes"]
    busy = others is not None and others > 0.1
    lines = [
        f"# `bcdnet serve` under load, {results['date']}", "", "```bash", results["command"], "```", "",
        f"{described['processor']}, {described['cpus']} CPUs; {described['system']}; Python {described['python']}; "
        f"commit {described['commit'][:12]} with {described['changed_files']} changed files.", "",
        f"Model `{model['name']}`, input {'x'.join(map(str, model['input']))}, {model['file_bytes'] / 1e6:.2f} MB, "
        f"{model['target']}, {model['threads']} threads. JPEGs of {image['side']} px, {image['mean_bytes']:,} bytes on "
        "average, one in each request. The client ran on the same CPUs.", "",
    ]  # fmt: skip
    if others is not None:
        told = "**The machine was busy: take the figures as lower bounds.** " if busy else ""
        lines += [f"{told}Other processes used {others:.2f} CPUs meanwhile.", ""]
    lines += [
        "| connections | images/s | p50 | p90 | p99 | images in a batch | refused |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row['connections']} | {row['images_per_second']:,.0f} | {row['p50_ms']} ms | {row['p90_ms']} ms | "
            f"{row['p99_ms']} ms | {row['images_per_batch']} | {sum(row['refused'].values())} |"
            for row in results["loads"]
        ),
        "",
    ]
    if "soak" in results:
        row = results["soak"]
        memory = row["resident_mb"]
        lines += [
            f"Soak: {row['connections']} connections for {row['seconds']:.0f} s, {row['images']:,} images, "
            f"{sum(row['refused'].values())} refused; resident memory {memory['least']:.1f} to {memory['most']:.1f} MB "
            f"after the first tenth, {memory['slope_per_minute']:+.2f} MB a minute.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    arguments = parse()
    if not Path("/proc/self/stat").exists():
        sys.exit("serve.py asks the server for its CPU time, which it reads from /proc; this system has none")
    server = Server(arguments.model, shlex.split(arguments.serve))
    try:
        measured = asyncio.run(measure(server, arguments))
    finally:
        server.stop()
    date = datetime.now(UTC).date().isoformat()
    # Where files lie on this machine says nothing.
    given = {str(arguments.model), str(arguments.out)}
    words = [Path(word).name if word in given else word for word in sys.argv[1:]]
    command = shlex.join(["python", "benchmarks/serve.py", *words])
    results = {"date": date, "command": command, "machine": machine.describe(ROOT)} | measured
    out = arguments.out or ROOT / "benchmarks" / "results" / f"{date}-serve"
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "README.md").write_text(render(results), encoding="utf-8")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
