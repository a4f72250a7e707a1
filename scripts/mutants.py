#!/usr/bin/env python3
"""Puts small defects into the source, one at a time, and requires that the scenarios and tests named for each turn red.

The defects are in scripts/mutants/*.toml, one file for each area. All of them are compiled into one build of a copy of the tree
(target/mutants), so the tree itself is never touched: a function with a defect becomes a choice between its body and the same body with
the defect, by a word that the program reads from a file when it starts. A defect outside of a function's body gets a build of its own.

    scripts/mutants.py [WORD…]            the defects that have all these words in their area, id or description
    scripts/mutants.py --check            only looks whether each defect can still be made and names what exists (a second)
    scripts/mutants.py --look EXPR […]    requires nothing: tells which scenarios of the expression and which tests notice; an entry
                                          can have an expression of its own, `look`
    scripts/mutants.py --look EXPR --first […]    the same until the first scenario and the first test have noticed; of the tests, those
                                          of the crates that have the defect in them
    scripts/mutants.py --list FILE […]    the new defects of this file alone

An entry has `id`, `defect` (what it does), `file` below the root or below the file's `root`, `from` and `to`; further changes of the same
defect are `also = [[from, to], …]`, each with a file as the third element if it is another one. `scenarios` and `tests` are those that must
turn red; `image = true` says that the defect is in the workspaces' image.
"""
import argparse, datetime, json, os, pathlib, re, shutil, subprocess, sys, time, tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
LISTS = ROOT / "scripts" / "mutants"
WORK = ROOT / "target" / "mutants"
TREE, TARGET, ACTIVE = WORK / "tree", WORK / "target", WORK / "active"
IMAGE, ACTIVE_IMAGE = "workspace-base:mutants", "workspace-base:mutant"
IN_IMAGE = "/etc/nagaya-mutant"
# Crates with defects, and their tests that run in the copy. Those of the architecture compare the source with the documentation.
PACKAGES = ["nagaya-server", "nagaya-driver", "nagaya-egress", "nagaya-telemetry", "nagaya-workspace", "nagaya-agent", "nagaya-protocol"]
# Where the server makes its threads.
RUNTIME = "server/src/cli.rs"
# cargo-nextest's exit code where tests ran and some failed.
TESTS_FAILED = 100
CHOICE = '''
#[allow(dead_code, clippy::all, clippy::pedantic)]
fn nagaya_mutant() -> &'static str {
    static ACTIVE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let read = |path: &&str| std::fs::read_to_string(path).ok();
        [%s, "%s"].iter().find_map(read).unwrap_or_default().trim().to_owned()
    });
    ACTIVE.as_str()
}
'''


class Unmade(Exception):
    """A defect cannot be made."""


class Mutant:
    def __init__(self, area, root, entry):
        self.area, self.id, self.defect = area, entry["id"], entry["defect"]
        also = entry.get("also", [])
        more = [also] if also and isinstance(also[0], str) else also
        changes = [[entry["from"], entry["to"], entry["file"]]] + [[*change, entry["file"]][:3] for change in more]
        self.changes = [(old, new, os.path.normpath(pathlib.Path(root) / file)) for old, new, file in changes]
        self.scenarios, self.tests = entry.get("scenarios", []), entry.get("tests", [])
        self.image, self.look = entry.get("image", False), entry.get("look")
        # The project's own artefacts, a Compose file for example, need no build: scenarios are told where the copy is.
        self.artefact = not any(file.endswith(".rs") for _, _, file in self.changes)
        self.places = []

    def locate(self, sources):
        """Finds the places of its changes; each text must be there exactly once."""
        self.places = []
        for old, new, file in self.changes:
            if file not in sources:
                path = ROOT / file
                if not path.is_file():
                    raise Unmade(f"there is no {file}")
                sources[file] = Source(path.read_text(), file.endswith(".rs"))
            count = sources[file].text.count(old)
            if count != 1:
                raise Unmade(f"{file} has {count} of: {old}")
            start = sources[file].text.index(old)
            self.places.append((file, start, start + len(old), new))

    def is_choice(self, sources):
        """Whether all of it is within bodies that a program can choose between when it runs."""
        return not self.artefact and all(sources[file].body(start, end) for file, start, end, _ in self.places)


