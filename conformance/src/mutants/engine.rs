//! Servers that send wrong requests to the Docker engine.

use http::Method;
use serde_json::{Value, json};

use super::mutant::{Mutant, red};
use crate::target::contained::SOCKETS_INSIDE;
use crate::target::defects::Defect;
use crate::target::memory::Memory;
use crate::target::tamper::{Answer, AskFn, Asked, Tamper};

const fn asks(ask: AskFn) -> Defect {
    Defect::Engine(Tamper { ask: Some(ask), answer: None, event: None })
}

/// Changes the specification of containers that are created.
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

/// The directory of the sockets is mounted so that the workspace may write to it.
pub(super) const SOCKETS_WRITABLE: Defect =
    asks(|asked, _| create(asked, |body| body["HostConfig"]["Mounts"][0]["ReadOnly"] = json!(false)));

/// Runs the container as another user.
fn as_user(body: &mut Value, uid: u32) {
    body["User"] = json!(format!("{uid}:{uid}"));
    for (_, options) in body["HostConfig"]["Tmpfs"].as_object_mut().into_iter().flatten() {
        let kept = options.as_str().unwrap_or_default().split(',').map(|option| match option.split_once('=') {
            Some((name @ ("uid" | "gid"), _)) => format!("{name}={uid}"),
            _ => option.to_owned(),
        });
        *options = json!(kept.collect::<Vec<_>>().join(","));
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "one-user-for-all",
        title: "All workspaces run as the same user",
        defects: &[asks(|asked, _| create(asked, |body| as_user(body, 50_000)))],
        red: &[red("SEC-004", "user of the other workspace")],
    },
    Mutant {
        id: "users-of-others-unseen",
        title: "A server does not see which users the workspaces of other deployments have",
        defects: &[Defect::Engine(Tamper {
            ask: None,
            answer: Some(|asked, answer, _| {
                if asked.is(Method::GET, "/containers/json") && asked.path.contains("nagaya.uid") {
                    answer.edit(|list| list.as_array_mut().into_iter().for_each(|list| list.truncate(1)));
                }
            }),
            event: None,
        })],
        red: &[red("SEC-005", "users of 8 workspaces")],
    },
    Mutant {
        id: "remapping-left-out",
        title: "Workspaces opt out of an engine's userns-remap",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["UsernsMode"] = json!("host")))],
        red: &[red("DEP-004", "are not remapped")],
    },
    Mutant {
        id: "nameless-user",
        title: "Workspaces run as a user that the image has no name for",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                let uid = body["User"].as_str().and_then(|user| user.split(':').next()?.parse::<u32>().ok());
                as_user(body, uid.unwrap_or(0) + 10_000);
            })
        })],
        red: &[red("SEC-004", "name of its user")],
    },
    Mutant {
        id: "container-left",
        title: "A workspace's container is not removed when the workspace is released",
        defects: &[asks(|asked, _| {
            let removal = asked.method == Method::DELETE && asked.path.contains("/containers/");
            removal.then(|| Answer::json(204, &Value::Null))
        })],
        red: &[
            red("BUG-12-HOST", "no container"),
            red("BUG-12-DELETE", "no container"),
            red("BUG-12-SHUTDOWN", "no container"),
            red("LIFE-007", "and nothing of others"),
            red("LIFE-008", "and nothing of others"),
            red("FILE-006", "no workspace"),
            red("CHAOS-001", "no container"),
        ],
    },
    Mutant {
        id: "rooms-go-on",
        title: "An abandoned workspace keeps running",
        defects: &[asks(|asked, _| {
            let end = asked.is(Method::POST, "/kill")
                || asked.is(Method::POST, "/stop")
                || (asked.method == Method::DELETE && asked.path.contains("/containers/"));
            end.then(|| Answer::json(204, &Value::Null))
        })],
        red: &[red("CHAOS-005", "no trace of workspace"), red("SEC-007", "the end of the workspace")],
    },
    Mutant {
        id: "orphans-have-no-youth",
        title: "A container that no server knows is removed without a grace period",
        defects: &[Defect::Engine(Tamper {
            ask: None,
            answer: Some(|asked, answer, _| {
                if asked.is(Method::GET, "/containers/json") {
                    answer.edit(|list| {
                        list.as_array_mut().into_iter().flatten().for_each(|one| one["Created"] = json!(1));
                    });
                }
            }),
            event: None,
        })],
        red: &[red("LIFE-006", "had just been created was removed")],
    },
    Mutant {
        id: "rooms-share-a-directory",
        title: "The directory of all workspaces' sockets is mounted into each of them",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                let own = body["HostConfig"]["Mounts"][0]["Source"].as_str().unwrap_or_default();
                let all = own.rsplit_once('/').unwrap_or_default().0.to_owned();
                push(&mut body["HostConfig"]["Mounts"], json!({"Type": "bind", "Source": all, "Target": "/mnt"}));
            })
        })],
        red: &[red("SEC-003", "sockets that one sees")],
    },
    Mutant {
        id: "containers-forgotten",
        title: "The server does not see which containers exist",
        defects: &[asks(|asked, _| asked.is(Method::GET, "/containers/json").then(|| Answer::json(200, &json!([]))))],
        red: &[red("BUG-13", "workspace_active_containers equal to `docker ps`")],
    },
    Mutant {
        id: "neighbours-taken-down",
        title: "A server removes a workspace of another deployment",
        defects: &[Defect::Engine(Tamper { ask: Some(reach_out), answer: Some(look_around), event: None })],
        red: &[red("LIFE-004", "removed a workspace that was not its own")],
    },
    Mutant {
        id: "own-path-for-the-hosts",
        title: "A server in a container mounts its own path in place of the host's",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                let source = body["HostConfig"]["Mounts"][0]["Source"].as_str().unwrap_or_default();
                let room = source.rsplit_once('/').unwrap_or_default().1;
                body["HostConfig"]["Mounts"][0]["Source"] = json!(format!("{SOCKETS_INSIDE}/{room}"));
            })
        })],
        red: &[red("BUG-07", "/health/ready")],
    },
    Mutant {
        id: "socket-file-mounted",
        title: "The socket file is mounted before it exists, so Docker creates a directory in its place",
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
        title: "A second directory of the host is mounted into workspaces",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                let second = json!({"Type": "bind", "Source": "/etc", "Target": "/mnt", "ReadOnly": true});
                push(&mut body["HostConfig"]["Mounts"], second);
            })
        })],
        red: &[red("BUG-06-TWENTY", "mounts of the workspace"), red("BUG-06", "mounts of the workspace")],
    },
    Mutant {
        id: "room-on-a-network",
        title: "Workspaces are attached to a network",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["NetworkMode"] = json!("host")))],
        red: &[red("SEC-001", "NetworkMode")],
    },
    Mutant {
        id: "root-is-writable",
        title: "A workspace's root file system is writable",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["ReadonlyRootfs"] = json!(false)))],
        red: &[red("SEC-001", "ReadonlyRootfs"), red("SEC-002", "was not refused")],
    },
    Mutant {
        id: "capability-kept",
        title: "Workspaces keep a Linux capability",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["CapAdd"] = json!(["NET_RAW"])))],
        red: &[red("SEC-001", "CapAdd")],
    },
    Mutant {
        id: "no-seccomp",
        title: "Workspaces have no seccomp profile",
        defects: &[asks(|asked, _| {
            let options = json!(["no-new-privileges:true", "seccomp=unconfined"]);
            create(asked, |body| body["HostConfig"]["SecurityOpt"] = options)
        })],
        red: &[red("SEC-001", "SecurityOpt"), red("SEC-002", "was not refused")],
    },
    Mutant {
        id: "new-privileges",
        title: "Programs in workspaces may gain privileges",
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
        title: "A workspace's memory is limited, but not its swap",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["MemorySwap"] = json!(-1)))],
        red: &[red("SEC-001", "MemorySwap")],
    },
    Mutant {
        id: "endless-processes",
        title: "A workspace may start any number of processes",
        defects: &[asks(|asked, _| create(asked, |body| body["HostConfig"]["PidsLimit"] = json!(-1)))],
        red: &[red("SEC-001", "PidsLimit")],
    },
    Mutant {
        id: "endless-disk",
        title: "A workspace may fill the disk without limit",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                let disk = &mut body["HostConfig"]["Tmpfs"]["/workspace"];
                let options = disk.as_str().unwrap_or_default().split(',').filter(|one| !one.starts_with("size="));
                *disk = json!(options.collect::<Vec<_>>().join(","));
            })
        })],
        red: &[red("RUN-004", "fills its disk was not stopped by anything")],
    },
    Mutant {
        id: "image-looked-at-once",
        title: "Workspaces start from an image that has been removed",
        defects: &[Defect::Engine(Tamper {
            ask: Some(|asked, memory| {
                let known = memory.get("image").unwrap_or_default();
                let known: Value = serde_json::from_str(&known).unwrap_or_default();
                if asked.is(Method::GET, "/json") && asked.path.contains("/images/") && !known.is_null() {
                    return Some(Answer::json(200, &known));
                }
                create(asked, |body| {
                    if known["Id"].is_string() {
                        body["Image"] = known["Id"].clone();
                    }
                })
            }),
            answer: Some(|asked, answer, memory| {
                if asked.is(Method::GET, "/json") && asked.path.contains("/images/") && answer.status == 200 {
                    memory.first("image", &answer.value().to_string());
                }
            }),
            event: None,
        })],
        red: &[red("LIFE-005", "did not end with an error")],
    },
    Mutant {
        id: "tmp-is-executable",
        title: "Programs can be executed from /tmp",
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
        title: "A credential of the server is in the workspaces' environment",
        defects: &[asks(|asked, memory| {
            let secret = memory.get("secret").unwrap_or_default();
            create(asked, |body| push(&mut body["Env"], json!(format!("SOME_KEY={secret}"))))
        })],
        red: &[
            red("SEC-001", "a credential of the server's is in docker inspect"),
            red("EGR-117", "a secret is in the workspace"),
        ],
    },
    Mutant {
        id: "unlabelled",
        title: "The label with the time of a container's creation has no time",
        defects: &[asks(|asked, _| {
            create(asked, |body| {
                if let Some(labels) = body["Labels"].as_object_mut() {
                    labels.insert("nagaya.created-at".to_owned(), json!("some time ago"));
                }
            })
        })],
        red: &[red("SHAPE-007", "nagaya.created-at is")],
    },
];

