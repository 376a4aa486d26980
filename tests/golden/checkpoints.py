"""The input checkpoints of the golden cases, written without any library, the same bytes on every machine.

What lives here: two families of tiny Llama-shaped models and a writer of safetensors files. The values come from
Python's own Mersenne Twister through sums of twelve uniform draws (exact in binary64, unlike log and cos of the
platform's libm), so that running this again changes no byte. What it must not know: mergekit, torch, the cases.

Family `a` is bf16, with deltas of about one unit in the last place, so that equal magnitudes are common, as in real
fine-tunes. Every tensor has a multiple of 64 elements: torch adds up more than four tensors in plain order only then.
`ft4` is F16 and `ft5` F32 (mixed inputs), `ft2` lies in two shards. Family `b` is fp32 with odd sizes and four layers
(gradients). `b/other` stands at about 40 degrees to the base and `b/anti` at about 115 (slerp away from its linear
branch). Nearer to 180 degrees slerp is ill-conditioned: mergekit's fp32 cosine then moves the result by far more than
an ulp, and a comparison says nothing.
"""

import json
import os
import random
import struct

NAMES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
         "mlp.up_proj", "mlp.down_proj"]


def shapes(n_layers, vocab, hidden, heads, kv, inner):
    """Tensor names and shapes of a Llama, in file order. heads, kv and inner are widths and need not divide."""
    table = {"model.embed_tokens.weight": (vocab, hidden)}
    sizes = [(heads, hidden), (kv, hidden), (kv, hidden), (hidden, heads), (inner, hidden), (inner, hidden),
             (hidden, inner)]
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}."
        table[prefix + "input_layernorm.weight"] = (hidden,)
        table[prefix + "post_attention_layernorm.weight"] = (hidden,)
        for name, size in zip(NAMES, sizes):
            table[prefix + name + ".weight"] = size
    table["model.norm.weight"] = (hidden,)
    table["lm_head.weight"] = (vocab, hidden)
    return table


FAMILIES = {
    "a": dict(n_layers=2, vocab=12, hidden=64, heads=4, kv=1, inner=2),
    "b": dict(n_layers=4, vocab=19, hidden=13, heads=7, kv=5, inner=9),
}


def normal(rng):
    """Nearly standard normal, and exact: the sum of 12 draws of 24 bits needs no rounding, so no platform differs."""
    return sum(rng.getrandbits(24) for _ in range(12)) / 2.0**24 - 6.0


def to_f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def to_f16(x):
    return struct.unpack("<e", struct.pack("<e", x))[0]


def to_bf16(x):
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    bits += 0x7FFF + ((bits >> 16) & 1)  # round to nearest, ties to even; no NaN and no overflow among our values
    return struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0]


ROUND = {"F32": to_f32, "F16": to_f16, "BF16": to_bf16}


def encode(dtype, values):
    if dtype == "BF16":
        words = [struct.unpack("<I", struct.pack("<f", v))[0] >> 16 for v in values]
        return struct.pack(f"<{len(words)}H", *words)
    return struct.pack(f"<{len(values)}{'e' if dtype == 'F16' else 'f'}", *values)


def write_safetensors(path, dtype, tensors):
    """tensors: name -> (shape, values already representable in dtype)."""
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, (shape, values) in tensors.items():
        blob = encode(dtype, values)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def write_model(folder, family, dtype, tensors, n_shards=1):
    os.makedirs(folder, exist_ok=True)
    size = FAMILIES[family]
    # The shapes are not those of a runnable Llama (heads that do not divide): merging needs names and layer count.
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": size["hidden"],
              "intermediate_size": size["inner"], "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2,
              "num_hidden_layers": size["n_layers"], "vocab_size": size["vocab"], "tie_word_embeddings": False,
              "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]}
    with open(os.path.join(folder, "config.json"), "w") as f:
        f.write(json.dumps(config, indent=2) + "\n")
    if n_shards == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), dtype, tensors)
        return
    names, weight_map = list(tensors), {}
    for i in range(n_shards):
        part = names[len(names) * i // n_shards:len(names) * (i + 1) // n_shards]
        shard = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        write_safetensors(os.path.join(folder, shard), dtype, {n: tensors[n] for n in part})
        weight_map.update({n: shard for n in part})
    total = sum(len(v) for _, v in tensors.values()) * (4 if dtype == "F32" else 2)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        f.write(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n")


def base_values(rng, name, n):
    if "norm" in name:
        return [1.0 + 0.1 * normal(rng) for _ in range(n)]
    values = [0.02 * normal(rng) for _ in range(n)]
    # Signed zeros and values near the end of fp32's range of normal numbers: each rounding rule shows in them.
    values[0:4] = [0.0, -0.0, 1.5e-38, -3.0e-39]
    return values


def tuned(rng, name, base, shared, spread):
    """A fine-tune: a movement shared by all fine-tunes plus one of its own; a tenth of the elements stay."""
    scale = spread * (20.0 if "norm" in name else 1.0)
    out = []
    for b, s in zip(base, shared):
        moved = rng.random() >= 0.1
        own = normal(rng)
        out.append(b + scale * (0.6 * s + 0.8 * own) if moved else b)
    out[1:2] = [0.0 if rng.random() < 0.5 else -0.0]
    return out


def write_all(root):
    for family, n_tuned, base_dtype, spread in (("a", 5, "BF16", 1.5e-4), ("b", 4, "F32", 2e-3)):
        table = shapes(**FAMILIES[family])
        count = {name: shape[0] * (shape[1] if len(shape) == 2 else 1) for name, shape in table.items()}
        rng = random.Random(f"warpmerge golden {family}")
        base, shared = {}, {}
        for name, n in count.items():
            base[name] = [ROUND[base_dtype](v) for v in base_values(rng, name, n)]
            shared[name] = [normal(rng) for _ in range(n)]
        models = {"base": (base_dtype, base)}
        for i in range(1, n_tuned + 1):
            dtype = {"a4": "F16", "a5": "F32"}.get(f"{family}{i}", base_dtype)
            rng = random.Random(f"warpmerge golden {family} ft{i}")
            models[f"ft{i}"] = (dtype, {n: tuned(rng, n, base[n], shared[n], spread) for n in table})
        if family == "b":
            rng = random.Random("warpmerge golden b other")
            models["other"] = ("F32", {n: [0.9 * v + 0.014 * normal(rng) for v in base[n]] for n in table})
            models["anti"] = ("F32", {n: [-1.3 * v + (0.01 if "norm" in n else 0.06) * normal(rng) for v in base[n]]
                                      for n in table})
            # One tensor equal to the base's (no delta at all) and one all zero: norms of 0.
            same, zero = "model.layers.1.mlp.up_proj.weight", "model.layers.2.self_attn.k_proj.weight"
            models["ft2"][1][same] = list(base[same])
            models["other"][1][zero] = [0.0] * count[zero]
        for model, (dtype, values) in models.items():
            tensors = {n: (table[n], [ROUND[dtype](v) for v in values[n]]) for n in table}
            write_model(os.path.join(root, family, model), family, dtype, tensors,
                        n_shards=2 if (family, model) == ("a", "ft2") else 1)
