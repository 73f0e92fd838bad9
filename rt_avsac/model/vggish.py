"""VGGish audio encoder (arXiv 1609.09430): log-mel picture to a 6x4 grid of cells, and the 128-d embedding of them."""

from __future__ import annotations

from torch import Tensor, nn

from rt_avsac.errors import ModelError
from rt_avsac.model.log_mel import NUM_MELS, LogMel

NUM_FRAMES = 96
WIDTHS: tuple[int | None, ...] = (64, None, 128, None, 256, 256, None, 512, 512, None)  # None = 2x2 maximum
EMBEDDING_HIDDEN = 4096


class Vggish(nn.Module):
    """audio [B, 15600], or the log-mel patches [B, 1, 96, 64] of AVSBench → cells [B, 512, 6, 4] (time x frequency).

    `summary(cells)` is the published 128-d embedding. Keys are torchvggish's.
    """

    grid = (6, 4)
    cell_dim = 512
    dim = 128

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel(offset=0.01)
        layers: list[nn.Module] = []
        channels = 1
        for width in WIDTHS:
            if width is None:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        num_cells = self.grid[0] * self.grid[1]
        self.embeddings = nn.Sequential(
            nn.Linear(num_cells * self.cell_dim, EMBEDDING_HIDDEN),
            nn.ReLU(),
            nn.Linear(EMBEDDING_HIDDEN, EMBEDDING_HIDDEN),
            nn.ReLU(),
            nn.Linear(EMBEDDING_HIDDEN, self.dim),
            nn.ReLU(),
        )

    def forward(self, audio: Tensor) -> Tensor:
        picture = self.log_mel(audio) if audio.dim() == 2 else audio
        if picture.shape[1:] != (1, NUM_FRAMES, NUM_MELS):
            raise ModelError(
                f"VGGish: log-mel patch asked [1, {NUM_FRAMES}, {NUM_MELS}], got {list(picture.shape[1:])}"
            )
        return self.features(picture)

    def summary(self, cells: Tensor) -> Tensor:
        """[B, 128]; the published weights read the cells channels-last."""
        return self.embeddings(cells.permute(0, 2, 3, 1).flatten(1))
