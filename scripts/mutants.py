#!/usr/bin/env python3
"""Weakens the egress proxy in one way at a time, and requires that the test named for each fails.

Works in a copy (target/mutants), so the tree is never touched. A test that does not compile proves nothing and counts as an
error, as does a change that can no longer be applied. Arguments: words; only attacks that contain all of them are tried.
"""
import pathlib, re, shutil, subprocess, sys, time, tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "mutants"
SOURCES = WORK / "tree" / "server" / "egress" / "src"
# cargo-nextest's exit code where tests ran and some failed.
TESTS_FAILED = 100


def copy_tree():
    """Copies the tracked files; unchanged ones keep their times, so that cargo compiles little anew."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, names.decode().split("\0")):
        source, copy = ROOT / name, WORK / "tree" / name
        if source.is_file() and not (copy.is_file() and copy.read_bytes() == source.read_bytes()):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def nextest(expression):
    command = ["cargo", "nextest", "run", "--locked", "-p", "nagaya-egress", "--no-fail-fast", "-E", expression]
    command += ["--target-dir", str(WORK / "target")]
    return subprocess.run(command, cwd=WORK / "tree", text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def weaken(mutant):
    """Applies the mutant; returns the changed files with their former text."""
    changes = [[mutant["from"], mutant["to"], mutant["file"]]]
    if also := mutant.get("also"):
        changes.append([*also[:2], also[2] if len(also) > 2 else mutant["file"]])
    before = {}
    for old, new, file in changes:
        path = SOURCES / file
        text = path.read_text()
        before.setdefault(path, text)
        if text.count(old) != 1:
            raise LookupError(f"{file} has {text.count(old)} of: {old}")
        path.write_text(text.replace(old, new))
    return before


def verdict(mutant):
    """None if the named test caught the defect, otherwise the reason why not."""
    before = {path: path.read_text() for path in SOURCES.rglob("*.rs")}
    try:
        weaken(mutant)
        run = nextest(f"test({mutant['red']})")
    except LookupError as error:
        return f"cannot be applied: {error}"
    finally:
        for path, text in before.items():
            if path.read_text() != text:
                path.write_text(text)
    if run.returncode == TESTS_FAILED and re.search(rf"FAIL .*{re.escape(mutant['red'])}", run.stdout):
        return None
    if run.returncode == 0:
        return "not noticed"
    return "no verdict:\n" + "\n".join(run.stdout.splitlines()[-30:])


def main():
    mutants = tomllib.loads((ROOT / "server" / "egress" / "mutants.toml").read_text())["mutant"]
    mutants = [mutant for mutant in mutants if all(word in mutant["attack"] for word in sys.argv[1:])]
    if not mutants:
        sys.exit("mutants: no attack contains these words")
    copy_tree()
    print("The unchanged proxy: every named test must pass", flush=True)
    healthy = nextest(" + ".join(f"test({red})" for red in sorted({mutant["red"] for mutant in mutants})))
    if healthy.returncode != 0:
        sys.exit(healthy.stdout + "\nmutants: a test fails without any defect")
    missed = 0
    for number, mutant in enumerate(mutants, 1):
        began = time.monotonic()
        why = verdict(mutant)
        missed += why is not None
        mark = "red" if why is None else "MISSED"
        print(f"[{number:2}/{len(mutants)}] {mark:6} {mutant['attack']} ← {mutant['red']} ({time.monotonic() - began:.0f} s)", flush=True)
        if why:
            print(f"        {why}", flush=True)
    if missed:
        sys.exit(f"mutants: {missed} of {len(mutants)} were not caught")
    print(f"mutants: ok, all {len(mutants)} were caught")


if __name__ == "__main__":
    main()
