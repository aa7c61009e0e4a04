"""Tiny, offline folders of flow-matching pipelines in the true architectures: FLUX.1, SD3 and SD3.5,
Qwen-Image, Z-Image, FLUX.2 (dev and [klein]) and SANA.

The VAE halves the sides and has 4 latent channels; a token of the transformer is 2x2 latents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.tiny import WIDTH, build_tokenizer, byte_alphabet, text_config, vae

T5_WIDTH = 2 * WIDTH
_DYNAMIC = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def build_flux(folder: Path | str, *, guidance: bool = True, seed: int = 0) -> Path:
    """A FLUX.1 folder: dev with guidance, schnell without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 6, 6),
        )
        noise = {**_DYNAMIC, "shift": 3.0} if guidance else {"shift": 1.0}
        pipeline = FluxPipeline(
            transformer=transformer.eval(),
            vae=vae(
                scaling_factor=0.3611,
                shift_factor=0.1159,
                force_upcast=True,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=CLIPTextModel(text_config("quick_gelu")).eval(),
            tokenizer=build_tokenizer(),
            text_encoder_2=_t5(),
            tokenizer_2=build_t5_tokenizer(512),
            scheduler=FlowMatchEulerDiscreteScheduler(**noise),
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def build_sd3(folder: Path | str, *, medium: bool = False, t5: bool = True, seed: int = 0) -> Path:
    """An SD3 folder; medium: an SD3.5 medium one, with normalised queries and second attention layers."""
    own: dict[str, Any] = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if medium else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
            **own,
        )
        pipeline = StableDiffusion3Pipeline(
            transformer=transformer.eval(),
            vae=vae(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=CLIPTextModelWithProjection(text_config("quick_gelu")).eval(),
            tokenizer=build_tokenizer(),
            text_encoder_2=CLIPTextModelWithProjection(text_config("gelu")).eval(),
            tokenizer_2=build_tokenizer(pad_token="!"),
            text_encoder_3=_t5() if t5 else None,
            tokenizer_3=build_t5_tokenizer(256) if t5 else None,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def build_t5_tokenizer(length: int) -> T5Tokenizer:
    """T5's tokenizer over the printable ASCII letters: one token per letter."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(chr(letter), -3.0) for letter in range(0x21, 0x7F)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


def _t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=98,
        d_model=T5_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def build_qwen_image(folder: Path | str, *, seed: int = 0) -> Path:
    """A Qwen-Image folder: Qwen2.5-VL as the text encoder, a VAE of frames that takes 8 x 8 pixels together."""
    width = 2 * WIDTH
    text = {
        "hidden_size": width,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 261,
        "max_position_embeddings": 4096,
        "pad_token_id": 256,
        "bos_token_id": None,
        "eos_token_id": None,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 3, 3],
            "rope_theta": 1e6,
        },
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Qwen2_5_VLConfig(
            text_config=text, vision_config=vision, image_token_id=258, video_token_id=259
        )
        transformer = QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=64,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=width,
            axes_dims_rope=(4, 6, 6),
        )
        autoencoder = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1] * 16,
            latents_std=[2.0] * 16,
        )
        pipeline = QwenImagePipeline(
            transformer=transformer.eval(),
            vae=autoencoder.eval(),
            text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
            tokenizer=build_qwen_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(
                **{**_DYNAMIC, "max_shift": 0.9, "max_image_seq_len": 8192},
                shift_terminal=0.02,
                time_shift_type="exponential",
            ),
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def build_z_image(folder: Path | str, *, seed: int = 0) -> Path:
    """A Z-Image folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=2 * WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        )
        pipeline = ZImagePipeline(
            transformer=transformer.eval(),
            vae=vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=Qwen3Model(_qwen3(2 * WIDTH, 2)).eval(),
            tokenizer=build_qwen_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def build_flux2(folder: Path | str, *, seed: int = 0) -> Path:
    """A FLUX.2 dev folder, with the tokenizer in the place of the processor, which needs torchvision."""
    text = {
        "model_type": "mistral",
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 31,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 265,
        "sliding_window": None,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "image_size": 28,
        "patch_size": 14,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = _flux2_transformer(guidance_embeds=True)
        config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=264)
        pipeline = Flux2Pipeline(
            transformer=transformer.eval(),
            vae=_flux2_vae(),
            text_encoder=Mistral3ForConditionalGeneration(config).eval(),
            tokenizer=build_mistral_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def build_flux2_klein(folder: Path | str, *, distilled: bool = False, seed: int = 0) -> Path:
    """A FLUX.2 [klein] folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = _flux2_transformer(guidance_embeds=False)
        pipeline = Flux2KleinPipeline(
            transformer=transformer.eval(),
            vae=_flux2_vae(),
            text_encoder=Qwen3ForCausalLM(_qwen3(WIDTH, 28)).eval(),
            tokenizer=build_qwen_tokenizer(),
            is_distilled=distilled,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def _flux2_transformer(*, guidance_embeds: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )


def _flux2_vae() -> AutoencoderKLFlux2:
    """A VAE that keeps the sides: a patch is 2 x 2 pixels."""
    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    torch.nn.init.uniform_(autoencoder.bn.running_mean)
    torch.nn.init.uniform_(autoencoder.bn.running_var, 0.5, 2.0)
    return autoencoder.eval()


def build_sana(folder: Path | str, *, seed: int = 0) -> Path:
    """A SANA folder; the autoencoder halves the sides."""
    blocks = ("ResBlock", "EfficientViTBlock")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            sample_size=8,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=2 * WIDTH,
            patch_size=1,
        )
        autoencoder = AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=[1, 1],
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        )
        gemma = Gemma2Config(
            hidden_size=2 * WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            head_dim=8,
            num_key_value_heads=2,
            vocab_size=100,
            query_pre_attn_scalar=8,
        )
        pipeline = SanaPipeline(
            transformer=transformer.eval(),
            vae=autoencoder.eval(),
            text_encoder=Gemma2Model(gemma).eval(),
            tokenizer=build_gemma_tokenizer(),
            scheduler=DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def build_qwen_tokenizer() -> Qwen2Tokenizer:
    """Qwen's tokenizer over the byte alphabet without merges, with a short chat template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    names = [*byte_alphabet(), *special]
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    )
    return Qwen2Tokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=[],
        model_max_length=2048,
        additional_special_tokens=special[1:3],
        chat_template=template,
    )


def build_mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Mistral 3's tokenizer over the byte alphabet without merges, with a short chat template."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]"]
    special += ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]"]
    names = [*special, *byte_alphabet()]
    model = BPE({name: number for number, name in enumerate(names)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = "{% for part in m.content %}{{ part.text }}{% endfor %}"
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
        f"[SYSTEM_PROMPT]{words}[/SYSTEM_PROMPT]{{% else %}}[INST]{words}[/INST]{{% endif %}}"
        "{% endfor %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=special[4:],
        padding_side="left",
        model_max_length=2048,
        chat_template=template,
    )


def build_gemma_tokenizer() -> GemmaTokenizer:
    """Gemma's tokenizer over the printable ASCII letters: one token per letter."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"]
    names += [chr(letter) for letter in range(0x21, 0x7F)]
    return GemmaTokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=[],
        model_max_length=4096,
        padding_side="right",
        add_bos_token=True,
    )


def _qwen3(width: int, layers: int) -> Qwen3Config:
    return Qwen3Config(
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        head_dim=16,
        num_key_value_heads=2,
        vocab_size=261,
        bos_token_id=None,
        eos_token_id=None,
    )
