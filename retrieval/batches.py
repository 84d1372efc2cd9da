"""The batches that an embedder learns from."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from retrieval.augment import augment
from retrieval.config import TrainEmbedConfig
from retrieval.datasets import LabeledImages
from retrieval.embedder import Embedder
from retrieval.processes import Processes
from retrieval.sampling import class_balanced_batches, shuffled_batches
from retrieval.training import step_generator


class EmbedBatches:
    """Augmented batches: standardised pictures (V·B,3,S,S) and what makes two of them positives."""

    def __init__(
        self,
        data: LabeledImages,
        config: TrainEmbedConfig,
        embedder: Embedder,
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        self.data, self.config, self.device = data, config, device
        self.processes = processes or Processes()
        self.standardise = embedder.standardise
        self.by_class = config.pairs == "classes"
        self.targets = data.labels if self.by_class else np.arange(len(data), dtype=np.int64)
        rng = np.random.default_rng(config.fit.seed)
        self.coins = rng.integers(0, 2, len(data)).astype(bool)
        self.epoch, self.rows = 0, self._rows(0)
        self.steps = len(self.rows)
        self.reader = ThreadPoolExecutor(1)
        self.ahead: tuple[tuple[int, int], Future[np.ndarray] | None] = ((-1, -1), None)

    def _rows(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.config.fit.seed, epoch))
        size = self.config.batch_size
        if self.by_class:
            return class_balanced_batches(self.targets, self.config.classes_per_batch, size, rng)
        return shuffled_batches(len(self.data), size, rng)

    def _pixels(self, epoch: int, step: int, rows: np.ndarray) -> np.ndarray:
        """The pictures of these rows; those of the next step are read meanwhile.

        Pictures that are mapped from disk so arrive while the network computes.
        """
        place, reading = self.ahead
        pixels = reading.result() if reading and place == (epoch, step) else self.data.images[rows]
        self.ahead = ((epoch, step + 1), None)
        if step + 1 < self.steps:
            following = np.tile(self.rows[step + 1], self.config.views)
            following = following[self.processes.share(len(following))]
            self.ahead = (
                (epoch, step + 1), self.reader.submit(self.data.images.__getitem__, following)
            )  # fmt: skip
        return pixels

    def _mirrored(self, rows: np.ndarray, epoch: int) -> Tensor:
        """Which of these are mirrored: in every other epoch, and every other view, bool (V·B,).

        So a picture is seen both ways in turn. Source: arXiv 2404.00498, §3.6.
        """
        view = np.arange(len(rows)) // (len(rows) // self.config.views)
        flipped = self.coins[rows] ^ ((epoch + view) % 2 == 1)
        return torch.from_numpy(flipped).to(self.device)

    def __call__(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        if epoch != self.epoch:
            self.epoch, self.rows = epoch, self._rows(epoch)
        rows = np.tile(self.rows[step], self.config.views)
        share = self.processes.share(len(rows))
        pixels = self._pixels(epoch, step, rows[share])
        # One generator for augmentation, another (of fit) for mining: each stays what it is when
        # the other draws more.
        generator = step_generator(self.config.fit.seed + 1, epoch, step)
        images = torch.from_numpy(pixels).to(self.device)
        images = augment(
            images.permute(0, 3, 1, 2), self.config.augment, generator,
            batch=len(rows), first=share.start, mirrored=self._mirrored(rows, epoch)[share],
        )  # fmt: skip
        targets = torch.from_numpy(self.targets[rows]).to(self.device)
        return self.standardise(images), targets
