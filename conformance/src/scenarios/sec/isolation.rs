//! What a workspace can see of another.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::rooms::rooms;

/// How long workspaces and the programs in them may take to start.
const LIMIT: Duration = Duration::from_secs(30);
/// Leaves traces of a word (a process, files, an abstract socket, a port) and keeps running.
const LEAVE: &str = r#"
import os, socket, sys, time
mark = sys.argv[1]
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\0" + mark); abstract.listen()
port = socket.socket(); port.bind(("127.0.0.1", 18999)); port.listen()
for place in ["/workspace", "/tmp", "/dev/shm", os.path.expanduser("~")]:
    try: open(os.path.join(place, mark), "w").close()
    except OSError: pass
print("left", flush=True)
time.sleep(100)
"#;
/// Searches for traces of a word, which is passed reversed, so that the search does not find itself.
const LOOK: &str = r#"
import json, os, socket, stat, sys
mark = sys.argv[1][::-1]
def read(path):
    try: return open(path, "rb").read().decode("utf-8", "replace")
    except OSError: return ""
found = {"processes": [], "files": [], "sockets": [], "abstract": False, "port": False}
for pid in filter(str.isdigit, os.listdir("/proc")):
    if mark in read(f"/proc/{pid}/cmdline"): found["processes"].append(pid)
for top, dirs, files in os.walk("/"):
    dirs[:] = [one for one in dirs if os.path.join(top, one) not in ("/proc", "/sys", "/usr")]
    for name in files + dirs:
        path = os.path.join(top, name)
        if mark in name: found["files"].append(path)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode): found["sockets"].append(path)
        except OSError: pass
for kind, family, address in [("abstract", socket.AF_UNIX, "\0" + mark), ("port", socket.AF_INET, ("127.0.0.1", 18999))]:
    client = socket.socket(family)
    try: client.connect(address); found[kind] = True
    except OSError: pass
found["sockets"].sort()
print(json.dumps(found))
"#;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SEC-003",
    "A workspace sees no process, file, port or socket of another workspace, and of all sockets only its own two",
    "what the workspace can see and do (/proc, mounts, network interfaces, other workspaces' sockets)",
    body!(two_rooms),
)
.severity(Severity::Critical)
.profile(Profile::Host)
.requires(&[Capability::Docker, Capability::Files])
.limit(90)];

async fn look(room: &Room, mark: &str) -> Result<Value, Failure> {
    let backwards: String = mark.chars().rev().collect();
    let looked = room.exec(["python3", "-c", LOOK, &backwards]).await?;
    check_eq(format!("status of the search ({})", looked.printed), looked.status, 0)?;
    serde_json::from_str(looked.printed.trim())
        .map_err(|error| Failure::harness(format!("{error}: {}", looked.printed)))
}

async fn two_rooms(context: &Context) -> Result<(), Failure> {
    let (_deployment, rooms) = rooms(context, 2, LIMIT).await?;
    let [one, other] = rooms.as_slice() else { return Err(Failure::harness(format!("{} workspaces", rooms.len()))) };
    let mark = context.unique("mark");
    let line = "nohup python3 -c \"$1\" \"$2\" > /workspace/output 2>&1 & echo started";
    one.exec(["sh", "-c", line, "sh", LEAVE, &mark]).await?;
    eventually(LIMIT, "traces in a workspace", async || {
        let output = one.exec(["cat", "/workspace/output"]).await?;
        check(output.printed.trim() == "left", output.printed)
    })
    .await?;
    // The control: in their own workspace they are found.
    let own = look(one, &mark).await?;
    for kind in ["processes", "files"] {
        check(
            own[kind].as_array().is_some_and(|found| !found.is_empty()),
            format!("no {kind} of the workspace's own: {own}"),
        )?;
    }
    check(own["abstract"] == true && own["port"] == true, format!("its own sockets are not found: {own}"))?;

    let seen = look(other, &mark).await?;
    let nothing = json!([]);
    for (kind, expected) in
        [("processes", &nothing), ("files", &nothing), ("abstract", &json!(false)), ("port", &json!(false))]
    {
        check_eq(format!("{kind} of another workspace"), &seen[kind], expected)?;
    }
    for (viewer, found) in [("one", &own), ("the other", &seen)] {
        let sockets = json!(["/run/ws/agent.sock", "/run/ws/proxy.sock"]).to_string();
        let found = found["sockets"].to_string().replace("/var/run/", "/run/");
        check_eq(format!("sockets that {viewer} sees"), found, sockets)?;
    }
    Ok(())
}
