//! What rooms see of each other and of the host: SEC; and a way out that comes late: SOCK.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::image::start;
use super::inhabited::rooms;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::engine::Room;

/// How long rooms, and what is started in them, may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Leaves traces of a word: a process, files, an abstract socket, a port; and goes on.
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
/// Looks for traces of a word, which it is given backwards, or it would find itself.
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

const SCENARIO: Scenario = Scenario {
    id: "SEC",
    title: "",
    severity: Severity::Critical,
    requirement: "",
    requires: &[Capability::Docker, Capability::Files],
    profile: Profile::Host,
    destructive: false,
    limit: Duration::from_secs(90),
    body: body!(two_rooms),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "SEC-003",
        title: "a room sees nothing of another: no process, file, port or socket, and of sockets none but its own two",
        requirement: "what the room can see and do (/proc, mounts, network interfaces, other rooms' sockets)",
        ..SCENARIO
    },
    Scenario {
        id: "SOCK-004",
        title: "a request that is made in a room before its way out is there waits for it, and is answered",
        severity: Severity::Medium,
        requirement: "proxy late → agent waits",
        requires: &[Capability::Docker, Capability::Image],
        profile: Profile::Full,
        body: body!(late),
        ..SCENARIO
    },
];

async fn look(room: &Room, mark: &str) -> Result<Value, Failure> {
    let backwards: String = mark.chars().rev().collect();
    let looked = room.exec(["python3", "-c", LOOK, &backwards]).await?;
    check_eq(format!("status of a look around ({})", looked.printed), looked.status, 0)?;
    serde_json::from_str(looked.printed.trim()).map_err(|error| Failure::harness(format!("{error}: {}", looked.printed)))
}

async fn two_rooms(context: &Context) -> Result<(), Failure> {
    let (_deployment, rooms) = rooms(context, 2, LIMIT).await?;
    let [one, other] = rooms.as_slice() else { return Err(Failure::harness(format!("{} rooms", rooms.len()))) };
    let mark = context.unique("mark");
    let line = "nohup python3 -c \"$1\" \"$2\" > /workspace/told 2>&1 & echo started";
    one.exec(["sh", "-c", line, "sh", LEAVE, &mark]).await?;
    eventually(LIMIT, "traces in a room", async || {
        let told = one.exec(["cat", "/workspace/told"]).await?;
        check(told.printed.trim() == "left", told.printed)
    })
    .await?;
    // The control: in their own room they are found.
    let own = look(one, &mark).await?;
    for kind in ["processes", "files"] {
        check(own[kind].as_array().is_some_and(|found| !found.is_empty()), format!("no {kind} of the room's own: {own}"))?;
    }
    check(own["abstract"] == true && own["port"] == true, format!("its own sockets are not found: {own}"))?;

    let seen = look(other, &mark).await?;
    let nothing = json!([]);
    for (kind, expected) in [("processes", &nothing), ("files", &nothing), ("abstract", &json!(false)), ("port", &json!(false))] {
        check_eq(format!("{kind} of another room"), &seen[kind], expected)?;
    }
    for (whose, found) in [("one", &own), ("the other", &seen)] {
        let sockets = json!(["/run/ws/agent.sock", "/run/ws/proxy.sock"]).to_string();
        let found = found["sockets"].to_string().replace("/var/run/", "/run/");
        check_eq(format!("sockets that {whose} sees"), found, sockets)?;
    }
    Ok(())
}

async fn late(context: &Context) -> Result<(), Failure> {
    let (room, sockets) = start(context).await?;
    super::image::agent_answers(&room, &sockets).await?;
    let path = sockets.join("proxy.sock");
    let curl = "curl -sS --max-time 25 -x http://127.0.0.1:8080 -o /workspace/answer -w '%{http_code}' http://late.conformance.test/";
    room.shell(&format!("({curl} > /workspace/status 2>&1; echo ended >> /workspace/status) >/dev/null 2>&1 & echo started")).await?;
    let asks = async || check(!room.shell("pgrep -x curl").await?.printed.trim().is_empty(), "no curl runs");
    eventually(LIMIT, "a request that waits", asks).await?;
    check(!path.exists(), "there is a way out already")?;
    let told = room.shell("cat /workspace/status").await?;
    check_eq("what curl has told without a way out", told.printed.trim(), "")?;

    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    let asked = async {
        let (mut client, _) = listener.accept().await?;
        let mut head = Vec::new();
        let mut buffer = [0; 1024];
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            match client.read(&mut buffer).await? {
                0 => break,
                read => head.extend_from_slice(&buffer[..read]),
            }
        }
        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate").await?;
        client.shutdown().await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&head).into_owned())
    };
    let asked = tokio::time::timeout(LIMIT, asked).await;
    let head = asked.map_err(|_| Failure::assertion("the request did not come through the way out once it was there"))??;
    check(head.starts_with("GET http://late.conformance.test/ "), format!("another request came: {head:?}"))?;
    eventually(LIMIT, "the answer", async || {
        let told = room.shell("cat /workspace/status /workspace/answer").await?;
        check_eq("status and answer", told.printed.split_whitespace().collect::<String>().as_str(), "200endedlate")
    })
    .await
}
