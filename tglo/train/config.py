"""The configuration of a training run: frozen dataclasses, filled from TOML and from flags."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tglo.objectives import OBJECTIVES
from tglo.settings import BaseWeights, LongPrompts, ModelOptions

if TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[tuple(OBJECTIVES)]


@dataclass(frozen=True)
class ModelConfig:
    """The model, and those of its weights that are trained."""

    path: str = ""
    """Pipeline: a folder or a .safetensors file (leading ./ or /, or path:FOLDER), or a hub id."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    config: str | None = None
    """Diffusers folder (leading ./ or /) or hub id with what a .safetensors file does not hold: tokenizers,
    configurations, missing parts; by default the repository of its family on the hub."""
    variant: str | None = None
    """Weights that are read where a folder or hub model has several, such as fp16; by default the plain ones."""
    long_prompts: LongPrompts = "cut"
    """Prompts beyond a CLIP text encoder's 75 tokens (SD1.x, SD2.x, SDXL): cut, or encoded in chunks of 75."""
    prompt_chunks: int = 3
    """Of long_prompts = chunks: chunks that every prompt has; what is beyond them is cut."""
    train: Literal["full", "lora"] = "lora"
    """Train all weights of the denoiser, or a LoRA on its attention layers."""
    lora_rank: int = 16
    """Rank of the LoRA matrices."""
    lora_alpha: float = 16.0
    """LoRA scale is alpha / rank."""
    lora_dropout: float = 0.0
    """Dropout on the LoRA's input."""
    lora: Path | None = None
    """LoRA (file or folder, in diffusers' or kohya's layout) that training starts from, with its own rank and
    alpha."""
    lora_reference: Literal["start", "base"] = "start"
    """start: the reference has that LoRA too, as where the images were made with it; base: it is the bare
    model."""
    base_weights: BaseWeights = "default"
    """How the frozen weights below a LoRA are kept: default (fp32 in one process, as engine.precision
    with DeepSpeed), half (always as engine.precision), int8 or nf4 (8 or 4 bits, by bitsandbytes)."""
    gradient_checkpointing: Literal["none", "selective", "full", "auto"] = "none"
    """Recompute activations in the backward: full keeps only the blocks' inputs, selective also the
    results of matrix products, convolutions and attention; auto tries none, selective, full and
    takes the first that fits in the GPU's memory (on the CPU none)."""
    attention: str = "default"
    """default (the model's own), sdpa (PyTorch's), cudnn, xformers, flash3 (FlashAttention-3) or
    another name of diffusers' attention backends; it is tried before training."""

    @property
    def loading(self) -> ModelOptions:
        """How the model is found, as the other commands have it."""
        return ModelOptions(self.config, self.variant, self.long_prompts, self.prompt_chunks)


@dataclass(frozen=True)
class DataConfig:
    """The scored images and what was computed from them beforehand."""

    manifest: Path = Path()
    """CSV, JSONL, parquet, a saved data set or webdataset shards with prompt, image and score; a folder of
    images with captions, or hf://datasets/OWNER/NAME."""
    cache: Path = Path()
    """Folder that `tglo cache` made from this manifest and model."""
    threshold: Path | None = None
    """File that `tglo threshold` wrote; without one it is estimated from the manifest."""
    baseline: Literal["percentile", "mean", "oracle", "ridge"] = "percentile"
    """What a score is compared with, if the threshold is estimated here: a percentile, as published; the
    mean; oracle, the mean of each prompt's scores, shrunk as far as they tell (one image a prompt:
    ridge); ridge, a regression on the cached embeddings."""
    percentile: float = 50.0
    """Percentile of the scores for the threshold, if it is estimated here."""
    score_scale: Literal["none", "std", "mad", "iqr"] = "none"
    """Unit of the distance from the threshold, if it is estimated here."""
    per_prompt: bool = False
    """A percentile for each prompt, shrunk towards the global one, if it is estimated here."""
    kappa: float = 10.0
    """Strength of that shrinkage, in samples."""
    prompt_column: str = "prompt"
    image_column: str = "image"
    score_column: str = "score"
    root: Path | None = None
    """Folder that the images lie in, if not the manifest's; relative paths start there, or beside the
    manifest where this folder has no such file."""
    score_pattern: str | None = None
    """Where file names of an image folder have their scores, as "*_{score}" for cat_7.5.png."""
    caption_dropout: float = 0.1
    """Share of draws trained on the empty prompt, for classifier-free guidance."""
    reference_cache: Path | None = None
    """Folder that `tglo cache --reference` made, for objective.reference = cached; CACHE/reference
    by default."""
    draws: int = 0
    """Draws (timestep, noise) of each sample, gone through in turn, one an epoch; 0: a new one each
    epoch, or as many as the reference cache has."""
    stratified: bool | None = None
    """Let a sample's draws cover the schedule evenly; by default as the reference cache
    has it, else no."""
    timesteps: str = "default"
    """How often each timestep is drawn: as the model's authors did, or "uniform", "logit_normal(MEAN, STD)",
    "shift(S)", "resolution"."""
    guidance: float | None = None
    """What a guidance-distilled model (FLUX.1 dev) is told in training; the family's own by default."""
    draws_of: Literal["sample", "prompt"] = "sample"
    """Draws of each sample's own, or one for all samples of a prompt: a reference can then be cached for
    pairs and groups too."""
    noise: Literal["fresh", "own"] = "fresh"
    """A new noise in each draw, or, for images that `tglo generate` made with a flow-matching model, the
    noise that each was made from."""
    verify: bool = True
    """Compare the cache's files with their checksums, in the background; awaited before the first
    checkpoint."""
    draw_seed: int | None = None
    """Seed of timesteps, noise, latents and dropped captions; the run's seed by default. Runs that
    share it share a reference cache."""


