#!/usr/bin/env python3
"""Times the GPU kernels of dpfa beside PyTorch on this machine and prints the rows of docs/performance.md.

    tests/compare/gpu_kernels.py --bench build/gpu-check/bin/gpu_bench [--rounds 3]

gpu_bench times each kernel beside a baseline of its own in one process. Here it takes turns with PyTorch, which does
the same work without privacy on the same shapes: the weight gradients of a GPT-2's linear layers (untied head, bf16
operands, f32 sums in cuBLAS, bf16 results), fused AdamW, and whole training steps (forward, backward, fused AdamW;
bf16 by autocast). A figure is the median over the rounds.
"""
import argparse
import json
import statistics
import subprocess
import sys

from step_time import make_gpt2, plain_step

LAYERS, WIDTH, PADDED_VOCAB = 12, 768, 50304  # 50257 padded, as gpu_bench does


def seconds(torch, work, repeats=20):
    times = []
    for k in range(repeats + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        if k >= 3:
            times.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def weight_gradients(torch, batch, sequence):
    shapes = LAYERS * [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)] + [(WIDTH, PADDED_VOCAB)]
    rows = batch * sequence
    made = {}

    def operand(width):  # one per width: a layer reads what no cache holds from the layer before
        if width not in made:
            made[width] = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16)
        return made[width]

    pairs = [(operand(inputs), operand(outputs)) for inputs, outputs in shapes]
    results = [torch.empty(inputs, outputs, device="cuda", dtype=torch.bfloat16) for inputs, outputs in shapes]

    def work():
        for (x, g), result in zip(pairs, results):
            torch.mm(x.t(), g, out=result)

    return seconds(torch, work)


def adamw(torch, parameters):
    weights = torch.zeros(parameters, device="cuda", requires_grad=True)
    weights.grad = torch.zeros_like(weights)
    optimizer = torch.optim.AdamW([weights], fused=True)
    return seconds(torch, optimizer.step)


def training_step(torch, batch, sequence, compute):
    shape = {"layers": LAYERS, "width": WIDTH, "vocab": 50257, "sequence": sequence}
    model = make_gpt2(shape).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.1, fused=True)
    ids = torch.randint(0, shape["vocab"], (batch, sequence + 1), device="cuda")

    def autocast():
        return torch.autocast("cuda", dtype=torch.bfloat16, enabled=compute == "bf16")

    return seconds(torch, plain_step(model, optimizer, autocast, ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))


def phases_of(result):
    names = ("forward_backward_seconds", "norms_seconds", "products_seconds", "release_seconds")
    return " + ".join(f"{result[name] * 1e3:.2f}" for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bench", required=True, help="the program gpu_bench")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("gpu_kernels.py: this Python holds no torch: nothing was measured")
    if not torch.cuda.is_available():
        sys.exit("gpu_kernels.py: PyTorch finds no GPU: nothing was measured")

    cases, gpu = {}, ""

    def take_turns(what, shape, name, theirs):
        nonlocal gpu
        torch.cuda.empty_cache()
        command = [arguments.bench, what] + [str(word) for word in shape]
        answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        gpu = answer["machine"]["gpu"]
        for result in answer["results"]:
            cases.setdefault(result["case"], []).append((result, name, theirs))

    for _ in range(arguments.rounds):
        for batch, sequence in ((32, 256), (8, 1024)):
            shape = ["--batch", batch, "--sequence", sequence]
            theirs = weight_gradients(torch, batch, sequence)
            for what in ("norms", "products"):
                take_turns(what, shape, "weight gradients", theirs)
            for compute, more in (("bf16", []), ("bf16", ["--recompute"]), ("fp32", [])):
                take_turns("step", shape + ["--compute", compute] + more, "training step, fused AdamW",
                           training_step(torch, batch, sequence, compute))
        take_turns("noise", [], "fused AdamW", adamw(torch, 163_000_000))

    print(f"{gpu}, PyTorch {torch.__version__}, medians over {arguments.rounds} rounds\n")
    print("| case | ms | baseline | ratio | PyTorch's | ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for case, rounds in cases.items():
        ours = statistics.median(result["seconds"] for result, _, _ in rounds)
        ratio = statistics.median(result["ratio"] for result, _, _ in rounds)
        theirs = statistics.median(time for _, _, time in rounds)
        result, name, _ = rounds[0]
        print(f"| {case} | {ours * 1e3:.3f} | {result['baseline']} | {ratio:.3f} | {name} | {theirs * 1e3:.3f} | "
              f"{ours / theirs:.3f} |")
    print("\nParts of a private step, ms: forward and backward + norms + products + release; peak device memory, MiB\n")
    print("| case | parts | private | not private |")
    print("|---|---|---|---|")
    for case, rounds in cases.items():
        result = rounds[-1][0]
        if "peak_device_mib" in result:
            print(f"| {case} | {phases_of(result)} | {result['peak_device_mib']:.0f} | "
                  f"{result['baseline_peak_device_mib']:.0f} |")


if __name__ == "__main__":
    main()
