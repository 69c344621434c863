"""Dense and sparse in PyTorch, ONNX Runtime and OpenVINO, in turn, on the embedded encoder.

`python -m benchmarks.speed.export` writes results/export-cpu.json.  It needs 'sparsight[onnx]' and
'sparsight[openvino]'; an engine that is not installed is a hole.  Files are exported once, into
runs/export, compared with PyTorch, and timed from there.
"""

import copy
import json

import torch
from benchmarks import harness

import sparsight
from sparsight.attach import as_plan
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures
from sparsight.demo.run import BEST, CALIBRATION_SCENES, CALIBRATION_SEED, NINE, measuring_pictures
from sparsight.demo.scenes import SceneSet
from sparsight.errors import SparsightError
from sparsight.exports.parity import parity_place
from sparsight.images import Held
from sparsight.stages import timing
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete

SIZE, REPEATS = (1024, 1024), 9
PLACE = harness.ROOT / "runs" / "export"
FORMATS = {"onnx": "encoder.onnx", "openvino": "encoder.xml"}


def plans(model):
    """The settings of the demo's tables, completed on its calibration scenes."""
    pictures = Held(ScenePictures(SceneSet(CALIBRATION_SCENES, SIZE, CALIBRATION_SEED)))
    bench = bench_of(model, pictures, CALIBRATION_SCENES)
    named = {"sve": (NINE,), "sve + early-exit": BEST}
    return {row: complete(bench, as_plan(methods)) for row, methods in named.items()}


def exported(model, found):
    """Files by (engine, row), each for 256 to 1024 px; those that are there are taken."""
    files, holes, parity = {}, {}, {}
    for form, name in FORMATS.items():
        for row, plan in {"dense": None, **found}.items():
            file = PLACE / row.replace(" ", "") / name
            try:
                if not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    sparsight.export(
                        model, plan, file, form, sizes=[(256, 256), SIZE], dynamic=True, batch="dynamic",
                        images=measuring_pictures(SIZE) if plan is not None else None,
                    )  # fmt: skip
                files[form, row] = sparsight.open_exported(file)
                if parity_place(file).exists():
                    parity[form, row] = json.loads(parity_place(file).read_text())
            except SparsightError as error:
                holes[form, row] = str(error)
            print(form, row, holes.get((form, row), "ready"), flush=True)
    return files, holes, parity


def worst(report):
    """The worst figure of each kind over all sizes and batches."""
    cases = report["cases"]
    return {
        "sizes": len({case["size"] for case in cases}),
        "error": max(case["error"] for case in cases),
        "overlap": min(case["overlap"] for case in cases),
        "cosine_worst": min(case["cosine_worst"] for case in cases),
    }


if __name__ == "__main__":
    model = encoder.load()
    found = plans(model)
    files, holes, parity = exported(model, found)
    picture = measuring_pictures(SIZE)[0][None]
    models = {"dense": model} | {
        row: sparsight.apply(copy.deepcopy(model), plan) for row, plan in found.items()
    }
    calls = {
        ("pytorch", row): lambda m=one: m.forward_features(picture) for row, one in models.items()
    } | {key: lambda f=file: f(picture) for key, file in files.items()}
    times = timing.interleave(calls, REPEATS, torch.device("cpu"))
    rows = []
    for engine in ("pytorch", *FORMATS):
        for row in models:
            line = {"engine": engine, "name": row, "setting": found[row].label if row in found else ""}
            if (engine, row) in holes:
                rows.append(line | {"hole": holes[engine, row]})
                continue
            line |= timing.summary(times[engine, row])
            line["speedup"] = timing.summary(times[engine, "dense"])["latency_ms"] / line["latency_ms"]
            if (engine, row) in parity:
                line["parity"] = worst(parity[engine, row])
            rows.append(line)
    base = rows[0]["latency_ms"]
    for line in rows:
        if "latency_ms" in line:
            line["over_pytorch"] = base / line["latency_ms"]
    versions = {key[0]: file.manifest.versions for key, file in files.items()}
    engines = {"onnx": "onnxruntime", "openvino": "openvino"}
    result = {
        "protocol": timing.protocol(
            torch.device("cpu"), torch.float32, batch=1, repeats=REPEATS, resolution="1024x1024",
            engines={form: f"{engines[form]} {own[engines[form]]}" for form, own in versions.items()},
            command="python -m benchmarks.speed.export",
        ),
        "rows": rows,
    }  # fmt: skip
    harness.save("export-cpu", __file__, result)
