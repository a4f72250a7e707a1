#!/usr/bin/env python3
"""Prints the software bill of materials of the server, as CycloneDX 1.5 in JSON: every crate that `nagaya` is built from.

Development dependencies are left out; they are in no program.
"""
import json, pathlib, re, subprocess, sys, tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVER = "nagaya-server"


def closure(metadata):
    """Ids of the packages that the server needs to be built, and itself."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    (start,) = [package["id"] for package in metadata["packages"] if package["name"] == SERVER]
    found, pending = {start}, [start]
    while pending:
        for dependency in nodes[pending.pop()]["deps"]:
            used = any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
            if used and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                pending.append(dependency["pkg"])
    return start, found, nodes


def component(package, checksums):
    name, version = package["name"], package["version"]
    entry = {"type": "library", "bom-ref": package["id"], "name": name, "version": version}
    if package["source"]:
        entry["purl"] = f"pkg:cargo/{name}@{version}"
    if package["license"]:
        entry["licenses"] = [{"expression": package["license"].replace(" / ", " OR ").replace("/", " OR ")}]
    if checksum := checksums.get((name, version)):
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def main():
    host = re.search("host: (.*)", subprocess.run(["rustc", "-vV"], check=True, text=True, stdout=subprocess.PIPE).stdout)[1]
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in locked}
    start, found, nodes = closure(metadata)
    packages = {package["id"]: package for package in metadata["packages"] if package["id"] in found}
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(packages[start], checksums) | {"type": "application", "name": "nagaya"}},
        "components": [component(packages[id], checksums) for id in sorted(found - {start})],
        "dependencies": [
            {"ref": id, "dependsOn": sorted(set(nodes[id]["dependencies"]) & found)} for id in sorted(found)
        ],
    }
    # Paths of this machine are in the ids of the workspace's own crates.
    text = json.dumps(bom, indent=1)
    json.dump(json.loads(text.replace(str(ROOT), "nagaya")), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
