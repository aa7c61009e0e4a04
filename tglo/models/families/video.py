"""What the families of video models share: latents (B, C, F, h, w)."""

from __future__ import annotations

from typing import ClassVar

from tglo.models.codecs import VideoCodec
from tglo.models.families.flow import FlowFamily


class VideoFamily(FlowFamily):
    """A flow-matching transformer of videos; an image is a video of one frame."""

    codec: VideoCodec
    codec_class = VideoCodec
    default_frames: ClassVar[int]
    frame_rate: ClassVar[float]
    """Frames per second of the videos that the model was trained on."""

    def latent_shape(self, height: int, width: int, frames: int | None = None) -> tuple[int, ...]:
        """Return (C, F, h, w); ValueError unless frames is a multiple of the VAE's step, and one."""
        frames = self.default_frames if frames is None else frames
        step = self.codec.temporal_scale
        if frames < 1 or (frames - 1) % step:
            near = max(0, round((frames - 1) / step)) * step + 1
            raise ValueError(
                f"frames is {frames}; for {self.name} it must be a multiple of {step} plus 1: {near} is "
                "the nearest"
            )
        return self.codec.shape(height, width, frames)
