"""A GGUF file of a tiny random Llama, as llama.cpp's converter lays it out."""

import json

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

WIDTH, INNER, BLOCKS, HEADS, GROUPS = 32, 64, 4, 4, 2


def write_tiny(path, tokenizer, kind="Q4_1", architecture="llama", seed=0, **changes):
    """Write the file; MLP matrices are of type `kind`, all else is float32."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = sorted(content["vocab"], key=content["vocab"].get)
    size = len(vocabulary)
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(BLOCKS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if n < 3 else 1 for n in range(size)])
    writer.add_token_merges([" ".join(pair) for pair in content["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_string("note", changes.get("note", "kept as it is"))
    chance = np.random.default_rng(seed)
    group = WIDTH // HEADS * GROUPS
    shapes = {"token_embd": (size, WIDTH), "output": (size, WIDTH), "output_norm": (WIDTH,)}
    for block in range(BLOCKS):
        shapes |= {
            f"blk.{block}.attn_norm": (WIDTH,), f"blk.{block}.ffn_norm": (WIDTH,),
            f"blk.{block}.attn_q": (WIDTH, WIDTH), f"blk.{block}.attn_k": (group, WIDTH),
            f"blk.{block}.attn_v": (group, WIDTH), f"blk.{block}.attn_output": (WIDTH, WIDTH),
            f"blk.{block}.ffn_gate": (INNER, WIDTH), f"blk.{block}.ffn_up": (INNER, WIDTH),
            f"blk.{block}.ffn_down": (WIDTH, INNER),
        }  # fmt: skip
    for name, shape in shapes.items():
        tensor = chance.normal(0, 0.2, shape).astype(np.float32)
        if len(shape) == 1:
            tensor = np.ones(shape, np.float32)
        if "ffn_" in name and len(shape) == 2:
            wanted = GGMLQuantizationType[kind]
            writer.add_tensor(f"{name}.weight", quantize(tensor, wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
