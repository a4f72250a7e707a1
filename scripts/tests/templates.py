#!/usr/bin/env python3
"""What other projects use to run the conformance suite: action.yml with its script, and the template for GitLab.

Both parse; every input reaches the script and every output leaves it; the script does what it says, with a suite that pretends. (That the
flags they pass are the suite's own is a Rust test, conformance/tests/suite/templates.rs: it needs the suite.)
    templates.py --shellcheck      lints the shell that stands in their YAML, in place of that
"""
import json, os, pathlib, re, subprocess, sys, tempfile

try:
    import yaml
except ImportError:
    # Debian's package serves Debian's interpreter, which need not be the first on the search path.
    debians = "/usr/bin/python3"
    if os.path.realpath(sys.executable) != os.path.realpath(debians) and os.path.exists(debians):
        os.execv(debians, [debians, *sys.argv])
    sys.exit("templates.py: PyYAML is missing; scripts/setup.sh test installs it")

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy/conformance/action.sh"


def action():
    return yaml.safe_load((ROOT / "action.yml").read_text())


def gitlab():
    return yaml.safe_load((ROOT / "deploy/conformance/gitlab.yml").read_text())


def faults_of_action(action, script):
    faults = []
    runs = action.get("runs", {})
    if runs.get("using") != "composite":
        return ["action.yml is no composite action"]
    [suite] = [step for step in runs["steps"] if step.get("id") == "suite"]
    for step in runs["steps"]:
        if ("run" in step) == ("uses" in step) or "run" in step and "shell" not in step:
            faults.append(f"a step has either run with a shell, or uses: {step}")
    given = suite["env"]
    for name, about in action["inputs"].items():
        if not about.get("description") or ("default" in about) == bool(about.get("required")):
            faults.append(f"input {name}: a description is needed, and either a default or `required: true`")
        used = any(f"inputs.{name}" in str(value) for step in runs["steps"] for value in step.values())
        if not used:
            faults.append(f"input {name} reaches no step")
    for variable, value in given.items():
        if value != f"${{{{ inputs.{variable.removeprefix('INPUT_').lower()} }}}}":
            faults.append(f"{variable} is {value}")
    read = set(re.findall(r"INPUT_[A-Z]+", script))
    if read != set(given):
        faults.append(f"the script and action.yml differ in {sorted(read ^ set(given))}")
    # An expression in shell would let whoever chooses its value run commands.
    faults += [f"an expression stands in shell: {step['run']}" for step in runs["steps"] if "${{" in step.get("run", "")]
    for name, about in action["outputs"].items():
        if about["value"] != f"${{{{ steps.suite.outputs.{name} }}}}" or f"output {name} " not in script:
            faults.append(f"output {name} is not the script's")
    return faults


def faults_of_gitlab(template):
    job = template.get(".conformance", {})
    faults = [f".conformance has no {key}" for key in ("image", "script", "artifacts") if key not in job]
    known = set(job.get("variables", {})) | {"CONFORMANCE_IMAGE", "CONFORMANCE_TARGET"}
    text = "\n".join(job.get("script", [])) + job.get("image", {}).get("name", "")
    used = set(re.findall(r"\bCONFORMANCE_[A-Z]+", text))
    if used != known:
        faults.append(f"variables that are declared and used differ in {sorted(used ^ known)}")
    if job.get("artifacts", {}).get("when") != "always":
        faults.append("the report of a failed run would be lost")
    return faults


def blocks(page):
    """The YAML of a page's indented blocks that are of YAML."""
    for block in re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", page, re.M):
        text = re.sub(r"^    ", "", block, flags=re.M)
        if re.match(r"[a-z]+:\n", text):
            yield yaml.safe_load(text)


def faults_of_page(page):
    """The examples of the documentation use inputs, outputs and variables that there are."""
    faults, shown = [], set()
    about, job = action(), gitlab()[".conformance"]
    for example in blocks(page):
        one = example.get("conformance", {})
        for step in one.get("steps", []):
            if "with" in step:
                shown.add("action")
                faults += [f"the example gives {name}, which is no input" for name in step["with"] if name not in about["inputs"]]
                faults += [f"the example lacks {name}" for name, one in about["inputs"].items() if one.get("required") and name not in step["with"]]
            outputs = re.findall(r"steps\.conformance\.outputs\.([a-z]+)", step.get("run", ""))
            faults += [f"the example reads {name}, which is no output" for name in outputs if name not in about["outputs"]]
        if one.get("extends") == ".conformance":
            shown.add("template")
            known = {*job["variables"], "CONFORMANCE_IMAGE", "CONFORMANCE_TARGET"}
            faults += [f"the example sets {name}, which is no variable" for name in one["variables"] if name not in known]
    return faults + [f"the {name} is not shown" for name in sorted({"action", "template"} - shown)]


def shells():
    """Every shell text in the YAML files, with the shell that runs it."""
    texts = [("bash", step["run"]) for step in action()["runs"]["steps"] if "run" in step]
    # The suite's image has sh, and GitLab's runner uses it.
    return texts + [("sh", text) for text in gitlab()[".conformance"]["script"]]


