"""SPOT's block while it is trained: no token leaves, but those that would are hidden from the others.

    p = 1 if r + a logit(rho) + c + noise > 0 else 0      stays or leaves; noise: two Gumbels' difference
    A_ij = p_j exp(S_ij) / sum over l of p_l exp(S_il)    DynamicViT's attention masking
    x' = x + p (block(x) - x)                             who has left keeps its last value

The hard choice makes the forward pass that of inference, with a threshold in place of a count; its
gradient is that of the sigmoid (straight-through).  a and c serve the training alone: rho moves all of
an image's tokens alike, so there is one ranking for every rho.  A hidden key has the weight HIDDEN in
place of 0, or no gradient would tell what seeing it would change.  log p is one more entry of the keys,
times 1 in the queries: attention stays the fused one, without N x N forward or backward.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from sparsight.inplace import Change
from sparsight.methods.site import Site
from sparsight.ops.dynamics import sampled_statistics
from sparsight.scores.relevance import described, relevance

CARRY = "_sparsight_policy"
HIDDEN = 1e-6
WIDER = 8  # entries that each head grows by, to hold one: fused attention wants multiples of this


@dataclass
class Draw:
    """What is drawn anew for every training step."""

    rho: float
    generator: torch.Generator  # on the CPU


@dataclass
class Policy:
    """What travels from block to block beside the tokens."""

    keep: Tensor  # (b, n): 1 or 0, with a gradient
    notes: dict[int, Tensor]  # layer -> (b, patches, f), of the tokens that were there


class PolicyBlock(Change):
    """Runs the host's block under the policy; what is trained is shared by all of them."""

    _sparsight: Site

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """All tokens as (b, n, c) or as the host has them, with a `Policy` beside them."""
        site, (x, host) = self._sparsight, self.bound(args, kwargs)
        config, family = site.config, site.family
        rows = x.flatten(1, -2)
        before: Policy | None = getattr(x, CARRY, None)
        keep = before.keep if before else rows.new_ones(rows.shape[:2])
        notes = before.notes if before else {}
        if site.layer in config.named_stages:
            keep = self._decided(rows, keep, notes)

        parts, attn = family.parts, family.parts.attention(self)
        tables = {k: host[k] for k in family.per_token if host.get(k) is not None}
        h = parts.norm(self, rows)
        q, k, v = parts.qkv(attn, h, **tables)
        if any(site.layer in config.noting(stage) for stage in config.named_stages):
            notes = notes | {site.layer: self._noted(q, k, keep)}
        out = policed_attention(q, k, v, keep).transpose(1, 2)
        new = parts.mlp(self, parts.residual(self, rows, parts.merge(attn, out, h)))
        whole = (rows + keep[..., None].to(new.dtype) * (new - rows)).view(x.shape)
        setattr(whole, CARRY, Policy(keep, notes))
        return whole

    def _here(self, keep: Tensor) -> list[Tensor]:
        """For each image, the places of the patch tokens that are still there."""
        return [image.nonzero()[:, 0] for image in keep.detach()[:, self._sparsight.prefix :] > 0.5]

    @torch.no_grad()
    def _noted(self, q: Tensor, k: Tensor, keep: Tensor) -> Tensor:
        """The statistics among the tokens still there, as at run time; zero for the others."""
        prefix, notes = self._sparsight.prefix, []
        always = torch.arange(prefix, device=q.device)
        for image, here in enumerate(self._here(keep)):
            seen = torch.cat([always, here + prefix])
            one, other = (x[image : image + 1].index_select(2, seen) for x in (q, k))
            found = sampled_statistics(one, other, prefix, self._sparsight.config.sample).flatten(2)[0]
            all_patches = found.new_zeros(q.shape[2] - prefix, found.shape[1])
            notes.append(all_patches.index_copy(0, here, found))
        return torch.stack(notes)

    def _decided(self, rows: Tensor, keep: Tensor, notes: dict[int, Tensor]) -> Tensor:
        """`keep` without the tokens that leave here.  The network reads tokens and cannot steer them."""
        site, (draw, networks) = self._sparsight, self._sparsight.shared
        *weights, (slope, offset) = networks[site.layer]
        patches = rows.detach()[:, site.prefix :]
        rho = torch.tensor(draw.rho, dtype=torch.float32, device=rows.device)
        uniform = torch.rand(
            patches.shape[:2], generator=draw.generator, dtype=torch.float32, device="cpu"
        ).to(rows.device)
        noise = torch.logit(uniform, 1e-6) + slope * torch.logit(rho, 1e-6) + offset
        stays = []
        for image, here in enumerate(self._here(keep)):
            earlier = [notes[layer][None, image, here] for layer in site.config.noting(site.layer)]
            read = described(patches[image : image + 1, here], earlier)
            soft = torch.sigmoid(relevance(read, *weights)[0] + noise[image, here])
            hard = ((soft > 0.5) | (soft == soft.max())).float()  # at least one stays
            # Who has left before counts as staying, so that the gradient of having left passes on.
            stays.append(torch.ones_like(noise[0]).index_copy(0, here, hard + soft - soft.detach()))
        return keep * torch.cat([keep.new_ones(len(keep), site.prefix), torch.stack(stays)], 1)


def policed_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """Attention (b, h, n, d) in which key j weighs keep_j (b, n), or HIDDEN where that is 0."""
    d = q.shape[-1]
    log = torch.log(keep + HIDDEN)[:, None, :, None].expand(-1, k.shape[1], -1, 1)
    ones = torch.ones_like(log)

    def wider(x: Tensor, entry: Tensor | None = None) -> Tensor:
        if entry is None:
            return pad(x, (0, WIDER))
        return pad(torch.cat([x, entry.to(x.dtype)], -1), (0, WIDER - 1))

    out = scaled_dot_product_attention(wider(q, ones), wider(k, log * d**0.5), wider(v), scale=d**-0.5)
    return out[..., :d]