@dataclass(frozen=True)
class SharedObjectiveConfig:
    """The keys of [objective] that objectives share."""

    name: ObjectiveName = "tgo"
    """tgo; of single samples also sft (on those at or above the threshold), csft (on all, with marked
    prompts), kto (Diffusion-KTO), bco, qrpo; of pairs dpo (Diffusion-DPO), sdpo, dspo; of groups lair."""
    beta: float | Literal["default"] = "default"
    """Strength of the implicit score r = beta * log-ratio (beta): a number, or the objective's
    default, 1 (qrpo: 0.1)."""
    temperature: float | Literal["auto", "default"] = "default"
    """Scale of the squared errors (T): a number, auto (measured), or the objective's published value
    (dpo, dspo), else the model family's default."""
    confidence: float | Literal["inf"] = 5.0
    """Weight of the distance from the threshold, w = 1 + c |s - tau| (c); of inf w = |s - tau|."""
    weight_normalisation: bool = False
    """Divide the weights w by their mean over the data set."""
    balance: bool = False
    """Scale the weights w so that samples at or above the threshold and the others have the same total."""
    group: int | Literal["default"] = "default"
    """Samples of one prompt that come together in a micro batch; by default the objective's own number, 1
    (of pairs 2, lair 4)."""
    share_draws: bool = True
    """Give the samples of a pair or group one timestep, noise and dropped caption; else each has its own."""
    timestep_weight: Literal["none", "min_snr", "sigma_sqrt", "cosmap"] = "none"
    """Weight of a timestep (omega_t): min_snr by the signal-to-noise ratio; of flow matching also
    sigma_sqrt (1 / sigma^2, at most 100) and cosmap."""
    min_snr_gamma: float = 5.0
    """Cap of the signal-to-noise ratio for min_snr."""
    reference: Literal["auto", "copy", "adapter-off", "cached"] = "auto"
    """Frozen second copy, the policy with its LoRA switched off, or errors that `tglo cache
    --reference` stored (no second model and no second forward); auto: copy or adapter-off, by what is
    trained."""
    update_reference_every_epoch: bool = False
    """Replace the reference by the policy at each epoch's end (needs reference = copy)."""
    backend: str = "auto"
    """Backend of the fused loss."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "confidence", float(self.confidence))  # JSON has no inf, but "inf"

    @property
    def group_size(self) -> int:
        """The number of samples of one prompt that come together."""
        return OBJECTIVES[self.name].group_size(self.group)

    @property
    def unit(self) -> Literal["rows", "pairs", "groups"]:
        """The word for what comes together."""
        if OBJECTIVES[self.name].takes_pairs:
            return "pairs"
        return "rows" if self.group_size == 1 else "groups"

    @property
    def shared_draws(self) -> bool:
        """Whether samples share their draws, which a cached reference does not know."""
        return self.share_draws and self.group_size > 1

    @property
    def constants(self) -> Any:
        """The chosen objective's own constants; None if it has none."""
        return getattr(self, self.name, None)

    @property
    def markers(self) -> tuple[str, str] | None:
        """The texts before the prompts of good and of bad samples, of an objective that has them."""
        return OBJECTIVES[self.name](constants=self.constants).markers

    @property
    def prompt_prefix(self) -> str:
        """The text before each prompt that the trained model is sampled with: csft's good marker."""
        markers = self.markers
        return markers[0] if markers else ""


if TYPE_CHECKING:
    ObjectiveConfig = SharedObjectiveConfig
