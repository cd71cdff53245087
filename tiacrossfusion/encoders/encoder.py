"""The encoder itself: preprocessing, batching and checks around a network."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from tiacrossfusion.encoders.network import EncoderNetwork
from tiacrossfusion.encoders.spec import EncoderSpec, Triple
from tiacrossfusion.encoders.weights import state_dict_sha256
from tiacrossfusion.errors import TiacfError, UsageError

#: Of the arithmetic inside the network; features are always stored as float16.
Precision = Literal["float32", "bfloat16", "float16"]

#: Batches on a GPU at once: one being computed, one being copied.
_IN_FLIGHT = 2


class Encoder:
    """Turns image batches into features.

    Made by `load_encoder`.

    Attributes:
        spec: what identifies these features.
        device: where it computes.
        precision: "float32" on the CPU; "float16" or "bfloat16" is torch's autocast.
    """

    def __init__(
        self,
        network: EncoderNetwork,
        *,
        mean: Triple | None = None,
        std: Triple | None = None,
        device: str | torch.device = "cpu",
        precision: str = "auto",
    ) -> None:
        """Move `network` to `device`; `mean` and `std` override its own."""
        self.device = torch.device(device)
        self.precision = _precision(precision, self.device)
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
        fixed size, the last of which is padded. On a GPU it may, in the last bits.

        Each core takes whole groups: torch's own threads wait for each other after every layer,
        which is several times slower when slides are read on the same cores. So give at least eight
        images for every core.

        Args:
            images: RGB, uint8, `(B, S, S, 3)`; any S that the network can take, resized (bicubic,
                antialiased) for a network of fixed input size.

        Returns:
            float16, `(B, E)`.

        Raises:
            ValueError: `images` has another dtype or shape.
            TiacfError: a feature is not finite, or too large for float16.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"images must be uint8 (B, S, S, 3), not {images.dtype} {images.shape}"
            )
        if images.shape[1] != images.shape[2]:
            raise ValueError(f"images must be square, not {images.shape[1]} x {images.shape[2]}")
        count = len(images)
        features = np.empty((count, self.spec.width), dtype=np.float16)
        group = self._micro_batch if self.device.type == "cpu" else max(count, 1)

        def compute(start: int) -> None:
            part = images[start : start + group]
            filled = len(part)
            if filled < group:
                padding = np.zeros((group - filled, *part.shape[1:]), dtype=np.uint8)
                part = np.concatenate([part, padding])
            with (
                torch.inference_mode(),
                torch.autocast(
                    self.device.type,
                    dtype=getattr(torch, self.precision),
                    enabled=self.precision != "float32",
                ),
            ):
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
            if self.precision == "float16":
                msg += ", or it needs the precision float32"
            raise TiacfError(msg)
        return features

    def encode_stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Compute the features of batches in order, as `encode` does.

        A GPU receives the next batch while it computes one, and does not wait for pixels or for the copy
        of features. On the CPU one batch takes all cores.

        Args:
            batches: images as `encode` takes them; read one or two ahead of the features given.
        """
        if self.device.type == "cpu":
            yield from map(self.encode, batches)
            return
        waiting: deque[Future[np.ndarray]] = deque()
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            for images in batches:
                waiting.append(pool.submit(self.encode, images))
                if len(waiting) == _IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _prepare(self, images: np.ndarray) -> torch.Tensor:
        """Normalise images: uint8 `(B, S, S, 3)` to float32 `(B, 3, S', S')` on the device."""
        batch = torch.from_numpy(np.ascontiguousarray(images))
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # from where it is sent without stopping what is computed
        batch = batch.to(self.device, non_blocking=True)
        batch = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=self._memory_format)
        if self._fixed_size is not None and batch.shape[-1] != self._fixed_size:
            size = (self._fixed_size, self._fixed_size)
            batch = F.interpolate(batch, size=size, mode="bicubic", antialias=True)
            batch.clamp_(0.0, 255.0)  # bicubic overshoots at edges
        return batch.mul_(self._scale).add_(self._shift)


def _precision(wanted: str, device: torch.device) -> Precision:
    """Return the precision on a device; "auto" is float16 on a GPU and float32 elsewhere."""
    if wanted == "auto":
        return "float16" if device.type == "cuda" else "float32"
    for known in get_args(Precision):
        if wanted == known and (known == "float32" or device.type == "cuda"):
            return known
        if wanted == known:
            raise UsageError(f"precision {wanted}: is for GPUs; use float32 on the device {device}")
    names = ", ".join(("auto", *get_args(Precision)))
    raise UsageError(f"precision {wanted}: not known; use one of {names}")
