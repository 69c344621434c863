"""Put the plan of `sparsight demo --full` into the package, its tensors in float16.

`python benchmarks/encoder/install_distilled.py runs/full`; the statistics of the distilled model, with
the recall of its projectors, become benchmarks/results/analysis-demo-distilled.json.
"""

import argparse
import shutil
from pathlib import Path

import sparsight
from sparsight.demo import encoder
from sparsight.demo.run import DISTILLED
from sparsight.run import save_plan

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    plan = sparsight.load(run)
    halves = {name: value.half() for name, value in plan.weights.items()}
    save_plan(plan.with_(weights=halves), Path(encoder.__file__).parent / "weights" / DISTILLED)
    results = Path(__file__).parents[1] / "results"
    shutil.copyfile(run / "analysis-sparse.json", results / "analysis-demo-distilled.json")
