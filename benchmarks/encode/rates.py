"""Bulk encoding timed: beside a plain loop over the same model and batches, and sparse beside dense.

`python -m benchmarks.encode.rates` writes benchmarks/results/encode-rates-cpu.json.  The memory of each
arm is the peak of a process of its own.  With --ray, Ray too, with an actor for each core, beside the
local driver with a process for each core.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks import harness
from benchmarks.encode.pictures import MAX_TOKENS, pictures, run_of

from sparsight.demo import encoder as demo
from sparsight.encode import EncoderSettings, How, encode
from sparsight.encode.encoder import Encoder
from sparsight.encode.ledger import Ledger
from sparsight.encode.room import FACTS_BYTES, map_bytes
from sparsight.encode.sources import source_of
from sparsight.encode.versus import compare_dense
from sparsight.encode.work import encoded_parts
from sparsight.files import write_json
from sparsight.images import parse_resolution
from sparsight.stages import timing

REPEATS = 5


class Arms:
    """The same pictures, model and batches, by a plain loop and by the encoder with its reader."""

    def __init__(self, work: Path) -> None:
        self.settings = EncoderSettings(model=str(work / "run"), max_tokens=MAX_TOKENS)
        self.encoder, self.source = Encoder(self.settings), source_of(str(work / "timed"))
        self.records = list(self.source.records())

    def loop(self) -> None:
        """What one would write by hand: read, bucket, decode, run, pool."""
        buckets: dict[tuple[int, int], list[bytes]] = {}
        for record in self.records:
            data = self.source.read(record)
            buckets.setdefault(self.encoder.grid(data), []).append(data)
        with torch.inference_mode():
            for grid, found in buckets.items():
                size = self.settings.batch_of(grid)
                for first in range(0, len(found), size):
                    batch = [self.encoder.picture(data, grid)[0] for data in found[first : first + size]]
                    tokens = self.encoder.model.forward_features(torch.stack(batch))
                    tokens[:, 0].float().cpu(), tokens[:, 1:].float().mean(1).cpu()

    def encode(self) -> None:
        """The same through readers, parts and rows."""
        list(encoded_parts(self.encoder, self.source, iter([(0, self.records)]), 1))

    def models(self) -> dict[str, Callable[[], Any]]:
        """The models alone on the batches, decoded before: what `measure` times."""
        batches = []
        for record in self.records:
            data = self.source.read(record)
            batches.append(self.encoder.picture(data, self.encoder.grid(data))[0][None])
        arms = {"sparse": self.encoder.model, "dense": demo.load().eval()}

        def through(model: Any) -> Callable[[], Any]:
            return torch.inference_mode()(lambda: [model.forward_features(b) for b in batches])

        return {name: through(model) for name, model in arms.items()}


def in_turns(arms: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each arm, interleaved, after one run each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(-1, REPEATS):
        for name in sorted(arms, reverse=bool(turn % 2)):
            began = time.perf_counter()
            arms[name]()
            if turn >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def ray_rates(work: Path, count: int, actors: int) -> dict[str, Any]:
    """Pictures a second: as many plain loops side by side as actors, then Ray with its actors.

    `encoding` is while actors encode; `in_all` has the start of Ray and the loading of the models too.
    """
    loops = [
        subprocess.Popen(line_of(work, "loop", 1), stdout=subprocess.PIPE, text=True)
        for _ in range(actors)
    ]
    alone = [json.loads(process.communicate()[0].splitlines()[-1])["seconds"] for process in loops]
    out = work / "ray"
    shutil.rmtree(out, ignore_errors=True)
    line = [sys.executable, "-m", "sparsight", "encode", work / "run", "--images", work / "timed"]
    line += ["--out", out, "--max-tokens", MAX_TOKENS, "--part", max(1, count // (2 * actors))]
    line += ["--ray", "--actors", actors, "--threads", 1]
    subprocess.run([str(word) for word in line], check=True, capture_output=True)
    tallies = Ledger(out).done().values()
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    loop, ray = sum(count / s for s in alone), count * actors / sum(t.seconds for t in tallies)
    return {
        "actors": actors, "loops_pictures_per_s": loop, "encoding_pictures_per_s": ray,
        "share_of_loops": ray / loop, "in_all_pictures_per_s": summary["run"]["pictures_per_s"],
    }  # fmt: skip


def line_of(work: Path, arm: str, threads: int) -> list[str]:
    """The command that does one arm in a process of its own."""
    line = [
        sys.executable,
        "-m",
        "benchmarks.encode.rates",
        "--work",
        work,
        "--arm",
        arm,
        "--threads",
        threads,
    ]
    return [str(word) for word in line]


def alone(work: Path, arm: str, threads: int) -> None:
    """One arm in this process, once to warm up and once for its time; prints them and its peak."""
    torch.set_num_threads(threads)
    arms = Arms(work)
    act = {"loop": arms.loop, "encoder": arms.encode}[arm]
    act()
    began = time.perf_counter()
    act()
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text()  # what the parent had is in getrusage's peak too
    print(json.dumps({"seconds": seconds, "peak_mb": int(status.split("VmHWM:")[1].split()[0]) / 1e3}))


def peak_mb(work: Path, arm: str, threads: int) -> float:
    """Peak memory of a process that does one arm."""
    told = subprocess.run(line_of(work, arm, threads), check=True, capture_output=True, text=True).stdout
    return float(json.loads(told.splitlines()[-1])["peak_mb"])


def map_sizes(work: Path, count: int) -> dict[str, Any]:
    """Dense maps of so many scenes at 1024 px: bytes on the disk, and those said before the start."""
    folder, out = work / "large", work / "maps"
    pictures(folder, count, [(1024, 1024)], 0)
    shutil.rmtree(out, ignore_errors=True)
    settings = EncoderSettings(
        model=str(work / "run"), resolution=(1024, 1024), outputs=("pooled", "maps")
    )
    encoder = Encoder(settings)
    said = count * (map_bytes(encoder) + 4 * sum(encoder.widths().values()) + FACTS_BYTES)
    encode(settings, folder, out, How(readers=1))
    wrote = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    return {"pictures": count, "said_mb": said / 1e6, "written_mb": wrote / 1e6}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    sizes = [parse_resolution(size) for size in options.sizes.split(",")]
    pictures(options.work / "timed", options.pictures, sizes, 0)
    run_of(options.work)
    arms = Arms(options.work)
    times = in_turns({"loop": arms.loop, "encoder": arms.encode})
    models = in_turns(arms.models())
    middle = {name: statistics.median(found) for name, found in (times | models).items()}
    against = compare_dense(arms.encoder, arms.source, arms.records, 1)
    threads = torch.get_num_threads()
    return {
        "seconds": times, "share_of_loop": middle["loop"] / middle["encoder"],
        "peak_mb": {arm: peak_mb(options.work, arm, threads) for arm in ("loop", "encoder")},
        "models_alone": models, "speedup_of_models": middle["dense"] / middle["sparse"],
        "compare_dense": against, "maps": map_sizes(options.work, options.maps),
        "ray": ray_rates(options.work, options.pictures, os.cpu_count() or 1) if options.ray else None,
    }  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--maps", type=int, default=500, help="pictures whose dense maps are written")
    parser.add_argument("--sizes", default="512x512,768x1024,1024x1024", help="height x width, ...")
    parser.add_argument("--ray", action="store_true", help="on Ray too")
    parser.add_argument("--work", type=Path, default=Path("runs/encode-rates"))
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "encode-rates-cpu.json")
    parser.add_argument(
        "--arm", choices=("loop", "encoder"), help="do one arm only, and print its figures"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the one arm")
    return parser.parse_args()


if __name__ == "__main__":
    options = parsed()
    if options.arm:
        alone(options.work, options.arm, options.threads)
    else:
        found = measured(options)
        found["protocol"] = timing.setting(torch.device("cpu"), torch.float32) | {
            "command": f"python -m benchmarks.encode.rates --pictures {options.pictures}"
            + " --ray" * options.ray,
            "max_tokens": MAX_TOKENS, "pictures": options.pictures, "sizes": options.sizes,
        }  # fmt: skip
        write_json(options.out, found)
