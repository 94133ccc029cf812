#!/usr/bin/env python3
"""Times one training step of dpfa against PyTorch on this machine, in one interleaved run.

    tests/compare/step_time.py --dpfa build/cpu-release/bin/dpfa --python VENV/bin/python --markdown OUT.md
    tests/compare/step_time.py --install VENV --opacus ...      first makes VENV (5 GB on disk)

Every arm is started again in each round, in rotating order, in a child process of its own (so its peak resident
memory is its own too); a figure is the median over all rounds. The arms, for a GPT-2 with untied head:

    dpfa private                clip, charge-free release with noise, AdamW   dpfa bench step --only private
    dpfa private, halves        the same in two microbatches: less memory     ... --slots B/2
    dpfa private, no release    forward, backward, norms, clip, sum           ... --release off
    dpfa not private            the same engine, no clipping, no noise        dpfa bench step --only baseline
    dpfa not private, panels    the same, its gradients formed in panels      ... --products panels
    PyTorch not private         fused AdamW, contiguous logits: the baseline of all ratios
    PyTorch one-example loop    forward and backward per example, clip, add, Gaussian noise, fused AdamW
    Opacus hooks, Opacus ghost  with --opacus; where it cannot be imported the report says that it was not run

Only the arms need torch; this process uses the standard library alone.
"""
import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

BASELINE = "PyTorch not private"
PYTORCH_ARMS = [BASELINE, "PyTorch one-example loop", "Opacus hooks", "Opacus ghost"]
DPFA_ARMS = ["dpfa private", "dpfa private, halves", "dpfa private, no release", "dpfa not private",
             "dpfa not private, panels"]


# ---- one arm, in a child process ------------------------------------------------------------------------------

def make_gpt2(shape):
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.heads = width // 64

        def forward(self, x):
            b, t, c = x.shape
            q, k, v = (h.view(b, t, self.heads, c // self.heads).transpose(1, 2)
                       for h in self.qkv(self.ln_1(x)).split(c, dim=2))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
            return x + self.down(functional.gelu(self.up(self.ln_2(x)), approximate="tanh"))

    class Gpt2(nn.Module):
        def __init__(self):
            super().__init__()
            width = shape["width"]
            self.tokens = nn.Embedding(shape["vocab"], width)
            self.positions = nn.Embedding(max(1024, shape["sequence"]), width)
            self.blocks = nn.ModuleList(Block(width) for _ in range(shape["layers"]))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, shape["vocab"], bias=False)

        def forward(self, ids):
            # One row of positions per example: Opacus takes the first dimension for the example.
            places = torch.arange(ids.shape[1], device=ids.device).repeat(len(ids), 1)
            x = self.tokens(ids) + self.positions(places)
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return Gpt2()


def token_loss(logits, targets, reduction="mean"):
    from torch.nn import functional
    return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), reduction=reduction)


def plain_step(model, optimizer, autocast, ids, targets):
    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = token_loss(model(ids), targets)
        loss.backward()
        optimizer.step()
    return step


def loop_step(model, optimizer, autocast, ids, targets):
    import torch
    parameters = list(model.parameters())
    sums = [torch.zeros_like(p) for p in parameters]

    def step():
        torch._foreach_zero_(sums)
        for i in range(len(ids)):
            optimizer.zero_grad(set_to_none=True)
            with autocast():
                loss = token_loss(model(ids[i:i + 1]), targets[i:i + 1])
            loss.backward()
            gradients = [p.grad for p in parameters]
            norm = torch.stack(torch._foreach_norm(gradients)).norm().item()
            torch._foreach_add_(sums, gradients, alpha=min(1.0, 1.0 / (norm + 1e-6)))
        for parameter, total in zip(parameters, sums):
            parameter.grad = (total + torch.randn_like(total)) / len(ids)
        optimizer.step()
    return step


def opacus_hooks_step(model, optimizer, autocast, ids, targets):
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
    wrapped = GradSampleModule(model)
    private = DPOptimizer(optimizer, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=len(ids))
    return plain_step(wrapped, private, autocast, ids, targets)


