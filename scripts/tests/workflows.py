#!/usr/bin/env python3
"""The workflows in .github parse, every `run:` calls make and nothing else, and every target it names is in the Makefile.

They cannot run on a developer's machine, so what they do must be what a make target does.
"""
import os, pathlib, re, shlex, sys

try:
    import yaml
except ImportError:
    # Debian's package serves Debian's interpreter, which need not be the first on the search path.
    debians = "/usr/bin/python3"
    if os.path.realpath(sys.executable) != os.path.realpath(debians) and os.path.exists(debians):
        os.execv(debians, [debians, *sys.argv])
    sys.exit("workflows.py: PyYAML is missing; scripts/setup.sh test installs it")

ROOT = pathlib.Path(__file__).resolve().parents[2]


def faults_of_command(command, targets):
    try:
        words = shlex.split(command)
    except ValueError as error:
        return [f"{command!r}: {error}"]
    if not words or words[0] != "make" or re.search(r"[;&|<>`\n]|\$\(", command.strip()):
        return [f"{command!r} is not a plain call of make"]
    named = [word for word in words[1:] if "=" not in word]
    faults = [f"{command!r}: the Makefile has no target {name}" for name in named if name not in targets]
    return faults if named else [f"{command!r} names no target"]


def faults_of_workflow(text, targets):
    try:
        workflow = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"does not parse: {error}"]
    # YAML 1.1 reads the key `on` as true.
    if not isinstance(workflow, dict) or not workflow.get("jobs") or not (workflow.get("on") or workflow.get(True)):
        return ["has no jobs, or no `on:`"]
    faults, runs = [], 0
    for name, job in workflow["jobs"].items():
        if "runs-on" not in job or "timeout-minutes" not in job:
            faults.append(f"job {name}: runs-on and timeout-minutes are required")
        for step in job.get("steps", []):
            if ("run" in step) == ("uses" in step):
                faults.append(f"job {name}: a step has either run or uses: {step}")
            if "run" in step:
                runs += 1
                faults += [f"job {name}: {fault}" for fault in faults_of_command(step["run"], targets)]
    return faults if runs else faults + ["runs nothing"]


def check_the_check(targets):
    """What is wrong is found: without this, a check that accepts everything would pass."""
    job = "on: push\njobs:\n  a:\n    runs-on: x\n    timeout-minutes: 1\n    steps:\n      - run: {}\n"
    assert faults_of_workflow(job.format("make test"), targets) == []
    for bad in ["cargo test", "make no-such-target", "make test && rm x", "make", "make test; true", "|\n          make test\n          true"]:
        assert faults_of_workflow(job.format(bad), targets), f"accepted: {bad}"
    assert faults_of_workflow("jobs: [", targets) and faults_of_workflow("on: push", targets)


def main():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    check_the_check(targets)
    workflows = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
    faults = [f"{path.relative_to(ROOT)}: {fault}" for path in workflows for fault in faults_of_workflow(path.read_text(), targets)]
    if len(workflows) < 3:
        faults.append(f"only {len(workflows)} workflows were found")
    yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
