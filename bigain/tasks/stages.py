"""Classification in stages, each of which tries more timesteps with the classes that are left.

These are the classes of lowest error so far (Li et al. 2023, arXiv 2303.16203).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from bigain.backbones.base import Backbone
from bigain.compression.batch_groups import Groups, full_batches, whole_groups
from bigain.compression.compilation import is_compiled
from bigain.compression.sharing import Sharing
from bigain.errors import NotFiniteError
from bigain.tasks.trials import Classified, Prepared, Scores, denoising_errors, mean_errors


@dataclass(frozen=True)
class Stages:
    """What all images are classified on.

    Attributes:
        sharing: on the backbone, with the condition of each of the K classes.
        loss: see `bigain.tasks.trials.LOSSES`.
        times: the timestep of each of the S noises, [S] in the order of the stages.
        weights: what the errors at each of them are multiplied by, float32 [S].
        sizes: the number of noises that each stage adds.
        keep: the number of classes that remain after each stage; the last is 1, the prediction.
        cascade: whether the last stage leaves the compressor out, and decides by its own timesteps
            alone.
        batch_size: evaluations per forward pass; those of all images are packed together.
        smallest_batch: what smaller batches are padded to.
    """

    backbone: Backbone
    sharing: Sharing
    loss: str
    times: Tensor
    weights: Tensor
    sizes: Sequence[int]
    keep: Sequence[int]
    cascade: bool
    batch_size: int
    smallest_batch: int = 1

    @torch.inference_mode()
    def run(
        self,
        latents: Tensor,
        noise: Tensor,
        keys: Tensor | None = None,
        evaluated: Callable[[int], None] = lambda count: None,
    ) -> Scores:
        """Classify I images.

        Args:
            latents: float32 [I, c, h, w].
            noise: float32 [I, S, c, h, w], in the order of the stages.
            keys: int64 [I], the images' keys for random compressors.
            evaluated: is told of evaluations as they are computed.

        Raises:
            NotFiniteError: if the model returns NaN or infinity.
        """
        device, images, classes = latents.device, len(latents), self.sharing.classes
        trials = torch.full((images, classes, len(self.times)), torch.nan, device=device)
        alive = torch.arange(classes, device=device).expand(images, classes)
        decisive = len(self.times) - self.sizes[-1] if self.cascade else 0
        end = 0
        for size, keep in zip(self.sizes, self.keep, strict=True):
            start, end = end, end + size
            draws = torch.arange(start, end, device=device)
            finite = torch.ones((), dtype=torch.bool, device=device)
            with self.sharing.uncompressed() if decisive and start == decisive else nullcontext():
                for places, errors in self._tried(latents, noise, keys, draws, alive):
                    trials[places] = errors
                    finite &= errors.isfinite().all()
                    evaluated(len(errors))
            if not finite:  # the first wait for the device in the stage
                raise NotFiniteError
            means = mean_errors(trials, decisive).gather(1, alive)
            best = means.topk(min(keep, alive.shape[1]), dim=1, largest=False, sorted=True).indices
            alive = alive.gather(1, best)
        return Scores(trials, alive[:, 0], decisive)

    def in_groups(
        self, prepared: Iterable[Prepared], evaluated: Callable[[int], None]
    ) -> Iterator[Classified]:
        """`run` on images that are prepared several at a time."""
        for ids, labels, latents, noise, keys in prepared:
            yield ids, labels, self.run(latents, noise, keys, evaluated)

    def _tried(
        self, latents: Tensor, noise: Tensor, keys: Tensor | None, draws: Tensor, alive: Tensor
    ) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Tensor]]:
        """Try the classes that are left, int64 [I, A], with each of the noises ``draws``.

        Yields:
            The places of a batch's trials among all, [I, K, S], and their weighted errors,
            float32 [B].
        """
        device, images, size = latents.device, len(latents), alive.shape[1]
        # evaluations in the order (image, timestep, class), so that neighbours share their input
        shape = (images, len(draws), size)
        i = torch.arange(images, device=device).view(-1, 1, 1).expand(shape).flatten()
        s = draws.view(1, -1, 1).expand(shape).flatten()
        k = alive.unsqueeze(1).expand(shape).flatten()
        # a compiled model takes one shape
        compiled = is_compiled(self.backbone.denoiser)
        smallest = max(self.smallest_batch, self.batch_size if compiled else 1)
        cuts = whole_groups if self.sharing.plans_together else full_batches
        for cut in cuts(images * len(draws), size, self.batch_size, device):
            new = slice(cut.repeated, len(cut.places))
            cut = cut.padded(smallest)  # those added are not looked at
            ii, ss, kk = (v[cut.places] for v in (i, s, k))
            errors = denoising_errors(
                self.backbone,
                self.sharing,
                self.loss,
                latents[ii],
                noise[ii, ss],
                self.times[ss],
                kk,
                Groups.runs(cut.start, len(ii), size, device, self.smallest_batch),
                None if keys is None else keys[ii],
                cut.together,
            )
            yield (ii[new], kk[new], ss[new]), errors[new] * self.weights[ss[new]]