PRETENDER = """#!/bin/sh
printf '%s\\n' "$@" >"$0.words"
printf '%s' "$NAGAYA_CONFORMANCE_API_KEY" >"$0.key"
while [ $# -gt 1 ]; do [ "$1" != --report ] || printf '## summary\\n' >"$2/summary.md"; shift; done
exit "${PRETENDED:-0}"
"""


def check_the_script():
    """The script passes what it is given, keeps the key off the command line, and tells the verdict by the exit status."""
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        suite = work / "suite with a space"
        suite.write_text(PRETENDER)
        suite.chmod(0o755)

        def run(**inputs):
            files = {name: work / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
            for path in files.values():
                path.write_text("")
            env = {"PATH": os.environ["PATH"], **{name: str(path) for name, path in files.items()}, "INPUT_REPORT": str(work / "report"), **inputs}
            done = subprocess.run([SCRIPT], env=env, cwd=work, capture_output=True, text=True, timeout=60)
            outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
            return done.returncode, outputs, files["GITHUB_STEP_SUMMARY"].read_text(), done.stderr

        given = {"INPUT_PROGRAM": str(suite), "INPUT_TARGET": "https://host", "INPUT_TOKEN": "a-secret", "INPUT_PROFILE": "core",
                 "INPUT_FILTER": "id(=API-001) or x", "INPUT_CA": "/ca.pem", "INPUT_STRICT": "true"}
        for status, verdict in [(0, "conformant"), (1, "non-conformant"), (2, "incomplete"), (3, "none"), (70, "none")]:
            code, outputs, summary, _ = run(**given, PRETENDED=str(status))
            assert code == status and outputs == {"report": str(work / "report"), "verdict": verdict}, (status, code, outputs)
            assert summary.startswith("## summary" if verdict != "none" else "## Conformance: no verdict"), summary
        words = suite.with_name(suite.name + ".words").read_text().splitlines()
        assert words == ["run", "--target", "https://host", "--profile", "core", "--filter", "id(=API-001) or x", "--strict", "--ca",
                         "/ca.pem", "--report", str(work / "report")], words
        assert suite.with_name(suite.name + ".key").read_text() == "a-secret"
        # The same through an image, which sees other paths.
        docker = work / "docker"
        docker.write_text(PRETENDER)
        docker.chmod(0o755)
        through = {name: value for name, value in given.items() if name != "INPUT_PROGRAM"}
        code, outputs, _, error = run(**through, INPUT_IMAGE="suite:1", PATH=f"{work}:{os.environ['PATH']}")
        words = docker.with_name("docker.words").read_text().splitlines()
        at = words.index("suite:1")
        assert words[at + 1] == "run" and "a-secret" not in " ".join(words), (words, error)
        assert words[-4:] == ["--ca", "/ca.pem", "--report", "/report"] and f"--volume={work}/report:/report" in words[:at], words
        for inputs, says in [({**given, "INPUT_TARGET": ""}, "target"), ({**given, "INPUT_PROGRAM": ""}, "image and program"),
                             ({**given, "INPUT_STRICT": "yes"}, "strict: yes")]:
            code, outputs, _, error = run(**inputs)
            assert code == 64 and outputs.get("verdict") == "none" and says in error, (inputs, code, error)


def check_the_check():
    """What is wrong is found."""
    good, script = action(), SCRIPT.read_text()
    for change in [
        lambda it: it["inputs"].update(more={"description": "x", "default": ""}),
        lambda it: it["inputs"]["filter"].pop("default"),
        lambda it: it["runs"]["steps"][0]["env"].pop("INPUT_CA"),
        lambda it: it["runs"]["steps"][0].update(run="echo ${{ inputs.target }}"),
        lambda it: it["outputs"]["verdict"].update(value="x"),
    ]:
        bad = json.loads(json.dumps(good))
        change(bad)
        assert faults_of_action(bad, script), f"accepted: {bad}"
    bad = json.loads(json.dumps(gitlab()))
    bad[".conformance"]["variables"]["CONFORMANCE_MORE"] = ""
    assert faults_of_gitlab(bad)
    page = (ROOT / "docs/conformance.md").read_text()
    for wrong in [page.replace("            token: ", "            tokens: "), page.replace("outputs.verdict", "outputs.result"),
                  page.replace("        CONFORMANCE_TARGET: ", "        CONFORMANCE_URL: "), page.replace("extends: .conformance", "x: y")]:
        assert wrong != page and faults_of_page(wrong)


def main():
    if sys.argv[1:] == ["--shellcheck"]:
        failed = [text for shell, text in shells() if subprocess.run(["shellcheck", "--shell", shell, "-"], input=text, text=True).returncode]
        sys.exit(f"{len(failed)} texts have remarks" if failed else 0)
    faults = [f"action.yml: {fault}" for fault in faults_of_action(action(), SCRIPT.read_text())]
    faults += [f"gitlab.yml: {fault}" for fault in faults_of_gitlab(gitlab())]
    page = (ROOT / "docs/conformance.md").read_text()
    faults += [f"docs/conformance.md: {fault}" for fault in faults_of_page(page)]
    for shell, text in shells():
        checked = subprocess.run([shell, "-n"], input=text, text=True, capture_output=True)
        faults += [f"{text!r}: {checked.stderr}"] if checked.returncode else []
    if faults:
        sys.exit("\n".join(faults))
    check_the_check()
    check_the_script()


if __name__ == "__main__":
    main()