def opacus_ghost_step(model, optimizer, autocast, ids, targets):
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
    from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
    from torch import nn
    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0, use_ghost_clipping=True)
    private = DPOptimizerFastGradientClipping(optimizer, noise_multiplier=1.0, max_grad_norm=1.0,
                                              expected_batch_size=len(ids))
    criterion = DPLossFastGradientClipping(wrapped, private, nn.CrossEntropyLoss(reduction="mean"), "mean")

    def step():
        private.zero_grad()
        with autocast():
            logits = wrapped(ids)
            loss = criterion(logits.view(-1, logits.shape[-1]), targets.view(-1), shape=tuple(ids.shape))
        loss.backward()
        private.step()
    return step


def run_arm(arm, shape, repeats):
    """Prints {"seconds": [...], "peak_rss_mib": x, "versions": {...}}, or {"not_run": reason}."""
    if arm.startswith("Opacus"):
        try:
            import opacus
        except ImportError as error:
            print(json.dumps({"not_run": f"opacus cannot be imported: {error}"}))
            return
    import torch
    torch.set_num_threads(shape["threads"])
    torch.manual_seed(0)
    model = make_gpt2(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, shape["vocab"], (shape["batch"], shape["sequence"]))
    targets = torch.randint(0, shape["vocab"], (shape["batch"], shape["sequence"]))

    def autocast():
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=shape["compute"] == "bf16")

    make = dict(zip(PYTORCH_ARMS, [plain_step, loop_step, opacus_hooks_step, opacus_ghost_step]))[arm]
    step = make(model, optimizer, autocast, ids, targets)
    step()  # first touch of all buffers
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    versions = {"torch": torch.__version__}
    if arm.startswith("Opacus"):
        versions["opacus"] = opacus.__version__
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_rss_mib": peak, "versions": versions}))


# ---- the comparison -------------------------------------------------------------------------------------------

def child(command, threads):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"step_time.py: '{' '.join(command)}' ended with code {done.returncode}")
    return json.loads(done.stdout)


class Samples:
    """Seconds and peak memory of one arm in one case, over all rounds."""

    def __init__(self):
        self.seconds, self.peaks, self.not_run = [], [], None

    def add(self, seconds, peak):
        self.seconds += seconds
        self.peaks.append(peak)

    @property
    def median(self):
        return statistics.median(self.seconds) if self.seconds else math.nan