else:
    ObjectiveConfig = make_dataclass(
        "ObjectiveConfig",
        [
            (name, kind.constants_type, field(default_factory=kind.constants_type))
            for name, kind in OBJECTIVES.items()
            if fields(kind.constants_type)
        ],
        bases=(SharedObjectiveConfig,),
        frozen=True,
        namespace={
            "__module__": __name__,
            "__doc__": "The loss and its constants; the paper's symbols in brackets.",
        },
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    """AdamW keeps 8 bytes of state per trained weight, adamw8bit (of bitsandbytes) 2, adafactor
    next to none; adafactor uses neither beta1, beta2 nor epsilon."""
    steps: int = 1000
    """Optimizer updates in all."""
    learning_rate: float = 1e-5
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay to zero (linear, cosine) or none; the last iterate of a constant rate is noisy."""
    warmup_steps: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm; 0 switches clipping off."""
    micro_batch: int = 4
    """Samples per process and forward pass; of pairs twice their number, of groups a multiple of their size."""
    accumulation: int = 1
    """Forward passes per update; global batch = micro_batch * accumulation * processes."""
    ema_decay: float = 0.0
    """Exponential moving average of the trained weights, used for samples and export; 0 is off."""


@dataclass(frozen=True)
class EngineConfig:
    """Engine, precision and memory of a step."""

    kind: Literal["auto", "plain", "deepspeed"] = "auto"
    """plain PyTorch in one process, or DeepSpeed; auto: DeepSpeed when started with a launcher."""
    device: str = "auto"
    """cpu, cuda or auto."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 1 shards the optimizer's state, 2 also gradients, 3 also weights."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory (ZeRO 1 to 3)."""
    offload_parameters: bool = False
    """Keep the weights in host memory (ZeRO 3)."""
    compile: Literal["none", "blocks", "whole"] = "none"
    """torch.compile of the denoiser's repeated blocks (minutes at the start) or of the whole
    forward pass (longer)."""
    cuda_graphs: bool = False
    """Replay the compiled forward and backward as CUDA graphs, one per bucket: for small batches,
    whose kernels are shorter than their launch. Needs compile = whole, CUDA and kind = plain."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Store convolution weights channels last, as tensor cores read them; auto: UNets on CUDA."""
    find_bad_gradients: bool = True
    """Stop on every rank before an update whose loss or gradient is not finite."""
    hung_after: float = 20.0
    """End with every rank's stacks and status 138, for a scheduler to start again, when a step takes so many
    times the median of recent ones; 0 is never."""
    hung_seconds: float = 600.0
    """But not before a step has taken so many seconds."""


@dataclass(frozen=True)
class OutputConfig:
    """The files and images that a run writes, and how often."""

    folder: Path = Path()
    """Output folder; one run at a time holds it."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always saved."""
    async_save: Literal["auto", "on", "off"] = "auto"
    """Write checkpoints in the background, from a copy in host memory; auto: where the copy
    takes at most half of what is free."""
    keep: int = 2
    """Checkpoints kept; those of a run that was set aside are not counted and stay."""
    resume: bool = True
    """Resume from the newest complete checkpoint in the folder, if there is one; false begins anew and
    moves what an earlier run left to FOLDER/earlier-1 (-2, ...)."""
    accept_changes: bool = False
    """Resume from a checkpoint although rows, scores, threshold or cache have changed since."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers that get the metrics and the validation images, besides the run's own files."""
    project: str = "tglo"
    """Project name for wandb and trackio."""
    validation_prompts: tuple[str, ...] = ()
    """Prompts sampled during training."""
    validation_every: int = 500
    validation_steps: int = 25
    """Denoising steps of a validation image."""
    validation_guidance: float = 5.0
    validation_height: int | None = None
    """Pixels of a validation image or video; the model's own size by default."""
    validation_width: int | None = None
    validation_frames: int | None = None
    """Of a validation video; the model's own number by default, which takes long."""
    validation_vae_tiling: bool = False
    """Decode validation images in tiles, as tglo generate --vae-tiling."""
    export: bool = True
    """Write the trained model (folder or LoRA) to FOLDER/export at the end."""
    progress: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    recipe: Literal["published", "tglo"] = "published"
    """published: the paper's settings. tglo: data.baseline = oracle, objective.confidence = inf and
    objective.weight_normalisation. Keys that are set themselves win."""
    seed: int = 0
    """Seed of order, noise, timesteps and dropout."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


def reference_mode(config: TrainConfig) -> str:
    """Return the reference policy's mode, `auto` resolved: none (SFT, CSFT), copy, adapter-off, cached."""
    if not OBJECTIVES[config.objective.name].needs_reference:
        return "none"
    if config.objective.reference != "auto":
        return config.objective.reference
    return "adapter-off" if config.model.train == "lora" else "copy"
