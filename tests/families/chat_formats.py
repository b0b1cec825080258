"""The chat templates of the families, as the released checkpoints have them.

Written from memory of the hub's files, shortened to what one user turn with images and text
exercises; tools, videos and thinking switches are left out. Whether BOS is written, how an image
is marked, the roles, the line breaks and the default system turn are what the shape of the prompt
depends on, and those are kept.
"""

from __future__ import annotations

LLAVA = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""LLaVA-1.5 (Vicuna): no BOS, images before all text, a blank before ``ASSISTANT:``."""

LLAVA_NEXT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}{{ ' [/INST]' }}{% endif %}{% endfor %}"
)
"""LLaVA-1.6 on Mistral: no BOS, nothing for the generation prompt."""

LLAVA_ONEVISION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + part['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""LLaVA-OneVision on Qwen2: a blank after the role, the text on its own line."""

_QWEN_TURNS = (
    "<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

QWEN2_VL = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}" + _QWEN_TURNS
)
"""Qwen2-VL and Qwen2.5-VL: a default system turn, no BOS."""

QWEN3_VL = "{% for message in messages %}" + _QWEN_TURNS
"""Qwen3-VL: no default system turn."""

QWEN2_5_OMNI = (
    QWEN2_VL.replace("<|vision_start|>", "<|vision_bos|>")
    .replace("<|vision_end|>", "<|vision_eos|>")
    .replace("<|image_pad|>", "<|IMAGE|>")
    .replace("<|video_pad|>", "<|VIDEO|>")
)
"""Qwen2.5-Omni: Qwen2.5-VL's turns, other marks."""

QWEN3_OMNI = QWEN3_VL
"""Qwen3-Omni: Qwen3-VL's, as far as images and text go."""

EXAONE4_5 = (
    "{% for message in messages %}{{ '[|' + message['role'] + '|]\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<vision><|image_pad|></vision>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '[|endofturn|]\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[|assistant|]\n<think>\n' }}{% endif %}"
)
"""EXAONE 4.5: its tokenizer knows a BOS, and nothing writes it; an answer begins with a thought."""

VIDEO_LLAMA_3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|image_pad|>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""VideoLLaMA 3 on Qwen2: its turns, an image on a line of its own, without marks around it."""

GEMMA3 = (
    "{{ bos_token }}{%- for message in messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\n' }}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] | trim }}{%- endif -%}{%- endfor -%}"
    "{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
"""Gemma 3: BOS in the template *and* from the tokenizer; the question is stripped."""

GEMMA4 = (
    "{{ bos_token }}{%- for message in messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<|turn>' + role + '\n' }}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<|image|>' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] | trim }}{%- endif -%}{%- endfor -%}"
    "{{ '<turn|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|turn>model\n' }}{%- endif -%}"
)
"""Gemma 4: as Gemma 3 with other marks (after published prompts, the template itself unseen)."""

PALIGEMMA = (
    "{% for message in messages %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}{% endfor %}"
)
"""PaliGemma is no chat model and its checkpoints have no template; this one gives the format of its
model card. The processor adds BOS behind the images and a line break at the end."""

_IDEFICS_TURNS = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

SMOLVLM = "<|im_start|>" + _IDEFICS_TURNS
"""SmolVLM: ``<|im_start|>`` is its BOS, written once; the tokenizer adds none."""

IDEFICS2 = _IDEFICS_TURNS
"""Idefics2 on Mistral: no BOS in the template, the tokenizer adds it."""

IDEFICS3 = "<|begin_of_text|>" + _IDEFICS_TURNS
"""Idefics3 on Llama 3: BOS in the template *and* from the tokenizer."""

INTERNVL = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""InternVL3 in the library's own format (``-hf``): no BOS."""

COMMAND_A_VISION = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|IMG_PATCH|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' }}{% endif %}"
)
"""Command A Vision: Aya's turns; an image is marked by its image token."""

LLAMA4 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|header_start|>' + message['role'] + '<|header_end|>\n\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|image|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|header_start|>assistant<|header_end|>\n\n' }}{% endif %}"
)
"""Llama 4: BOS in the template *and* from the tokenizer; images where they are in the message."""

LFM2_VL = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""LFM2-VL: BOS in the template *and* from the tokenizer, then Qwen's turns."""

OVIS2 = QWEN2_VL.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>\n")
"""Ovis2 on Qwen2.5: Qwen's turns, the marks of an image are the processor's."""

PIXTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '[IMG]' }}{% endif %}{% endfor %}{{ '[/INST]' }}"
    "{% endif %}{% endfor %}"
)
"""Pixtral: BOS in the template *and* from the tokenizer, nothing for the generation prompt."""

