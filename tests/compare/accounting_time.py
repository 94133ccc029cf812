#!/usr/bin/env python3
"""Times dpfa's accountant beside dp_accounting, prv_accountant and Opacus, with the epsilons of all side by side.

    tests/compare/accounting_time.py --install VENV [--dpfa build/account/bin/dpfa] [--markdown OUT.md]
    tests/compare/accounting_time.py --python VENV/bin/python ...      an environment that was made before

VENV gets dp_accounting 0.6.0, prv_accountant 0.2.0 and Opacus 1.6.0 with its torch (5 GB on disk); what cannot be
installed is named at the end and its columns read "not installed". Every arm is one process; a figure is the median
of its repeats, after one that is not timed (start of the program and imports are never timed; for dpfa the whole
program is, which adds about 2 ms). An accountant that fails, or needs longer than --limit seconds, is named with what
it said.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

PACKAGES = {"dp_accounting": ["dp-accounting==0.6.0"],
            "prv_accountant": ["prv-accountant==0.2.0"],
            "opacus": ["torch==2.11.0", "opacus==1.6.0"]}
CASES = [(1e-2, 1.0, 10**4, 1e-6), (1e-2, 1.0, 10**5, 1e-6), (1e-2, 1.0, 10**6, 1e-6), (1e-3, 0.8, 10**5, 1e-12),
         (1e-3, 1.0, 10**6, 1e-12), (1e-4, 1.0, 10**6, 1e-8), (4e-2, 1.5, 2250, 1e-5), (1e-4, 0.6, 10**5, 1e-8),
         (1e-1, 0.5, 1000, 1e-5), (0.32, 1.0, 30, 1e-5)]
CALIBRATION = (1e-2, 10**4, 1.0, 1e-6)  # rate, steps, target epsilon, delta


# ---- arms in Python, each run by the interpreter of the environment -----------------------------------------

def dp_event(q, sigma, steps):
    import dp_accounting
    event = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
    return dp_accounting.SelfComposedDpEvent(event, steps)


def dp_accounting_pld(q, sigma, steps, delta):
    from dp_accounting.pld import pld_privacy_accountant
    return pld_privacy_accountant.PLDAccountant().compose(dp_event(q, sigma, steps)).get_epsilon(delta)


def dp_accounting_rdp(q, sigma, steps, delta):
    from dp_accounting.rdp import rdp_privacy_accountant
    return rdp_privacy_accountant.RdpAccountant().compose(dp_event(q, sigma, steps)).get_epsilon(delta)


def prv_accountant_upper(q, sigma, steps, delta):
    from prv_accountant import PRVAccountant, PoissonSubsampledGaussianMechanism
    prv = PoissonSubsampledGaussianMechanism(sampling_probability=q, noise_multiplier=sigma)
    accountant = PRVAccountant(prvs=[prv], max_self_compositions=[steps], eps_error=0.1, delta_error=delta / 1000)
    return accountant.compute_epsilon(delta=delta, num_self_compositions=[steps])[2]


def opacus_prv(q, sigma, steps, delta):
    from opacus.accountants import PRVAccountant
    accountant = PRVAccountant()
    accountant.history = [(sigma, q, steps)]
    return accountant.get_epsilon(delta)


def opacus_rdp(q, sigma, steps, delta):
    from opacus.accountants import RDPAccountant
    accountant = RDPAccountant()
    accountant.history = [(sigma, q, steps)]
    return accountant.get_epsilon(delta)


def dp_accounting_calibration(q, steps, epsilon, delta):
    import dp_accounting
    from dp_accounting.pld import pld_privacy_accountant
    return dp_accounting.calibrate_dp_mechanism(pld_privacy_accountant.PLDAccountant,
                                                lambda sigma: dp_event(q, sigma, steps), epsilon, delta)


def opacus_calibration(q, steps, epsilon, delta):
    from opacus.accountants.utils import get_noise_multiplier
    return get_noise_multiplier(target_epsilon=epsilon, target_delta=delta, sample_rate=q, steps=steps, accountant="prv")


ARMS = {"dp_accounting PLD": ("dp_accounting", dp_accounting_pld),
        "prv_accountant (error 0.1)": ("prv_accountant", prv_accountant_upper),
        "Opacus PRV (error 0.01)": ("opacus", opacus_prv),
        "dp_accounting RDP": ("dp_accounting", dp_accounting_rdp),
        "Opacus RDP": ("opacus", opacus_rdp)}
CALIBRATIONS = {"dp_accounting PLD": ("dp_accounting", dp_accounting_calibration),
                "Opacus PRV": ("opacus", opacus_calibration)}


def run_arm(arm, case, repeats):
    """Prints {"value", "seconds"} or {"failed"} as the last line."""
    import warnings
    warnings.filterwarnings("ignore")
    calibrates = arm.startswith("calibrate ")
    function = (CALIBRATIONS[arm[len("calibrate "):]] if calibrates else ARMS[arm])[1]
    try:
        value = float(function(*case))
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            function(*case)
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"value": value, "seconds": statistics.median(seconds)}))
    except Exception as error:  # whatever another library throws is its result
        print(json.dumps({"failed": f"{type(error).__name__}: {str(error)[:120]}"}))


# ---- the comparison -------------------------------------------------------------------------------------------

def python_result(options, arm, case, installed):
    package = (CALIBRATIONS[arm[len("calibrate "):]] if arm.startswith("calibrate ") else ARMS[arm])[0]
    if package not in installed:
        return {"failed": "not installed"}
    command = [options.python, os.path.abspath(__file__), "--arm", arm, "--case", json.dumps(case), "--repeats",
               str(options.repeats)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              timeout=options.limit, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"longer than {options.limit} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"failed": f"ended with code {done.returncode}"}
    return json.loads(lines[-1])


def dpfa_result(options, words, value):
    command = [options.dpfa, "account"] + words + ["--json"]
    seconds = []
    for turn in range(options.repeats + 1):
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        if turn > 0:
            seconds.append(time.perf_counter() - start)
    report = json.loads(done.stdout)
    return {"value": report[value], "seconds": statistics.median(seconds), "report": report}


def time_text(seconds):
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def cell(result):
    if "failed" in result:
        return result["failed"]
    value = result["value"]
    return f"{value:.6g}, {time_text(result['seconds'])}"


def table(rows, header):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def compare(options, installed):
    rows = []
    for q, sigma, steps, delta in CASES:
        print(f"q={q:g} sigma={sigma:g} T={steps:g} delta={delta:g}", file=sys.stderr)
        mine = dpfa_result(options, ["epsilon", "--sample_rate", repr(q), "--noise_multiplier", repr(sigma), "--steps",
                                     str(steps), "--delta", repr(delta)], "epsilon")
        row = [f"{q:g}, {sigma:g}, {steps:g}, {delta:g}", f"{mine['report']['lower_bound']:.6g}",
               f"{cell(mine)} ({mine['report']['accountant']})"]
        row += [cell(python_result(options, arm, (q, sigma, steps, delta), installed)) for arm in ARMS]
        rows.append(row)
    epsilons = table(rows, ["q, sigma, T, delta", "dpfa: no less than", "dpfa"] + list(ARMS))
    q, steps, epsilon, delta = CALIBRATION
    mine = dpfa_result(options, ["noise-multiplier", "--sample_rate", repr(q), "--steps", str(steps), "--target_epsilon",
                                 repr(epsilon), "--target_delta", repr(delta)], "noise_multiplier")
    row = [f"{q:g}, {steps:g}, {epsilon:g}, {delta:g}", cell(mine)]
    row += [cell(python_result(options, f"calibrate {arm}", CALIBRATION, installed)) for arm in CALIBRATIONS]
    noise = table([row], ["q, T, target epsilon, delta", "dpfa noise multiplier"] + list(CALIBRATIONS))
    return epsilons, noise


def install(folder):
    """Makes the environment; returns what could not be installed, with the reason."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python, missing = os.path.join(folder, "bin", "python"), {}
    for name, packages in PACKAGES.items():
        print(f"installing {' '.join(packages)} in {folder}", file=sys.stderr)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"] + packages
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            missing[name] = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    return python, missing


