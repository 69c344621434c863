"""Fine-tune: adapt an encoder to salient objects at a resolution of choice, by LoRA (SVE, Table 2).

    W <- W + (alpha / r) B A        B (out, r) and A (r, in) are learnt, W is not
    minimise  - sum over patches of t . log softmax(H z) / patches

z are the final tokens of the patches, t a patch's shares of object and background, and H the linear
head, which starts as the probe that fits the encoder as it came.  Afterwards the adapters are added to
the weights, so the encoder is the same as before in all but their values: any other verb takes it.
"""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.arguments import checked
from sparsight.attach import applied
from sparsight.data import Count, Sides, size_of
from sparsight.errors import PlanError, SparsightError
from sparsight.families import Family, encoder_in, family_of
from sparsight.files import check_writable, write_atomically, write_json
from sparsight.identity import identity
from sparsight.images import Reader
from sparsight.modes import evaluating
from sparsight.ops.grids import grid_of
from sparsight.stages import timing
from sparsight.stages.measure import name as size_name
from sparsight.stages.pictures import check_takes
from sparsight.stages.progress import Progress, followed
from sparsight.stages.train import Batches, Stepwise, in_float32, processes, train
from sparsight.tasks import layouts, mask_survey
from sparsight.tasks.base import patches_of, requested
from sparsight.tasks.dense_probe import fit_each, patch_shares
from sparsight.tasks.labels import LabelledFiles
from sparsight.tasks.masks import object_masks
from sparsight.tasks.probe import Probe
from sparsight.tasks.salient import CLASSES
from sparsight.tasks.table import read_table

WEIGHTS_FILE, FACTS_FILE = "model.safetensors", "finetune.json"
CHECKPOINT_FILE = "finetuning.safetensors"  # the state of an unfinished one
LEARNING_RATE = 5e-4  # of the adapters, whatever the width: their own scale is alpha / r


class Finetuning(Stepwise):
    """Settings of the fine-tuning; the defaults are LoRA's usual ones."""

    rank: Count = 8
    alpha: Count = 16
    probe_images: Count = 64  # the head's start is fitted on so many


class ProbeLoss(nn.Module):
    """The encoder and its head with their loss as forward pass."""

    def __init__(self, encoder: nn.Module, family: Family, start: Probe) -> None:
        super().__init__()
        self.encoder, self.family = encoder, family
        self.prefix = family.prefix_tokens(encoder)
        self.weight, self.bias = nn.Parameter(start.weight), nn.Parameter(start.bias)

    def forward(self, images: Tensor, shares: Tensor) -> Tensor:
        """Cross-entropy of images (b, 3, height, width) with the patches' shares (b, n, classes)."""
        tokens = self.family.features(self.encoder, images)[:, self.prefix :]
        logits = tokens.flatten(0, -2) @ self.weight + self.bias
        return F.cross_entropy(logits.float(), shares.flatten(0, -2))


@followed
@checked
def finetune(
    model: nn.Module,
    data: str | Path,
    resolution: Sides,
    out: str | Path,
    settings: Finetuning | None = None,
    module: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write a copy of `model`, fine-tuned on the pictures and masks in `data`, into the folder `out`.

    `model` stays as it is.  `out`/model.safetensors has all weights, by the model's own keys; the
    returned facts, losses among them, are in `out`/finetune.json.  `module` is the attribute path of the
    encoder in a larger model, and `options` are those of `sparsight.tasks.base.Request`.  The state is
    saved every minute and at an interrupt; the same call goes on from there.  `progress` is told as by
    `sparsight.optimize`.  Weights that are in `out` already are never overwritten.
    """
    settings, out, size = settings or Finetuning(), Path(out), size_of(resolution)
    encoder = encoder_in(model, module)
    if applied(encoder):
        raise PlanError("finetune starts from the dense model: call sparsight.restore(model) first")
    family = family_of(encoder)
    request = requested(Path(data), size, {"max_train_images": settings.probe_images, **options})
    check_takes(encoder, size, len(request.mean))
    table = read_table(request.table) if request.table else None
    samples = LabelledFiles(layouts.salient(request.data).train, request, object_masks(table))
    if settings.batch > len(samples):
        raise SparsightError(
            f"a batch of {settings.batch} is more than the {len(samples)} pictures there are"
        )
    mask_survey.something_to_tell(mask_survey.look(samples, None, "train", table))
    check_writable(out)
    if (out / WEIGHTS_FILE).exists():  # a finished run, or the very model that was given
        raise SparsightError(f"{out} already has a {WEIGHTS_FILE}: choose another folder")

    accelerator = processes()
    tuned = in_float32(copy.deepcopy(model)).to(accelerator.device).eval()
    with evaluating(tuned):
        start = fit_each((encoder_in(tuned, module),), samples, request, CLASSES).probes[0]
        black = torch.zeros(len(request.mean), *size, dtype=torch.float32, device="cpu")
        patches = len(patches_of(encoder_in(tuned, module), black))
    grid = grid_of(patches, size)
    known = identity(encoder, family).model_dump(mode="json")
    adapters = _with_adapters(encoder_in(tuned, module), family, settings)
    loss_of = ProbeLoss(encoder_in(tuned, module), family, start).to(accelerator.device)
    trained = {name: p for name, p in loss_of.named_parameters() if p.requires_grad}
    reader = Reader(samples)
    batches = Batches(reader, settings, accelerator)

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        pictures, labels = zip(*batches(step), strict=True)
        shares = torch.stack([patch_shares(label, grid, CLASSES) for label in labels])
        return torch.stack(pictures).to(accelerator.device), shares.to(accelerator.device)

    losses = train(
        accelerator, loss_of, trained, batch_of, settings, settings.steps,
        settings.learning_rate or LEARNING_RATE, "fine-tuning", out / CHECKPOINT_FILE,
        [known, settings.model_dump(mode="json"), size_name(size), len(samples)],
    )  # fmt: skip
    adapters.merge_and_unload()
    facts = {
        "protocol": timing.setting(accelerator.device, torch.float32)
        | {"data": request.data.name, "resolution": size_name(size), "images": len(samples)},
        "settings": settings.model_dump(mode="json"),
        "losses": losses,
        "skipped": list(reader.skipped.values()),
    }
    if accelerator.is_main_process:
        _write(tuned, out, facts)
    return facts


def _with_adapters(encoder: nn.Module, family: Family, settings: Finetuning) -> Any:
    """Adapters beside every linear layer of the blocks, which alone learn; B starts from zero."""
    from sparsight._torchvision import repair

    repair()  # peft imports transformers, and that torchvision
    from peft import LoraConfig, get_peft_model

    inside = {id(part) for block in family.blocks(encoder) for part in block.modules()}
    linear = [
        name for name, part in encoder.named_modules()
        if id(part) in inside and isinstance(part, nn.Linear)
    ]  # fmt: skip
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=linear
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(settings.seed)
        warnings.simplefilter("ignore", FutureWarning)  # peft reads a name that transformers deprecates
        return get_peft_model(encoder, config)


def _write(model: nn.Module, out: Path, facts: dict[str, Any]) -> None:
    from safetensors.torch import save_model

    write_json(out / FACTS_FILE, facts)
    # Last, because they say that all is there.
    write_atomically(out / WEIGHTS_FILE, lambda path: save_model(model.cpu(), str(path)))
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)
