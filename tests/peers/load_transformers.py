#!/usr/bin/env python3
"""Do merged directories load in transformers and the safetensors library, and give the logits they should?

    python load_transformers.py WARPMERGE [--keep DIR] [--only TEXT]
    python load_transformers.py --dirs MERGED...

What lives here: tiny checkpoints made with save_pretrained (a base and two fine-tunes of Llama, Qwen2 with a tied head,
Mixtral and BERT; single file and sharded), their merges by the warpmerge binary, and the same merges written in torch:
fp32, fixed order, one rounding. Both results are loaded; every parameter and every logit must be equal, and loading
must report no missing, unexpected or mismatched key that loading the base does not report. What it must not know: how
warpmerge works. Run it with an interpreter that has torch, transformers 5 and safetensors. Not part of CI.
"""

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

TOKENS = [[1, 5, 9, 2, 14, 3, 3, 60]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def tiny_llama():
    config = transformers.LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                                      num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    return transformers.LlamaForCausalLM(config)


def tiny_qwen2():
    config = transformers.Qwen2Config(vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    return transformers.Qwen2ForCausalLM(config)


def tiny_mixtral():
    config = transformers.MixtralConfig(vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=2,
                                        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
                                        num_experts_per_tok=2, tie_word_embeddings=False)
    return transformers.MixtralForCausalLM(config)


def tiny_bert():
    config = transformers.BertConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                     num_attention_heads=4, max_position_embeddings=32)
    return transformers.BertModel(config)


# (name, model, class to load with, dtype of the inputs, dtype in the merge config, inputs' shard size, ours)
MODELS = [
    ("llama", tiny_llama, transformers.AutoModelForCausalLM, "bfloat16", "bfloat16", "1GB", None),
    ("llama-sharded", tiny_llama, transformers.AutoModelForCausalLM, "bfloat16", "bfloat16", "20KB", "12000"),
    ("llama-f32-to-bf16", tiny_llama, transformers.AutoModelForCausalLM, "float32", "bfloat16", "30KB", None),
    ("qwen2-tied", tiny_qwen2, transformers.AutoModelForCausalLM, "bfloat16", "bfloat16", "1GB", None),
    ("mixtral", tiny_mixtral, transformers.AutoModelForCausalLM, "bfloat16", "bfloat16", "25KB", "20000"),
    ("bert", tiny_bert, transformers.AutoModel, "float32", "float32", "1GB", None),
]


def make_inputs(folder, build, dtype, shard_size):
    """base, ft1, ft2: the base has every parameter random (save_pretrained would keep norms at 1 and biases at 0)."""
    torch.manual_seed(7)
    model = build().to(DTYPES[dtype])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.02)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    for name in ("base", "ft1", "ft2"):
        if name != "base":
            with torch.no_grad():
                for n, p in model.named_parameters():
                    p.copy_(start[n] + torch.randn(p.shape) * 3e-4)
        model.save_pretrained(os.path.join(folder, name), max_shard_size=shard_size)
    if build is tiny_bert:
        # Older BERT checkpoints carry an integer buffer: all models agree on it, and the merge has to copy it.
        for name in ("base", "ft1", "ft2"):
            path = os.path.join(folder, name, "model.safetensors")
            tensors = load_file(path)
            tensors["embeddings.position_ids"] = torch.arange(32).unsqueeze(0)
            save_file(tensors, path, metadata={"format": "pt"})


def config_text(method, folder, dtype):
    base, ft1, ft2 = (os.path.join(folder, n) for n in ("base", "ft1", "ft2"))
    if method == "linear":
        entries, rest = [(base, "weight: 0.5"), (ft1, "weight: 0.3"), (ft2, "weight: 0.4")], ""
    else:
        entries = [(ft1, "weight: 0.6, density: 0.4"), (ft2, "weight: 0.5, density: 0.7")]
        rest = f"base_model: {base}\n"
    models = "".join(f"- model: {path}\n  parameters: {{{parameters}}}\n" for path, parameters in entries)
    return f"merge_method: {method}\n{rest}models:\n{models}dtype: {dtype}\n"


