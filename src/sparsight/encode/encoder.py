"""The encoder, with no engine in it: decode, policy of sizes, run, pool, emit."""

import hashlib
from math import ceil

import torch
from torch import Tensor

from sparsight.attach import family_in
from sparsight.encode import pictures
from sparsight.encode.loading import facts_of, fingerprint, open_model
from sparsight.encode.settings import EncoderSettings
from sparsight.encode.sizes import Grid, grid_within, name
from sparsight.errors import PlanError, SparsightError
from sparsight.stages.fallback import dense_runs
from sparsight.stages.kept import Kept, counted
from sparsight.stages.measure import fused
from sparsight.stages.observe import outputs_of
from sparsight.stages.pictures import check_takes

CLASS_TOKENS = ("cls_token", "class_embedding")  # what timm and transformers call it


class Encoder:
    """A loaded model that turns pictures into vectors and maps of patch tokens.

    `columns` are the vectors it emits, by name: "pooled" (the mean of the final patch tokens), "cls",
    and "tap<layer>" (the mean of the patch tokens that a layer returns).  With "maps", each of these
    but cls has a map (rows, columns, c) too: "map", "map_tap<layer>".
    """

    def __init__(self, settings: EncoderSettings) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings, self.loaded = settings, open_model(settings)
        self.model, self.family = self.loaded.model, family_in(self.loaded.model)
        self.patch_px = self.family.patch_px(self.model)
        self.prefix = self.family.prefix_tokens(self.model)
        self.like = next(self.model.parameters())
        self.outputs = self._outputs()
        self.facts = facts_of(settings, self.loaded, self.outputs)
        self.fingerprint = fingerprint(self.facts)
        self._dense: dict[Grid, bool] = {}
        self.kept: list[Kept] = []  # of the last batch's pictures, where it depends on them: a bound
        sides = self.loaded.resolution or self.patch_px
        check_takes(self.model, sides, len(self.loaded.mean))
        depth = len(self.family.blocks(self.model))
        if settings.taps and settings.taps[-1] >= depth:
            raise PlanError(f"there is no layer {settings.taps[-1]} to tap: layers are 0 to {depth - 1}")

    def _outputs(self) -> tuple[str, ...]:
        names = [name.rpartition(".")[2] for name, _ in self.model.named_parameters()]
        has_class = self.prefix > 0 and any(name in CLASS_TOKENS for name in names)
        wanted = self.settings.outputs or (("pooled", "cls") if has_class else ("pooled",))
        if "cls" in wanted and not has_class:
            raise PlanError("this model has no class token: leave cls out, or take pooled")
        return wanted

    def key(self, data: bytes) -> str:
        """Of a picture's content, the plan, the preprocessing and the precision together."""
        return hashlib.blake2b(data, digest_size=16, key=self.fingerprint).hexdigest()

    def grid(self, data: bytes) -> Grid:
        """Rows and columns of patches that a picture becomes; ImagesError if it has no readable size."""
        if self.loaded.resolution:
            height, width = self.loaded.resolution
            return height // self.patch_px[0], width // self.patch_px[1]
        assert self.settings.max_tokens is not None
        return grid_within(pictures.size_of(data), self.patch_px, self.settings.max_tokens)

    def picture(self, data: bytes, grid: Grid) -> tuple[Tensor, tuple[int, int]]:
        """A picture as the model takes it at a grid, and its own height and width; or ImagesError."""
        size = grid[0] * self.patch_px[0], grid[1] * self.patch_px[1]
        return pictures.as_tensor(data, size, self.loaded.mean, self.loaded.std)

    @torch.inference_mode()
    def __call__(self, batch: Tensor, grid: Grid) -> dict[str, Tensor]:
        """Vectors (b, c) and maps (b, rows, columns, c) of pictures (b, 3, h, w), normalised."""
        images = batch.to(self.like.device, self.like.dtype)
        try:
            taking = outputs_of(self.model, self.settings.taps)
            with fused(self.model), taking as tapped, counted(self.model) as counts:
                if grid in self._dense:
                    tokens = self.family.features(self.model, images)
                else:
                    with dense_runs(self.model) as ran:
                        tokens = self.family.features(self.model, images)
                    # Under a bound this picture may be full, and the next one of the grid is not.
                    may_leave = any(share < 1 for least in counts.least for share in least.values())
                    self._dense[grid] = all(ran.values()) and not may_leave
                self.kept = counts.pictures
                taps = {layer: tapped[layer].flatten(1, -2) for layer in self.settings.taps}
        except (RuntimeError, AssertionError, ValueError) as error:
            raise SparsightError(_refused(error, len(batch), images.shape)) from error
        return self._emitted(tokens, taps, grid)

    def ran_dense(self, grid: Grid) -> bool:
        """Whether no layer was sparse at this grid; it must have been run."""
        return self._dense[grid]

    def _emitted(self, tokens: Tensor, taps: dict[int, Tensor], grid: Grid) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        patches = tokens[:, self.prefix :]
        if "pooled" in self.outputs:
            found["pooled"] = patches.float().mean(1)
        if "cls" in self.outputs:
            found["cls"] = tokens[:, 0].float()
        rest = {layer: tap[:, self.prefix :] for layer, tap in taps.items()}
        found |= {f"tap{layer}": tap.float().mean(1) for layer, tap in rest.items()}
        if "maps" in self.outputs:
            maps = {"map": patches} | {f"map_tap{layer}": tap for layer, tap in rest.items()}
            dtype = getattr(torch, self.settings.map_dtype)
            found |= {key: shaped(value, grid).to(dtype) for key, value in maps.items()}
        return {key: value.cpu() for key, value in found.items()}

    def widths(self) -> dict[str, int]:
        """How wide the tokens behind each vector are."""
        blocks = self.family.blocks(self.model)
        last = self.family.dim(blocks[len(blocks) - 1])
        final = {name: last for name in ("pooled", "cls") if name in self.outputs}
        return final | {f"tap{layer}": self.family.dim(blocks[layer]) for layer in self.settings.taps}

    def map_values(self, grid: Grid) -> int:
        """Numbers in all maps of a picture of this grid, counted on a black one."""
        if "maps" not in self.outputs:
            return 0
        height, width = (side * patch for side, patch in zip(grid, self.patch_px, strict=True))
        black = torch.zeros(1, len(self.loaded.mean), height, width, dtype=torch.float32, device="cpu")
        found = self(black, grid)
        return sum(value.numel() for value in found.values() if value.ndim == 4)


def shaped(tokens: Tensor, grid: Grid) -> Tensor:
    """(b, rows, columns, c) of (b, n, c); a pyramid is finer or coarser by a power of two."""
    for power in (0, 1, -1, 2, -2, 3, -3):
        rows, columns = (ceil(side * 2.0**power) for side in grid)
        if rows * columns == tokens.shape[1]:
            return tokens.reshape(len(tokens), rows, columns, -1)
    raise PlanError(f"{tokens.shape[1]} tokens are no map of {name(grid)} patches: leave maps out")


def _refused(error: Exception, batch: int, shape: torch.Size) -> str:
    text = (" ".join(str(error).split()) or type(error).__name__)[:160]
    size = name((shape[2], shape[3]))
    if "memory" in text.lower():
        return (
            f"out of memory with {batch} pictures of {size}: give a smaller --batch, or a smaller size"
        )
    return f"the model cannot run {batch} pictures of {size}: {text}"