MISTRAL3 = PIXTRAL.replace(
    "{{ bos_token }}",
    "{{ bos_token }}{{ '[SYSTEM_PROMPT]You are Mistral Small 3.[/SYSTEM_PROMPT]' }}",
)
"""Mistral Small 3.1: Pixtral's behind a default system prompt (there it is a page long)."""

AYA_VISION = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' }}{% endif %}"
)
"""Aya Vision: BOS in the template *and* from the tokenizer."""

GLM4V = (
    "[gMASK]<sop>\n{%- for message in messages %}{{ '<|' + message['role'] + '|>\n' }}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{ '<|begin_of_image|><|image|><|end_of_image|>' }}"
    "{%- elif part['type'] == 'text' %}{{ part['text'] }}{%- endif %}{%- endfor %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{%- endif %}"
)
"""GLM-4.1V: ``[gMASK]<sop>`` at the beginning; the tokenizer has no BOS of that name."""

FASTVLM = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% elif part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""FastVLM on Qwen2: the default system turn of Qwen2, the images of LLaVA."""

JANUS = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<|User|>: "
    "{% else %}<|Assistant|>: {% endif %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "<image_placeholder>{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\n\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)
"""Janus-Pro: no BOS in the template, the tokenizer adds it; no blank after the last colon."""

MOLMO2 = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|image|>' }}{% endif %}{% endfor %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Molmo 2: images before the first turn; its processor writes the BOS (a guess at the order)."""

PHI4_MULTIMODAL = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|image|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Phi-4-multimodal: no BOS, no line breaks."""

ERNIE = (
    "<|begin_of_sentence|>{% set pictures = namespace(value=0) %}{% for message in messages %}"
    "{{ 'User: ' if message['role'] == 'user' else '' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{% set pictures.value = pictures.value + 1 %}"
    "Picture {{ pictures.value }}:<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
    "{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nAssistant: <think>\n\n</think>\n\n' }}{% endif %}"
)
"""ERNIE 4.5 VL: images are numbered in words, the thinking is closed, and no ``<s>`` is written."""

KIMI = (
    "{% for message in messages %}{{ '<|im_user|>' + message['role'] + '<|im_middle|>' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_assistant|>assistant<|im_middle|><think></think>' }}{% endif %}"
)
"""Kimi K2.5 with its thinking closed: no ``[BOS]``, no line breaks between turns."""

MINICPM = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|image_pad|>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
"""MiniCPM-V 4.6 on Qwen3.5 (a guess at the marks); the number of an image is the processor's."""
ARIA = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<fim_prefix><|img|><fim_suffix>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Aria: no BOS; an image between the two halves of a gap that is to be filled in."""

DEEPSEEK_VL = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.\n\n"
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image_placeholder>"
    "{% elif part['type'] == 'text' %}{% set text = part['text'] %}"
    "{% if loop.first %}{% set text = text.lstrip() %}{% endif %}"
    "{% if loop.last %}{% set text = text.rstrip() %}{% endif %}{{ text }}{% endif %}{% endfor %}"
    "{{ '\n\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""DeepSeek-VL: a fixed system text, no BOS in the template, the question stripped."""

GRANITE4_VISION = (
    "{{ '<|start_of_role|>system<|end_of_role|>You are a helpful assistant. Please ensure "
    "responses are professional, accurate, and safe.<|end_of_text|>\n' }}"
    "{% for message in messages %}"
    "{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|end_of_text|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
"""Granite 4 Vision: a default system turn; BOS is the end of a turn, and none is written."""

HUNYUAN_VL = (
    "{{ '<｜hy_begin▁of▁sentence｜>' }}{% for message in messages %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<｜hy_place▁holder▁no▁100｜><｜hy_place▁holder▁no▁102｜><｜hy_place▁holder▁no▁101｜>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<｜hy_User｜>' }}{% endfor %}"
)
"""HunyuanOCR: BOS in the template, nothing for the generation prompt."""

GOT_OCR2 = (
    "<|im_start|>system\nYou should follow the instructions carefully and explain your answers in "
    "detail.<|im_end|>{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<img><imgpad></img>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""GOT-OCR2 is no chat model and its checkpoint has no template; this one gives the prompt that its
processor writes where it gets no text."""

PERCEPTION_LM = (
    "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{ 'You are a helpful language and vision assistant.<|eot_id|>' }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<|image|>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] | trim }}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt"
    " %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""Perception LM on Llama 3: BOS in the template *and* from the tokenizer, a system turn (there it
is longer), images before all text, the question stripped."""