def raw_tensors(folder):
    tensors = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        with safe_open(path, framework="pt") as f:
            if (f.metadata() or {}).get("format") != "pt":
                raise ValueError(f"{path} does not say that its format is pt, which transformers asks for")
            tensors.update({name: f.get_tensor(name) for name in f.keys()})
    return tensors


def trim(delta, density):
    k = int(density * delta.numel())
    mask = torch.zeros(delta.numel())
    mask[torch.argsort(delta.abs().flatten(), descending=True, stable=True)[:k]] = 1
    return delta * mask.reshape(delta.shape)


def torch_merge(method, inputs):
    """The same merge of three state dictionaries; every operation rounds to fp32 by itself."""
    merged = {}
    for name, base in inputs[0].items():
        if not base.is_floating_point():
            merged[name] = base.clone()
            continue
        b, x, y = (m[name].float() for m in inputs)
        if method == "linear":
            w = [torch.tensor(v) for v in (0.5, 0.3, 0.4)]
            merged[name] = (b * w[0] + x * w[1] + y * w[2]) / (w[0] + w[1] + w[2])
            continue
        w = [torch.tensor(0.6), torch.tensor(0.5)]
        v = [trim(x - b, 0.4) * w[0], trim(y - b, 0.7) * w[1]]
        majority = torch.where(v[0] + v[1] >= 0, 1.0, -1.0)
        agree = [(t.sign() == majority).float() for t in v]
        divisor = w[0] * agree[0] + w[1] * agree[1]
        divisor[divisor == 0] = 1
        merged[name] = b + (v[0] * agree[0] + v[1] * agree[1]) / divisor
    return merged


def write_reference(folder, out, method, dtype):
    """A directory with torch's merge, the base's config, and one file."""
    inputs = [raw_tensors(os.path.join(folder, n)) for n in ("base", "ft1", "ft2")]
    merged = torch_merge(method, inputs)
    merged = {n: t.to(DTYPES[dtype]) if t.is_floating_point() else t for n, t in merged.items()}
    os.makedirs(out)
    save_file({n: t.contiguous() for n, t in merged.items()}, os.path.join(out, "model.safetensors"),
              metadata={"format": "pt"})
    shutil.copy(os.path.join(folder, "base", "config.json"), out)
    return merged


def load(folder, model_class, dtype="auto"):
    model, info = model_class.from_pretrained(folder, output_loading_info=True, dtype=dtype)
    problems = {k: sorted(map(str, v)) for k, v in info.items() if v}
    return model.eval(), problems


def logits(model):
    with torch.no_grad():
        out = model(torch.tensor(TOKENS))
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def same_bits(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.view(kind), b.view(kind))


