"""The encoder itself: preprocessing, batching and checks around a network."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from tiacrossfusion.encoders.network import Network
from tiacrossfusion.encoders.spec import EncoderSpec, Triple
from tiacrossfusion.encoders.weights import state_dict_sha256
from tiacrossfusion.errors import TiacfError


class Encoder:
    """Turns image batches into features.

    Made by `load_encoder`.

    Attributes:
        spec (EncoderSpec):
            What identifies these features.
        device (torch.device):
            Where it computes.
    """

    def __init__(
        self,
        network: Network,
        *,
        mean: Triple | None = None,
        std: Triple | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Move `network` to `device`; `mean` and `std` override its own."""
        self.device = torch.device(device)
        self.spec: EncoderSpec = network.spec(
            weights_sha256=state_dict_sha256(network.module), mean=mean, std=std
        )
        self._fixed_size = network.fixed_size
        self._micro_batch = network.micro_batch
        self._module = network.module.eval().requires_grad_(requires_grad=False).to(self.device)
        self._memory_format = torch.contiguous_format
        if self.device.type == "cuda":
            # cuDNN's convolutions are fastest in this layout; it does nothing to transformers.
            self._memory_format = torch.channels_last
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        scale = 1.0 / (255.0 * torch.tensor(self.spec.std, dtype=torch.float64))
        shift = -torch.tensor(self.spec.mean, dtype=torch.float64) * 255.0 * scale
        self._scale = scale.float().view(3, 1, 1).to(self.device)
        self._shift = shift.float().view(3, 1, 1).to(self.device)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Compute the features of a batch.

        On the CPU the result does not depend, to the bit, on how many images come at once:
        libraries choose other kernels for other batch sizes, so all images pass in groups of one
        fixed size, the last of which is padded. Each core takes whole groups: torch's own threads
        wait for each other after every layer, which is several times slower when slides are read
        on the same cores. So give at least eight images for every core.

        Args:
            images (np.ndarray):
                RGB, uint8, `(B, S, S, 3)`; any S that the network can take, resized (bicubic,
                antialiased) for a network of fixed input size.

        Returns:
            np.ndarray:
                float16, `(B, E)`.

        Raises:
            ValueError:
                When `images` has another dtype or shape.
            TiacfError:
                When a feature is not finite, or too large for float16.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            msg = f"images must be uint8 (B, S, S, 3), not {images.dtype} {images.shape}"
            raise ValueError(msg)
        if images.shape[1] != images.shape[2]:
            msg = f"images must be square, not {images.shape[1]} x {images.shape[2]}"
            raise ValueError(msg)
        count = len(images)
        features = np.empty((count, self.spec.width), dtype=np.float16)
        group = self._micro_batch if self.device.type == "cpu" else max(count, 1)

        def compute(start: int) -> None:
            part = images[start : start + group]
            filled = len(part)
            if filled < group:
                padding = np.zeros((group - filled, *part.shape[1:]), dtype=np.uint8)
                part = np.concatenate([part, padding])
            with torch.inference_mode():
                result = self._module(self._prepare(part))
                features[start : start + filled] = result[:filled].half().cpu().numpy()

        starts = range(0, count, group)
        cores = torch.get_num_threads()
        if self.device.type == "cpu" and cores > 1:
            # A lone group too: shared among cores it could differ in the last bit.
            try:
                with ThreadPoolExecutor(
                    max_workers=cores, initializer=torch.set_num_threads, initargs=(1,)
                ) as pool:
                    list(pool.map(compute, starts))
            finally:
                torch.set_num_threads(cores)  # the workers' setting is taken up by new threads
        else:
            for start in starts:
                compute(start)
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features)).any(axis=1).sum())
            msg = (
                f"encoder {self.spec.name}: {bad} of {count} patches gave features that are not "
                "finite in float16; its weights may be damaged or its mean and std wrong"
            )
            raise TiacfError(msg)
        return features

    def _prepare(self, images: np.ndarray) -> torch.Tensor:
        """From uint8 `(B, S, S, 3)` to normalised `(B, 3, S', S')` on the device."""
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        batch = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=self._memory_format)
        if self._fixed_size is not None and batch.shape[-1] != self._fixed_size:
            size = (self._fixed_size, self._fixed_size)
            batch = F.interpolate(batch, size=size, mode="bicubic", antialias=True)
            batch.clamp_(0.0, 255.0)  # bicubic overshoots at edges
        return batch.mul_(self._scale).add_(self._shift)
