"""Install the newest wheel of a folder into an environment of its own and run the demo, small.

`python tools/try_wheel.py dist` (`make dist`): first the core alone, which must name the extra that the
command line is in, then all of it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def said(*command: str, code: int = 0) -> str:
    """What a command prints, on either stream."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    if done.returncode != code:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {text[-2000:]}")
    return text


def main(folder: Path) -> None:
    wheel = max(folder.glob("*.whl"), key=lambda file: file.stat().st_mtime)
    with tempfile.TemporaryDirectory() as place:
        said(sys.executable, "-m", "venv", place)
        python, program = f"{place}/bin/python", f"{place}/bin/sparsight"
        install = [python, "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS)]
        said(*install, "torch")
        said(*install, str(wheel))
        assert "sparsight[cli]" in said(program, "--help", code=1)
        told = "import sparsight; print(sparsight.Plan(methods=(sparsight.SVE(),)))"
        assert "Plan: sve" in said(python, "-c", told)
        said(*install, f"{wheel}[all]")
        run = f"{place}/run"
        said(program, "demo", "--out", run, "--resolution", "512", "--scenes", "2", "--repeats", "1")
        assert Path(run, "report.html").is_file()
    print(f"{wheel.name} installs and runs")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