def measure_dpfa(options, arm, shape, samples):
    command = [options.dpfa, "bench", "step", "--json", "--release", "off" if arm.endswith("no release") else "on",
               "--numerics", options.numerics, "--repeats", str(options.repeats)]
    for name in ("layers", "width", "vocab", "batch", "sequence", "compute", "threads"):
        command += [f"--{name}", str(shape[name])]
    if "not private" in arm:
        command += ["--only", "baseline", "--products", "panels" if arm.endswith("panels") else "whole"]
    else:
        command += ["--only", "private"]
    if arm.endswith("halves"):
        command += ["--slots", str(max(1, shape["batch"] // 2))]
    result = child(command, options.threads)["results"][0]
    samples[arm].add(result["all_seconds"], result["peak_rss_mib"])


def measure_pytorch(options, arm, shape, samples, versions):
    if samples[arm].not_run:
        return
    result = child([options.python, os.path.abspath(__file__), "--arm", arm, "--shape", json.dumps(shape),
                    "--repeats", str(options.repeats)], options.threads)
    if "not_run" in result:
        samples[arm].not_run = result["not_run"]
        return
    samples[arm].add(result["seconds"], result["peak_rss_mib"])
    versions.update(result["versions"])


def chosen_arms(options):
    return [arm.strip() for arm in options.arms.split(";")]


def measure_case(options, shape, versions):
    arms = DPFA_ARMS + PYTORCH_ARMS[:2] + (PYTORCH_ARMS[2:] if options.opacus else [])
    if options.arms:
        arms = [arm for arm in arms if arm in chosen_arms(options)]
    samples = {arm: Samples() for arm in arms}
    for turn in range(options.rounds):
        start = turn % len(arms)
        for arm in arms[start:] + arms[:start]:
            print(f"round {turn + 1} of {options.rounds}: {case_name(shape)}: {arm}", file=sys.stderr)
            if arm in DPFA_ARMS:
                measure_dpfa(options, arm, shape, samples)
            else:
                measure_pytorch(options, arm, shape, samples, versions)
    return samples


def case_name(shape):
    return f"B={shape['batch']} T={shape['sequence']} {shape['compute']}"


def table(cases, title, cell):
    names = list(cases)
    lines = ["| " + " | ".join([title] + names) + " |", "|" + "---|" * (len(names) + 1)]
    for arm in DPFA_ARMS + PYTORCH_ARMS:
        if any(arm in samples for samples in cases.values()):
            lines.append("| " + " | ".join([arm] + [cell(cases[name], arm) for name in names]) + " |")
    return "\n".join(lines)


def time_cell(samples, arm):
    if samples[arm].not_run:
        return "not run"
    values, baseline = samples[arm].seconds, samples[BASELINE].median
    return f"{samples[arm].median:.2f} ({samples[arm].median / baseline:.2f}) [{min(values):.2f}, {max(values):.2f}]"


def memory_cell(samples, arm):
    return "not run" if samples[arm].not_run else f"{max(samples[arm].peaks):.0f}"


def report(options, cases, versions):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
               platform.processor())
    size = f"{options.layers} layers, width {options.width}, vocabulary {options.vocab}, untied head"
    software = f"dpfa numerics = {options.numerics}, " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    parts = [f"{size}; {options.threads} threads of {cpu}; {software}; medians of {options.rounds} interleaved rounds.",
             f"Command: `{' '.join(['tests/compare/step_time.py'] + sys.argv[1:])}`",
             table(cases, "seconds per step (ratio to PyTorch not private) [least, most]", time_cell),
             table(cases, "peak resident memory, MiB", memory_cell)]
    reasons = {f"Not run: {arm}: {samples[arm].not_run}" for samples in cases.values() for arm in samples
               if samples[arm].not_run}
    return "\n\n".join(parts + sorted(reasons)) + "\n"


def install(folder, with_opacus):
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    packages = ["torch==2.11.0", "numpy"] + (["opacus==1.6.0"] if with_opacus else [])
    print(f"installing {' '.join(packages)} in {folder} (5 GB on disk)", file=sys.stderr)
    subprocess.run([os.path.join(folder, "bin", "python"), "-m", "pip", "install", "--quiet"] + packages, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dpfa", default="build/cpu-release/bin/dpfa", help="the program")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that can import torch")
    parser.add_argument("--install", metavar="VENV", help="make this virtual environment first, and use it")
    parser.add_argument("--opacus", action="store_true", help="also time Opacus (and install it with --install)")
    parser.add_argument("--shapes", default="4x256,2x1024", help="BxT, separated by commas")
    parser.add_argument("--computes", default="fp32,bf16")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768, help="64 channels per head")
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="timed steps of an arm per round")
    parser.add_argument("--numerics", default="exact", help="how dpfa measures norms: exact or fp32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--arms", help=f"only these of the arms, separated by ';'; '{BASELINE}' must be one")
    parser.add_argument("--markdown", metavar="FILE", help="also write the tables there")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        run_arm(options.arm, json.loads(options.shape), options.repeats)
        return
    if options.arms:
        unknown = set(chosen_arms(options)) - set(DPFA_ARMS + PYTORCH_ARMS)
        if unknown:
            sys.exit(f"step_time.py: --arms: no arm is called {', '.join(sorted(unknown))}")
        if BASELINE not in chosen_arms(options):
            sys.exit(f"step_time.py: --arms without '{BASELINE}', which all ratios are to")
    if options.install:
        install(options.install, options.opacus)
        options.python = os.path.join(options.install, "bin", "python")
    if subprocess.run([options.python, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode != 0:
        sys.exit(f"step_time.py: {options.python} cannot import torch: give --python, or --install VENV")
    cases, versions = {}, {}
    for size in options.shapes.split(","):
        batch, sequence = (int(number) for number in size.split("x"))
        for compute in options.computes.split(","):
            shape = {"layers": options.layers, "width": options.width, "vocab": options.vocab, "batch": batch,
                     "sequence": sequence, "compute": compute, "threads": options.threads}
            cases[case_name(shape)] = measure_case(options, shape, versions)
    text = report(options, cases, versions)
    print(text)
    if options.markdown:
        with open(options.markdown, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