def hidden(text):
    """The text with comments and literals blanked out, so that only code has braces."""
    out = list(text)
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|b?r(?P<h>#*)".*?"(?P=h)|b?"(?:\\.|[^"\\])*"|b?\'(?:\\(?:x..|u\{[^}]*\}|.)|[^\\\'\n])\'', re.S)
    for found in pattern.finditer(text):
        for at in range(*found.span()):
            if text[at] != "\n":
                out[at] = " "
    return "".join(out)


class Source:
    """A file, and the bodies of its functions."""

    def __init__(self, text, has_functions=True):
        self.text, self.bodies = text, []
        code = hidden(text) if has_functions else ""
        for found in re.finditer(r"(?P<before>[^\n;{}]*)\bfn\s+\w+", code):
            depth, at = 0, found.end()
            while at < len(code) and not (depth == 0 and code[at] in "{;"):
                depth += (code[at] in "([") - (code[at] in ")]")
                at += 1
            if at == len(code) or code[at] == ";":
                continue
            # A constant function cannot read a file, and two bodies are two types to `impl`.
            answer = code[found.end():at].partition("->")[2].partition(" where ")[0]
            whole = "const " not in found["before"] and "impl " not in answer
            start, depth = at, 0
            while True:
                depth += (code[at] == "{") - (code[at] == "}")
                at += 1
                if depth == 0:
                    break
            self.bodies.append((start, at, whole))

    def body(self, start, end):
        """The innermost body around a range, if it is one that can be chosen."""
        around = [body for body in self.bodies if body[0] < start and end < body[1]]
        best = min(around, key=lambda body: body[1] - body[0], default=None)
        return best[:2] if best and best[2] else None


def with_choices(source, file, mutants):
    """The source with the bodies of all these mutants, and a choice between them."""
    bodies = {}
    for mutant in mutants:
        for name, start, end, new in mutant.places:
            if name == file:
                bodies.setdefault(source.body(start, end), {}).setdefault(mutant.id, []).append((start, end, new))
    text = source.text
    # Bodies within bodies would need one more level; the outer one is then written out with the inner one as it is.
    for (start, end), changed in sorted(bodies.items(), reverse=True):
        if any(other != (start, end) and start <= other[0] and other[1] <= end for other in bodies):
            raise Unmade(f"{file}: a function inside of another one has a defect, too: {', '.join(changed)}")
        arms = ""
        for name, changes in changed.items():
            body = source.text[start:end]
            for at, until, new in sorted(changes, reverse=True):
                body = body[: at - start] + new + body[until - start:]
            arms += f'"{name}" => {body}\n'
        text = text[:start] + "{ match nagaya_mutant() {\n" + arms + "_ => " + source.text[start:end] + "\n} }" + text[end:]
    return text + CHOICE % (json.dumps(str(ACTIVE)), IN_IMAGE)


def write(path, text):
    """Writes a file if it is another one, so that cargo compiles little anew."""
    if not (path.is_file() and path.read_text() == text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def copy_tree(texts):
    """Copies the tracked files, some with another text. The suite, which has no defects, is left empty: it runs from the tree itself."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    names = {name for name in filter(None, listed.decode().split("\0")) if (ROOT / name).is_file()}
    for copy in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(copy.relative_to(TREE)) not in names:
            copy.unlink()
    for name in names:
        source, copy = ROOT / name, TREE / name
        if name in texts:
            continue
        if name.startswith("conformance/") and name.endswith(".rs"):
            write(copy, "//! Empty.\n#![allow(missing_docs)]\n" + ("" if name.endswith("/lib.rs") else "fn main() {}\n"))
        elif not (copy.is_file() and copy.read_bytes() == source.read_bytes()):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            shutil.copymode(source, copy)
    for name, text in texts.items():
        write(TREE / name, text)


def seed_target():
    """Takes over what is compiled of other people's crates."""
    ours = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug"
    if not (TARGET / "debug").exists() and ours.exists():
        TARGET.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--reflink=auto", str(ours), str(TARGET / "debug")], check=True)
        shutil.rmtree(TARGET / "debug" / "incremental", ignore_errors=True)


def run(command, cwd=TREE, **more):
    return subprocess.run(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)


def build(with_tests):
    """Compiles the programs, and what the tests need. The whole workspace is selected, as everywhere: cargo unifies features over it."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET), "RUSTFLAGS": os.environ.get("RUSTFLAGS", "")}
    for more in [["--bins"], ["--tests"]][: 2 if with_tests else 1]:
        built = run(["cargo", "build", "--locked", "--workspace", "--keep-going", *more], env=environment)
        if built.returncode != 0:
            wrong = "\n".join(re.findall(r"^error.*?(?=^\S|\Z)", built.stdout, re.S | re.M)) or built.stdout[-6000:]
            raise Unmade(f"it does not compile:\n{wrong}")


def build_image():
    # Not the directory of the real image: an agent with defects would count as fresh there. Only the CLI is shared, which is large.
    cli, shared = TARGET / "claude-cli", ROOT / "target" / "claude-cli"
    if not cli.exists() and shared.exists():
        TARGET.mkdir(parents=True, exist_ok=True)
        cli.symlink_to(shared)
    environment = {**os.environ, "CONTAINER_IMAGE": IMAGE, "CARGO_TARGET_DIR": str(TARGET)}
    built = run(["scripts/image.sh"], env=environment)
    if built.returncode != 0:
        raise Unmade(f"the image cannot be built:\n{built.stdout[-3000:]}")


def tests_of(expression, first=False):
    """Runs tests of the copy, perhaps until the first one fails; returns the names of those that failed, and the output."""
    packages = " + ".join(f"package({package})" for package in PACKAGES)
    stop = "--fail-fast" if first else "--no-fail-fast"
    command = ["cargo", "nextest", "run", "--locked", "--workspace", stop, "--no-tests=pass", "--target-dir", str(TARGET)]
    ran = run([*command, "-E", f"({packages}) and ({expression})"], env={**os.environ, "INSTA_UPDATE": "no"})
    if ran.returncode not in (0, TESTS_FAILED):
        raise Unmade("the tests did not run:\n" + "\n".join(ran.stdout.splitlines()[-30:]))
    failed = re.findall(r"^\s*(?:FAIL|TIMEOUT|SIGABRT|SIGSEGV|LEAK-FAIL) \[[^\]]*\] (?:\([^)]*\) )?\S+ (\S+)", ran.stdout, re.M)
    return sorted(set(failed)), ran.stdout


def scenarios_of(expression, image, first=False):
    """Runs scenarios against the server of the copy, perhaps until the first one fails; returns their outcomes."""
    report = WORK / "report"
    shutil.rmtree(report, ignore_errors=True)
    suite = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug"
    environment = {**os.environ, "NAGAYA_BIN": str(TARGET / "debug" / "nagaya")}
    environment.setdefault("NAGAYA_FIXTURES_BIN", str(suite / "nagaya-fixtures"))
    environment["NAGAYA_PROJECT_DIR"] = str(TREE)
    command = [str(suite / "nagaya-conformance"), "run", "--image", image, "--report", str(report), "--filter", expression]
    ran = run([*command, *(["--fail-fast"] if first else [])], ROOT, env=environment)
    if not (report / "report.json").is_file():
        raise Unmade(f"the scenarios did not run:\n{ran.stdout[-3000:]}")
    found = json.loads((report / "report.json").read_text())
    return {one["id"]: one["outcome"] for one in found["scenarios"]}


def activate(name, image=None):
    ACTIVE.write_text(name)
    if image:
        context = WORK / "image"
        context.mkdir(exist_ok=True)
        (context / "active").write_text(name)
        (context / "Dockerfile").write_text(f"FROM {IMAGE}\nUSER root\nCOPY --chmod=0644 active {IN_IMAGE}\nUSER appuser\n".replace("--chmod=0644 ", ""))
        (context / "active").chmod(0o644)
        built = run(["docker", "build", "--quiet", "-t", ACTIVE_IMAGE, str(context)], ROOT)
        if built.returncode != 0:
            raise Unmade(f"the image with the defect cannot be built:\n{built.stdout}")
        return ACTIVE_IMAGE
    return os.environ.get("NAGAYA_WORKSPACE_IMAGE", "workspace-base:latest")


def names(ids):
    return " or ".join(f"id(={one})" for one in sorted(ids))


RED = ("fail", "timeout")


def verdict(mutant):
    """Which of the named scenarios and tests noticed, and why not the others."""
    image = activate(mutant.id, mutant.image)
    missed, by = [], {"scenarios": False, "tests": False}
    if mutant.scenarios:
        outcomes = scenarios_of(names(mutant.scenarios), image)
        for one in mutant.scenarios:
            if outcomes.get(one) in RED:
                by["scenarios"] = True
            else:
                missed.append(f"{one}: {outcomes.get(one, 'no such scenario')}")
    if mutant.tests:
        failed, _ = tests_of(" + ".join(f"test({one})" for one in mutant.tests))
        for one in mutant.tests:
            if any(one in name for name in failed):
                by["tests"] = True
            else:
                missed.append(f"{one}: not red")
    return missed, by


# Whose tests have the code of a directory in them.
TESTED_BY = {
    "server/egress/": "package(nagaya-egress)",
    "server/driver/": "package(nagaya-driver)",
    "server/telemetry/": "package(nagaya-telemetry)",
    "server/workspace/": "package(nagaya-workspace) + (package(nagaya-server) and kind(test))",
    "workspace-base/": "package(nagaya-agent)",
}


def look(mutant, expression, first):
    """All that notices a defect, required or not; or the first that do."""
    image = activate(mutant.id, mutant.image)
    outcomes = scenarios_of(expression, image, first)
    tests = "not binary(architecture)"
    if first:
        file = mutant.changes[0][2]
        crates = next((crates for start, crates in TESTED_BY.items() if file.startswith(start)), "package(nagaya-server)")
        tests = f"({crates}) and {tests}"
    return sorted(one for one, outcome in outcomes.items() if outcome in RED), tests_of(tests, first)[0]


def load(words, only=None):
    mutants, faults = [], []
    for path in [*sorted(LISTS.glob("*.toml")), *([only] if only else [])]:
        listed = tomllib.loads(path.read_text())
        for entry in listed["mutant"]:
            mutants.append(Mutant(listed["area"], listed.get("root", ""), entry))
            mutants[-1].tried = not only or path == only
    for name in {mutant.id for mutant in mutants if [other.id for other in mutants].count(mutant.id) > 1}:
        faults.append(f"{name}: two defects have this id")
    known = set(re.findall(r"^\| ([A-Z]+-\w+(?:-[A-Z0-9]+)?) ", (ROOT / "docs" / "conformance-catalogue.md").read_text(), re.M))
    sources, whole = {}, []
    for mutant in mutants:
        try:
            mutant.locate(sources)
        except Unmade as error:
            faults.append(f"{mutant.id}: {error}")
        faults += [f"{mutant.id}: there is no scenario {one}" for one in mutant.scenarios if one not in known]
        if not mutant.scenarios and not mutant.tests:
            faults.append(f"{mutant.id}: names neither a scenario nor a test")
        if mutant.tried and all(word in f"{mutant.area} {mutant.id} {mutant.defect}" for word in words):
            whole.append(mutant)
    return mutants, whole, sources, faults


def table(results):
    """What was noticed, per area, as it stands in docs/mutants.md."""
    lines = ["| area | defects | scenarios alone | all tests |", "| --- | ---: | ---: | ---: |"]
    rows = {}
    for mutant, by in results:
        row = rows.setdefault(mutant.area, [0, 0, 0])
        row[0] += 1
        row[1] += by["scenarios"]
        row[2] += by["scenarios"] or by["tests"]
    for area, (all_of, scenarios, both) in sorted(rows.items()):
        lines.append(f"| {area} | {all_of} | {scenarios} | {both} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--look", metavar="EXPR")
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--list", type=pathlib.Path, help="a list of new defects, which alone are tried")
    options = parser.parse_args()
    mutants, chosen, sources, faults = load(options.words, options.list)
    if faults and not options.look:
        sys.exit("\n".join(faults) + f"\nmutants: {len(faults)} faults in the lists (scripts/mutants)")
    if options.check:
        return print(f"mutants: {len(mutants)} defects can be made")
    if not chosen:
        sys.exit("mutants: no defect has these words")
    # The defects of a list that is tried alone are compiled alone, which is quicker.
    together = [mutant for mutant in (chosen if options.list else mutants) if mutant.is_choice(sources)]
    alone = [mutant for mutant in chosen if mutant not in together]
    print(f"{len(chosen)} defects, {len(chosen) - len(alone)} of them in one build", flush=True)
    texts = {}
    try:
        for file in {place[0] for mutant in together for place in mutant.places}:
            texts[file] = with_choices(sources[file], file, together)
        # Bodies of which there are several need a larger stack in a build without optimisation.
        runtime = texts.get(RUNTIME, (ROOT / RUNTIME).read_text())
        texts[RUNTIME] = runtime.replace("new_multi_thread()", "new_multi_thread().thread_stack_size(64 << 20)")
        copy_tree(texts)
        seed_target()
        activate("")
        began = time.monotonic()
        build(any(mutant.tests for mutant in chosen) or options.look)
        if any(mutant.image for mutant in chosen):
            build_image()
        print(f"built in {time.monotonic() - began:.0f} s", flush=True)
        if not options.look:
            healthy(chosen)
    except Unmade as error:
        sys.exit(f"mutants: {error}")
    missed, results = 0, []
    for number, mutant in enumerate(sorted(chosen, key=lambda mutant: mutant in alone), 1):
        began = time.monotonic()
        if mutant in alone:
            changed = apply(mutant, sources, texts)
        try:
            if mutant in alone and not mutant.artefact:
                build(bool(mutant.tests) or options.look)
            if options.look:
                scenarios, tests = look(mutant, mutant.look or options.look, options.first)
                why, by = [], {"scenarios": bool(scenarios), "tests": bool(tests)}
                said = f"scenarios {scenarios}, tests {tests}"
            else:
                why, by = verdict(mutant)
                said = ", ".join([*mutant.scenarios, *mutant.tests])
        except Unmade as error:
            why, by, said = [str(error)], {"scenarios": False, "tests": False}, "no verdict"
        if mutant in alone:
            for file in changed:
                write(TREE / file, texts.get(file, sources[file].text))
        results.append((mutant, by))
        missed += bool(why)
        mark = "MISSED" if why or not any(by.values()) else "red"
        took = time.monotonic() - began
        print(f"[{number:3}/{len(chosen)}] {mark:6} {mutant.area}: {mutant.id}: {mutant.defect} ← {said} ({took:.0f} s)", flush=True)
        for one in why:
            print(f"        {one}", flush=True)
    activate("")
    (WORK / "table.md").write_text(f"{datetime.date.today()}\n\n{table(results)}\n")
    print(table(results))
    if missed:
        sys.exit(f"mutants: {missed} of {len(chosen)} were not noticed by all that must notice them")
    print(f"mutants: ok, all {len(chosen)} were noticed")


def healthy(chosen):
    """Without a defect, all that is named must pass."""
    print("The build without a defect: every named scenario and test must pass", flush=True)
    for image in (False, True):
        ids = {one for mutant in chosen if bool(mutant.image) == image for one in mutant.scenarios}
        if ids:
            outcomes = scenarios_of(names(ids), activate("", image))
            if bad := {one: outcome for one, outcome in outcomes.items() if outcome != "pass"}:
                raise Unmade(f"scenarios fail without any defect: {bad}")
    tests = sorted({one for mutant in chosen for one in mutant.tests})
    if tests:
        failed, output = tests_of(" + ".join(f"test({one})" for one in tests))
        if failed:
            raise Unmade(f"tests fail without any defect: {failed}\n{output[-3000:]}")
        for one in tests:
            if one not in output:
                raise Unmade(f"there is no test {one}")


def apply(mutant, sources, texts):
    """Makes a defect that cannot be chosen when the program runs; returns the files."""
    for file in {place[0] for place in mutant.places}:
        text = sources[file].text
        for _, start, end, new in sorted((place for place in mutant.places if place[0] == file), reverse=True):
            text = text[:start] + new + text[end:]
        write(TREE / file, text)
    return {place[0] for place in mutant.places}


if __name__ == "__main__":
    main()