/// The label that names a container's deployment.
const LABEL: &str = "nagaya.deployment";

/// Requests the list of all containers, and once another deployment's container was seen, its removal instead.
fn reach_out(asked: &mut Asked, memory: &Memory) -> Option<Answer> {
    if !asked.is(Method::GET, "/containers/json") {
        return None;
    }
    let list = asked.route().to_owned();
    if let Some(foreign) = memory.get("foreign").filter(|_| memory.get("removed").is_none()) {
        memory.set("removed", "");
        asked.method = Method::DELETE;
        asked.path = format!("{}/{foreign}?force=true", list.trim_end_matches("/json"));
    } else {
        asked.path = format!("{list}?all=true");
    }
    None
}

/// Shows the server only its own containers, and remembers one of another deployment of the same run of this suite, never of
/// anyone else.
fn look_around(asked: &Asked, answer: &mut Answer, memory: &Memory) {
    if !asked.is(Method::GET, "/containers/json") {
        return;
    }
    let own = memory.get("deployment").unwrap_or_default();
    let neighbours = format!("conf-{}-", memory.get("run").unwrap_or_default());
    answer.edit(|list| {
        let Some(containers) = list.as_array_mut() else { return };
        for one in containers.iter() {
            let owner = one["Labels"][LABEL].as_str().unwrap_or_default();
            if owner.starts_with(&neighbours) && owner != own {
                memory.first("foreign", one["Id"].as_str().unwrap_or_default());
            }
        }
        containers.retain(|one| one["Labels"][LABEL].as_str() == Some(&own));
    });
}
