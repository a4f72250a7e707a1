//! Servers that ask the engine for the wrong thing.

use http::Method;
use serde_json::{Value, json};

use super::{Defect, Mutant, red};
use crate::target::tamper::{Answer, Asked, AskFn, Memory, Tamper};

const fn asks(ask: AskFn) -> Defect {
    Defect::Engine(Tamper { ask: Some(ask), answer: None, event: None })
}

/// A container is asked for with something else in its specification.
fn create(asked: &mut Asked, change: impl FnOnce(&mut Value)) -> Option<Answer> {
    if asked.is(Method::POST, "/containers/create") {
        let mut body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        change(&mut body);
        asked.body = body.to_string().into();
    }
    None
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "container-left",
        title: "a room's container is not removed when the room goes",
        defects: &[asks(|asked, _| {
            let removal = asked.method == Method::DELETE && asked.path.contains("/containers/");
            removal.then(|| Answer::json(204, &Value::Null))
        })],
        red: &[red("BUG-12-DELETE", "no container"), red("BUG-12-SHUTDOWN", "no container")],
    },
    Mutant {
        id: "containers-forgotten",
        title: "the server does not see which containers there are",
        defects: &[asks(|asked, _| asked.is(Method::GET, "/containers/json").then(|| Answer::json(200, &json!([]))))],
        red: &[red("BUG-13", "workspace_active_containers as `docker ps`")],
    },
    Mutant {
        id: "neighbours-taken-down",
        title: "a server takes rooms of another deployment for its own",
        defects: &[Defect::Engine(Tamper { ask: Some(see_all), answer: Some(call_own), event: None })],
        red: &[red("LIFE-004", "took down a room that was not its own")],
    },
    Mutant {
        id: "socket-file-mounted",
        title: "the socket's file is mounted before it is there, so that the engine makes a directory of it",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                let source = body["HostConfig"]["Mounts"][0]["Source"].as_str().unwrap_or_default().to_owned();
                body["HostConfig"]["Mounts"] = json!([]);
                body["HostConfig"]["Binds"] = json!([format!("{source}/agent.sock:/var/run/ws/agent.sock")]);
            })
        })],
        red: &[red("BUG-06", "workspace_warm_pool_size")],
    },
    Mutant {
        id: "host-path-mounted",
        title: "a second directory of the host is mounted into rooms",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                let second = json!({"Type": "bind", "Source": "/etc", "Target": "/mnt", "ReadOnly": true});
                push(&mut body["HostConfig"]["Mounts"], second);
            })
        })],
        red: &[red("BUG-06", "what is mounted into the room from outside")],
    },
    Mutant {
        id: "room-on-a-network",
        title: "rooms are on a network",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["NetworkMode"] = json!("host")))],
        red: &[red("SEC-001", "NetworkMode")],
    },
    Mutant {
        id: "root-is-writable",
        title: "a room's root can be written to",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["ReadonlyRootfs"] = json!(false)))],
        red: &[red("SEC-001", "ReadonlyRootfs"), red("SEC-002", "was not refused")],
    },
    Mutant {
        id: "capability-kept",
        title: "rooms keep a capability",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["CapAdd"] = json!(["NET_RAW"])))],
        red: &[red("SEC-001", "CapAdd")],
    },
    Mutant {
        id: "no-seccomp",
        title: "rooms have no seccomp profile",
        defects: &[asks(|asked, _| {
            let options = json!(["no-new-privileges:true", "seccomp=unconfined"]);
            create(asked, |body| body["HostConfig"]["SecurityOpt"] = options)
        })],
        red: &[red("SEC-001", "SecurityOpt"), red("SEC-002", "was not refused")],
    },
    Mutant {
        id: "new-privileges",
        title: "programs in rooms may gain privileges",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                if let Some(options) = body["HostConfig"]["SecurityOpt"].as_array_mut() {
                    options.retain(|option| !option.to_string().contains("no-new-privileges"));
                }
            })
        })],
        red: &[red("SEC-001", "SecurityOpt")],
    },
    Mutant {
        id: "endless-swap",
        title: "a room's memory is limited, its swap is not",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["MemorySwap"] = json!(-1)))],
        red: &[red("SEC-001", "MemorySwap")],
    },
    Mutant {
        id: "endless-processes",
        title: "a room may have any number of processes",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["PidsLimit"] = json!(-1)))],
        red: &[red("SEC-001", "PidsLimit")],
    },
    Mutant {
        id: "room-runs-as-root",
        title: "programs in rooms run as root",
        defects: &[asks(|asked, _| create(asked, |body| body["User"] = json!("0:0")))],
        red: &[red("SEC-001", "User")],
    },
    Mutant {
        id: "tmp-is-executable",
        title: "programs can be run from /tmp",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                let tmp = &mut body["HostConfig"]["Tmpfs"]["/tmp"];
                *tmp = json!(tmp.as_str().unwrap_or_default().replace("noexec", "exec"));
            })
        })],
        red: &[red("SEC-002", "was not refused")],
    },
    Mutant {
        id: "secret-in-environment",
        title: "a credential of the server's is in the rooms' environment",
        defects: &[asks(|asked, memory| {
            let secret = memory.get("secret").unwrap_or_default();
            create(asked, |body| push(&mut body["Env"], json!(format!("SOME_KEY={secret}"))))
        })],
        red: &[red("SEC-001", "a credential of the server's is in docker inspect")],
    },
    Mutant {
        id: "unlabelled",
        title: "containers do not say when they were made",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                if let Some(labels) = body["Labels"].as_object_mut() {
                    labels.insert("nagaya.created-at".to_owned(), json!("some time ago"));
                }
            })
        })],
        red: &[red("SEC-001", "nagaya.created-at")],
    },
];

/// What is asked for by its deployment is asked for whatever its deployment is. Only a list: nothing is removed by it.
fn see_all(asked: &mut Asked, _: &Memory) -> Option<Answer> {
    if asked.is(Method::GET, "/containers/json") {
        // Containers of a run of this suite alone come back through `call_own`.
        asked.path = format!("{}?all=true", asked.route());
    }
    None
}

/// Rooms of this run's other deployments bear this deployment's label; containers of anybody else are left out.
fn call_own(asked: &Asked, answer: &mut Answer, memory: &Memory) {
    let (run, own) = (memory.get("run").unwrap_or_default(), memory.get("deployment").unwrap_or_default());
    let label = "nagaya.deployment";
    let prefix = format!("conf-{run}-");
    if asked.is(Method::GET, "/containers/json") {
        answer.edit(|list| {
            let Some(containers) = list.as_array_mut() else { return };
            containers.retain(|one| one["Labels"][label].as_str().is_some_and(|value| value.starts_with(&prefix)));
            containers.iter_mut().for_each(|one| one["Labels"][label] = json!(own));
        });
    } else if asked.method == Method::GET && asked.route().ends_with("/json") && asked.route().contains("/containers/") {
        answer.edit(|one| {
            if one["Config"]["Labels"][label].as_str().is_some_and(|value| value.starts_with(&prefix)) {
                one["Config"]["Labels"][label] = json!(own);
            }
        });
    }
}
