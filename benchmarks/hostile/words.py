"""Words of command lines: right commands, and odd values for options of each kind."""

INTEGERS = (
    "-1",
    "0",
    "1",
    "2",
    "3",
    "999999999999999999999",
    "1.5",
    "",
    "x",
    "nan",
    "0x10",
    "\u0661",
    " 2",
)
FLOATS = ("-1", "0", "0.5", "1", "1.5", "nan", "inf", "-inf", "1e308", "1e-300", "", "x", "0,5")
WORDS = ("", "x", "sve", "auto", "all", "0", "0-1", "1-0", "-1", "0,0", "9", "0-99999999999", "0-",
    ",", "ü", "\udce9",
         "a" * 3000, "\n", "null", "[1]", "{}", "32", "32x48", "48x32x3", "33", "0x0", "32X48",
         "99999999999",
         "512x512x", "early-exit", "spot", "tome", "sparsevit", "lower-resolution",
         "sve + early-exit")  # fmt: skip
PLACES = ("", ".", "missing", "pictures", "file.txt", "model", "run", "/dev/null", "/proc/nothing/x",
    "a\nb",
          "x" * 300, "\udce9", "pictures/0.png", "run/plan.json", "new/deep/out", "data", "-x",
          "model/model.safetensors",
          "loop")  # fmt: skip
SETTINGS = ("sve.keep=0.5", "sve.keep=2", "sve.keep=nan", "sve.keep=", "sve.=1", ".keep=1",
    "sve.keep", "keep=1",
            "sve.layers=[0]", "sve.layers=[9]", "sve.groups=[[0,1]]", "sve.score=exact",
            "sve.score=x", "sve.min_tokens=0",
            "sve.min_tokens=-1", "early-exit.after=[0]", "early-exit.keep=[0.5]",
            "sve.keep=[0.5,0.5]", "sve.completion=none",
            "=", "a.b.c=1", "sve.keep=1e999", "sve.nothing=1", "sve.keep={}", "sve.layers=all",
            "sve.layers=null",
            "early-exit.bound=0.1", "early-exit.taps=[1]", "mlp-routing.keep=0.5",
            "spot.rho=0.5")  # fmt: skip
SAFE = {  # a right command of each verb; the sizes keep it short
    "analyze": ("model", "--images", "pictures", "--resolution", "32", "--max-images", "1"),
    "optimize": ("model", "--images", "pictures", "--resolution", "32", "--max-images", "2", "--out",
        "out", "--layers", "0", "--published"),
    "measure": ("run", "--images", "pictures", "--resolution", "32", "--repeats", "1",
        "--max-images", "1"),
    "evaluate": ("run", "--task", "features", "--data", "pictures", "--resolution", "32",
        "--max-images", "1"),
    "compare": ("model", "--images", "pictures", "--resolution", "32", "--json", "compare.json",
        "--method", "tome", "--repeats", "1", "--max-images", "1"),
    "finetune": ("model", "--data", "data", "--out", "out", "--resolution", "32", "--steps", "1",
        "--rank", "1"),
    "scenes": ("--out", "out", "--layout", "camvid", "--resolution", "32", "--train", "1", "--val", "1"),
    "report": ("run",),
    "doctor": ("model", "--resolution", "32", "--images", "pictures"),
    "encode": ("model", "--images", "pictures", "--resolution", "32", "--out", "out", "--format",
        "webdataset", "--threads", "1", "--readers", "1", "--device", "cpu"),
}  # fmt: skip
OTHERWISE = ("run", "pictures/0.png")  # of a verb that has none
NEVER = ("ray", "actors")  # start a cluster
SKIPPED = ("explore", "demo")  # a page that runs until it is stopped; minutes
