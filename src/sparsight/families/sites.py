"""The family of a model that no file describes: where it attends, found by one dry run.

That is all that sparse attention, its maps and reuse groups need.  A layer here is a place that attends,
in the order of the forward pass; its block is what stands around it in the model's list of layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sparsight.families.base import Family
from sparsight.families.by_hand import calling
from sparsight.families.calls import heads_of
from sparsight.families.final import final_rows
from sparsight.families.found import NOTHING, Found, Site
from sparsight.families.parts import Host, Parts
from sparsight.families.window_blocks import PARTS, rows_of, windows_of

if TYPE_CHECKING:
    from torch import Tensor

NAME = "sites"


@dataclass(frozen=True)
class SiteFamily(Family):
    """A family of one model."""

    found: Found = NOTHING
    has_blocks: ClassVar[bool] = False

    def __reduce__(self) -> Any:
        """Copied and pickled as what was found."""
        return family_from, (self.found,)

    def global_layers(self, model: Host) -> tuple[int, ...]:
        """The sites that see a whole picture."""
        return tuple(layer for layer, site in enumerate(self.found.sites) if site.whole)

    def reads_tokens(self, layer: int) -> bool:
        """As the dry run saw it."""
        return self.found.sites[layer].reads_tokens

    def projection(self, model: Host, layer: int) -> str:
        """As the dry run saw it."""
        return self.found.sites[layer].projection

    def kind_of(self, model: Host) -> str:
        """The class that the dry run was of."""
        return self.found.kind


def family_from(found: Found) -> SiteFamily:
    """The family that `found` describes."""
    inside = tuple(dict.fromkeys(_inside(site) for site in found.sites))

    def attention(block: Host) -> Host:
        for path in inside:
            try:
                return block.get_submodule(path)
            except AttributeError:
                continue
        raise AttributeError(f"{type(block).__name__} has none of {inside}")

    def features(model: Host, pictures: "Tensor") -> "Tensor":
        last = found.sites[-1]
        return final_rows(model, pictures, model.get_submodule(last.block), last.dim, found.flat)

    def blocks(model: Host) -> list[Any]:
        return [model.get_submodule(site.block) for site in found.sites]

    return SiteFamily(
        name=NAME, library="", verified_with="", examples="", kinds=(), requirements=(), sparse="",
        refused="", blocks=blocks,
        dim=lambda block: _first(attention(block).modules(), "in_features"),
        heads=lambda block: heads_of(attention(block)) or found.sites[0].heads,
        prefix_tokens=lambda m: found.prefix, patch_px=lambda m: found.patch_px,
        parts=Parts(attention=attention, **PARTS), features=features, found=found,
        rows=rows_of, lean=calling,
        windows=windows_of(blocks) if any(site.windowed for site in found.sites) else None,
    )  # fmt: skip


def _inside(site: Site) -> str:
    return site.path.removeprefix(site.block).removeprefix(".")


def _first(modules: Iterable[Host], *names: str) -> int:
    """The first of the named attributes that one of the modules has; 0 if none."""
    return next((int(getattr(m, name)) for m in modules for name in names if hasattr(m, name)), 0)