def find_installed(python):
    found = {}
    for name in PACKAGES:
        program = f"import importlib.metadata as m, {name}; print(m.version('{name.replace('_', '-')}'))"
        done = subprocess.run([python, "-W", "ignore", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, check=False)
        if done.returncode == 0:
            found[name] = done.stdout.strip()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dpfa", default="build/account/bin/dpfa", help="the program")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the packages")
    parser.add_argument("--install", metavar="VENV", help="make this virtual environment first, and use it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300, help="seconds that one arm may take in one case")
    parser.add_argument("--markdown", metavar="FILE", help="also write the tables there")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        run_arm(options.arm, json.loads(options.case), options.repeats)
        return
    missing = {}
    if options.install:
        options.python, missing = install(options.install)
    installed = find_installed(options.python)
    epsilons, noise = compare(options, installed)
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
               platform.processor())
    notes = [f"Not installed: {name}{': ' + missing[name] if name in missing else ''}"
             for name in PACKAGES if name not in installed]
    versions = ", ".join(f"{name} {version}" for name, version in installed.items())
    text = "\n\n".join([f"epsilon, time; {cpu}; {versions}; medians of {options.repeats}", epsilons, noise] + notes) + "\n"
    print(text)
    if options.markdown:
        with open(options.markdown, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