def check_merge(binary, folder, case, method):
    """Sentences about what is wrong; none is good."""
    name, _, model_class, _, dtype, _, out_shard = case
    out, ref = (os.path.join(folder, f"{kind}-{method}") for kind in ("ours", "torch"))
    config = os.path.join(folder, f"{method}.yml")
    with open(config, "w") as f:
        f.write(config_text(method, folder, dtype))
    command = [binary, "merge", config, out, "--quiet"] + (["--out-shard-size", out_shard] if out_shard else [])
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        return [f"exit code {done.returncode}: {done.stdout.decode(errors='replace').strip()}"]
    wrong = []
    want, got = write_reference(folder, ref, method, dtype), raw_tensors(out)
    for tensor in sorted(set(want) ^ set(got)):
        wrong.append(f"{tensor} is {'missing' if tensor in want else 'not expected'}")
    wrong += [f"{t} differs" for t in sorted(set(want) & set(got)) if not same_bits(want[t], got[t])]
    n_files = len(glob.glob(os.path.join(out, "*.safetensors")))
    if bool(out_shard) != (n_files > 1):
        wrong.append(f"{n_files} output shards")
    _, expected_problems = load(os.path.join(folder, "base"), model_class)
    ours, problems = load(out, model_class)
    if problems != expected_problems:
        wrong.append(f"loading reports {problems}, loading the base {expected_problems}")
    if ours.dtype != DTYPES[dtype]:
        wrong.append(f"it loads as {ours.dtype}, not {dtype}")
    reference, _ = load(ref, model_class, DTYPES[dtype])
    theirs = dict(reference.state_dict())
    for key, value in ours.state_dict().items():
        if not same_bits(value, theirs[key]):
            wrong.append(f"loaded {key} differs")
    a, b = logits(ours), logits(reference)
    if not (torch.isfinite(a).all() and torch.equal(a, b)):
        wrong.append(f"logits differ by up to {float((a.double() - b.double()).abs().max())}")
    if torch.equal(a.float(), logits(load(os.path.join(folder, "base"), model_class)[0]).float()):
        wrong.append("the logits are the base's: nothing was merged")
    tied = getattr(ours.config, "tie_word_embeddings", False)
    head = ours.get_output_embeddings() if hasattr(ours, "get_output_embeddings") else None
    if head is not None and (head.weight is ours.get_input_embeddings().weight) != bool(tied and "qwen2" in name):
        wrong.append("the head's tie to the embedding changed")
    return wrong


def check_directory(folder):
    """Any merged directory: it loads completely, runs, and its tokenizer (if it has one) works."""
    with open(os.path.join(folder, "config.json")) as f:
        architectures = json.load(f).get("architectures") or [""]
    causal = "CausalLM" in architectures[0]
    model, problems = load(folder, transformers.AutoModelForCausalLM if causal else transformers.AutoModel)
    wrong = [f"{k}: {v}" for k, v in problems.items()]
    tokens = torch.tensor(TOKENS) % model.config.vocab_size
    if os.path.exists(os.path.join(folder, "tokenizer_config.json")):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer("The merged model reads this sentence.", return_tensors="pt")["input_ids"]
        if tokens.numel() == 0:
            wrong.append("its tokenizer makes no tokens")
    with torch.no_grad():
        out = model(tokens)
    out = out.logits if hasattr(out, "logits") else out.last_hidden_state
    if not torch.isfinite(out).all():
        wrong.append("its output is not finite")
    n = sum(p.numel() for p in model.parameters())
    print(f"{folder}: {type(model).__name__}, {n} parameters, {model.dtype}, {tokens.numel()} tokens in")
    return wrong


def main():
    parser = argparse.ArgumentParser(description="Load merged directories with transformers.")
    parser.add_argument("binary", nargs="?", help="the warpmerge binary")
    parser.add_argument("--dirs", nargs="+", default=[], help="only load these merged directories")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--keep", help="work in this folder and leave everything there")
    args = parser.parse_args()
    if bool(args.binary) == bool(args.dirs):
        parser.error("give either the binary or --dirs")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    n_wrong = 0
    for folder in args.dirs:
        wrong = check_directory(folder)
        n_wrong += bool(wrong)
        print("\n".join("    " + w for w in wrong) if wrong else "    ok")
    if args.dirs:
        return 1 if n_wrong else 0
    root = args.keep or tempfile.mkdtemp()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    try:
        for case in [c for c in MODELS if args.only in c[0]]:
            folder = os.path.join(root, case[0])
            make_inputs(folder, case[1], case[3], case[5])
            for method in ("linear", "ties"):
                wrong = check_merge(os.path.abspath(args.binary), folder, case, method)
                n_wrong += bool(wrong)
                print(f"{case[0]:20} {method:8} {'MISS' if wrong else 'ok'}", flush=True)
                for text in wrong[:8]:
                    print(f"    {text}")
    finally:
        if not args.keep:
            shutil.rmtree(root)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
