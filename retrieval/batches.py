"""The batches that networks learn from."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from retrieval.augment import augment
from retrieval.backbones import as_backbone
from retrieval.config import AugmentConfig
from retrieval.labeled_images import LabeledImages
from retrieval.network import Network
from retrieval.processes import Processes
from retrieval.run_config import TrainClassifyConfig, TrainEmbedConfig
from retrieval.sampling import class_balanced_batches, shuffled_batches
from retrieval.training import step_generator


class PictureBatches:
    """Augmented batches of pictures, those of the next step read meanwhile.

    ``draw`` gives the rows of an epoch's batches, int64 (steps,B). All that is random depends on
    seed, epoch and step alone. In the first ``small_epochs`` pictures have a smaller side (Howard,
    "Training Imagenet in 3 hours", fast.ai, 2018: progressive resizing).
    """

    def __init__(
        self,
        data: LabeledImages,
        draw: Callable[[np.random.Generator], np.ndarray],
        network: Network,
        device: torch.device,
        *,
        augmentation: AugmentConfig,
        seed: int,
        small_epochs: int = 0,
        views: int = 1,
        processes: Processes | None = None,
    ) -> None:
        self.data, self.draw, self.device = data, draw, device
        self.small_epochs, self.small_side = small_epochs, small_side(network)
        self.augmentation, self.seed, self.views = augmentation, seed, views
        self.processes = processes or Processes()
        self.standardise = network.standardise
        rng = np.random.default_rng(seed)
        self.coins = rng.integers(0, 2, len(data)).astype(bool)
        self.epoch, self.rows = 0, self._rows(0)
        self.steps = len(self.rows)
        self.reader = ThreadPoolExecutor(1)
        self.ahead: tuple[tuple[int, int], Future[np.ndarray] | None] = ((-1, -1), None)

    def _rows(self, epoch: int) -> np.ndarray:
        return self.draw(np.random.default_rng((self.seed, epoch)))

    def _pixels(self, epoch: int, step: int, rows: np.ndarray) -> np.ndarray:
        """The pictures of these rows; those of the next step are read meanwhile.

        Pictures that are mapped from disk so arrive while the network computes.
        """
        place, reading = self.ahead
        pixels = reading.result() if reading and place == (epoch, step) else self.data.images[rows]
        self.ahead = ((epoch, step + 1), None)
        if step + 1 < self.steps:
            following = np.tile(self.rows[step + 1], self.views)
            following = following[self.processes.share(len(following))]
            self.ahead = (
                (epoch, step + 1), self.reader.submit(self.data.images.__getitem__, following)
            )  # fmt: skip
        return pixels

    def _mirrored(self, rows: np.ndarray, epoch: int) -> Tensor:
        """Which of these are mirrored: in every other epoch, and every other view, bool (V·B,).

        So a picture is seen both ways in turn. Source: arXiv 2404.00498, §3.6.
        """
        view = np.arange(len(rows)) // (len(rows) // self.views)
        flipped = self.coins[rows] ^ ((epoch + view) % 2 == 1)
        return torch.from_numpy(flipped).to(self.device)

    def pictures(self, epoch: int, step: int) -> tuple[Tensor, np.ndarray]:
        """Standardised pictures (this process's share of the batch), and the rows of all of it."""
        if epoch != self.epoch:
            self.epoch, self.rows = epoch, self._rows(epoch)
        rows = np.tile(self.rows[step], self.views)
        share = self.processes.share(len(rows))
        pixels = self._pixels(epoch, step, rows[share])
        # One generator for augmentation, another (of fit) for mining: each stays what it is when
        # the other draws more.
        generator = step_generator(self.seed + 1, epoch, step)
        images = torch.from_numpy(pixels).to(self.device)
        images = augment(
            images.permute(0, 3, 1, 2), self.augmentation, generator,
            batch=len(rows), first=share.start, mirrored=self._mirrored(rows, epoch)[share],
        )  # fmt: skip
        if epoch < self.small_epochs:
            images = interpolate(images, (self.small_side,) * 2, mode="bilinear", antialias=True)
        return self.standardise(images), rows


def small_epochs(config: TrainEmbedConfig | TrainClassifyConfig) -> int:
    """How many epochs, the first, see small pictures."""
    return int(config.small_first * config.fit.epochs)


def small_side(network: Network) -> int:
    """Three quarters of the side of a network's pictures, but no less than its backbone can take."""
    smallest = as_backbone(network.backbone).smallest
    return max(round(0.75 * network.spec.image_size), smallest)


class EmbedBatches(PictureBatches):
    """Standardised pictures (V·B,3,S,S), and what makes two of them positives."""

    def __init__(
        self,
        data: LabeledImages,
        config: TrainEmbedConfig,
        network: Network,
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        by_class = config.pairs == "classes"
        self.targets = data.labels if by_class else np.arange(len(data), dtype=np.int64)

        def draw(rng: np.random.Generator) -> np.ndarray:
            if by_class:
                return class_balanced_batches(
                    self.targets, config.classes_per_batch, config.batch_size, rng
                )
            return shuffled_batches(len(data), config.batch_size, rng)

        super().__init__(
            data, draw, network, device, augmentation=config.augment, seed=config.fit.seed,
            small_epochs=small_epochs(config), views=config.views,
            processes=processes,
        )  # fmt: skip

    def __call__(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        images, rows = self.pictures(epoch, step)
        return images, torch.from_numpy(self.targets[rows]).to(self.device)


class ClassBatches(PictureBatches):
    """Standardised pictures (B,C,S,S), and the share of each class in each, float32 (B,L)."""

    def __init__(
        self,
        data: LabeledImages,
        config: TrainClassifyConfig,
        network: Network,
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        self.mixup, self.cutmix = config.mixup, config.cutmix
        super().__init__(
            data, lambda rng: shuffled_batches(len(data), config.batch_size, rng), network, device,
            augmentation=config.augment, seed=config.fit.seed,
            small_epochs=small_epochs(config), processes=processes,
        )  # fmt: skip

    def __call__(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        images, rows = self.pictures(epoch, step)
        labels = torch.from_numpy(self.data.labels[rows])
        targets = torch.nn.functional.one_hot(labels, len(self.data.classes)).float()
        targets = targets.to(self.device)
        if self.mixup or self.cutmix:
            return self._mixed(images, targets, np.random.default_rng((self.seed, 1, epoch, step)))
        return images, targets

    def _mixed(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Each picture with another one of its process's share; one share of mixing for a batch.

        Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", §2; Yun et al., "CutMix",
        §3.1 (the box is cut off at the border, and labels are mixed by the area that is left).
        """
        processes, each = self.processes, len(images)
        # The order within every share, because labels of the whole batch are mixed everywhere.
        orders = np.concatenate(
            [rank * each + rng.permutation(each) for rank in range(processes.size)]
        )
        own = processes.share(len(targets))
        others = images[torch.from_numpy(orders[own] - own.start).to(self.device)]
        cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        kept = float(rng.beta(alpha, alpha))
        if cut:
            side = images.shape[2]
            span = side * np.sqrt(1 - kept)
            low, high = [], []
            for centre in rng.uniform(0, side, 2):
                low.append(int(max(round(centre - span / 2), 0)))
                high.append(int(min(round(centre + span / 2), side)))
            images = images.clone()
            box = (slice(None), slice(None), slice(low[0], high[0]), slice(low[1], high[1]))
            images[box] = others[box]
            kept = 1 - (high[0] - low[0]) * (high[1] - low[1]) / side**2
        else:
            images = kept * images + (1 - kept) * others
        return images, kept * targets + (1 - kept) * targets[torch.from_numpy(orders)]
