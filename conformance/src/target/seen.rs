//! What a target's workspaces look like on their engine, for a first target file: nothing is created or changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::harness::engine::Engine;

/// Words in the key of a label that has the deployment's id.
const DEPLOYMENT_WORDS: [&str; 5] = ["deployment", "instance", "installation", "cluster", "server"];
/// A workspace's id is at least so long: a shorter value may be part of a name by chance.
const SHORTEST_ID: usize = 4;

/// A container that may be a workspace: it runs without a network, and has a directory of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    name: String,
    image: String,
    /// Its labels, without those of its image.
    labels: BTreeMap<String, String>,
    /// The paths of those directories inside.
    directories: Vec<String>,
}

/// What workspaces have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Keys of `[containers]` with their values.
    pub(super) containers: Vec<(&'static str, String)>,
    /// The workspaces' image, if it is one.
    pub(super) image: Option<String>,
    /// Deployments whose workspaces were seen.
    pub(super) deployments: BTreeSet<String>,
    /// What could not be found out.
    pub(super) open: Vec<String>,
}

/// Looks at the running workspaces of an engine, or only at those that have the id `deployment` in a label.
///
/// # Errors
/// The engine does not answer, or there are none, or those of several implementations.
pub(super) async fn look(engine: &Engine, deployment: Option<&str>) -> anyhow::Result<Look> {
    let docker = engine.docker();
    let mut seen = Vec::new();
    for summary in docker.list_containers(None).await? {
        let Some(id) = summary.id else { continue };
        // It may have been removed meanwhile.
        let Ok(found) = docker.inspect_container(&id, None).await else { continue };
        let host = found.host_config.unwrap_or_default();
        let mounts = found.mounts.unwrap_or_default();
        let directories = mounts.into_iter().filter(|mount| mount.name.is_none()).filter_map(|mount| mount.destination);
        let directories: Vec<String> = directories.collect();
        if host.network_mode.as_deref() != Some("none") || directories.is_empty() {
            continue;
        }
        let config = found.config.unwrap_or_default();
        let of_image = match &found.image {
            Some(image) => {
                docker.inspect_image(image).await?.config.and_then(|config| config.labels).unwrap_or_default()
            }
            None => HashMap::new(),
        };
        let labels = config.labels.unwrap_or_default().into_iter();
        let labels = labels.filter(|(key, value)| of_image.get(key) != Some(value)).collect();
        let name = found.name.unwrap_or_default().trim_start_matches('/').to_owned();
        seen.push(Seen { name, image: config.image.unwrap_or_default(), labels, directories });
    }
    seen.retain(|one| deployment.is_none_or(|id| one.labels.values().any(|value| value == id)));
    common(&seen).map_err(anyhow::Error::msg)
}

fn common(seen: &[Seen]) -> Result<Look, String> {
    let mut kinds: BTreeMap<Vec<&String>, Vec<&Seen>> = BTreeMap::new();
    for one in seen {
        kinds.entry(one.labels.keys().collect()).or_default().push(one);
    }
    let mut kinds: Vec<Vec<&Seen>> = kinds.into_values().collect();
    let alike = match (kinds.pop(), kinds.len()) {
        (None, _) => return Err("no workspace is running: begin a run in the target, and describe it again".to_owned()),
        (Some(only), 0) => only,
        (Some(one), _) => {
            let names: Vec<&str> = kinds.iter().chain([&one]).map(|kind| &*kind[0].name).collect();
            return Err(format!(
                "containers of several kinds run without a network ({}): stop those that are not the target's, and describe it again",
                names.join(", ")
            ));
        }
    };
    let mut look = Look::default();
    let images: BTreeSet<&str> = alike.iter().map(|one| &*one.image).collect();
    match &images.iter().collect::<Vec<_>>()[..] {
        [only] => look.image = Some((**only).to_owned()),
        several => look.open.push(format!(
            "which image is the workspaces': set images.workspace to one of {several:?}, or give --deployment"
        )),
    }
    let values = |key: &str| alike.iter().map(|one| one.labels[key].as_str()).collect::<Vec<_>>();
    let keys: Vec<&String> = alike[0].labels.keys().collect();
    let is_id =
        |key: &str| alike.iter().all(|one| one.labels[key].len() >= SHORTEST_ID && one.name.contains(&one.labels[key]));
    let workspace = keys.iter().copied().filter(|key| is_id(key)).max_by_key(|key| values(key)[0].len());
    match workspace {
        Some(key) => {
            let patterns: BTreeSet<String> =
                alike.iter().map(|one| one.name.replacen(&one.labels[key], "{workspace}", 1)).collect();
            match patterns.iter().next().filter(|_| patterns.len() == 1) {
                Some(pattern) => look.containers.push(("name", pattern.clone())),
                None => look
                    .open
                    .push("the names of workspaces' containers follow no pattern: set containers.name".to_owned()),
            }
            look.containers.push(("workspace_label", key.clone()));
        }
        None => look
            .open
            .push("no label has a part of the container's name: set containers.workspace_label and name".to_owned()),
    }
    let created = keys.iter().copied().find(|key| values(key).iter().all(|value| is_time(value)));
    match created {
        Some(key) => look.containers.push(("created_label", key.clone())),
        None => look.open.push("no label has a time: set containers.created_label".to_owned()),
    }
    let rest: Vec<&String> = keys.into_iter().filter(|key| Some(*key) != workspace && Some(*key) != created).collect();
    let is_named = |key: &&String| DEPLOYMENT_WORDS.iter().any(|word| key.to_lowercase().contains(word));
    let named: Vec<&String> = rest.iter().copied().filter(is_named).collect();
    match (&named[..], &rest[..]) {
        ([key], _) | (_, [key]) => {
            look.containers.push(("deployment_label", (*key).to_string()));
            look.deployments = values(key).into_iter().map(str::to_owned).collect();
        }
        _ => look.open.push(format!(
            "which label has the deployment's id: set containers.deployment_label to one of {}",
            rest.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(", ")
        )),
    }
    match &alike[0].directories[..] {
        [only] => look.containers.push(("sockets", only.clone())),
        several => look
            .open
            .push(format!("which directory has the sockets: set containers.sockets to one of {}", several.join(", "))),
    }
    Ok(look)
}

/// Whether a label's value is a time: RFC 3339, or seconds or milliseconds since 1970.
fn is_time(value: &str) -> bool {
    let is_count = (10..=13).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    is_count || value.parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(id: &str, deployment: &str) -> Seen {
        let labels =
            [("x.room", id), ("x.deployment", deployment), ("x.at", "2026-01-01T00:00:00Z"), ("x.uid", "100001")];
        Seen {
            name: format!("room-{id}-x"),
            image: "theirs:1".to_owned(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            directories: vec!["/run/s".to_owned()],
        }
    }

    #[test]
    fn what_workspaces_have_in_common_is_found() {
        let look = common(&[room("aaaa1", "one"), room("bbbb2", "two")]).expect("alike");
        let expected = [
            ("name", "room-{workspace}-x"),
            ("workspace_label", "x.room"),
            ("created_label", "x.at"),
            ("deployment_label", "x.deployment"),
            ("sockets", "/run/s"),
        ];
        assert_eq!(look.containers, expected.map(|(key, value)| (key, value.to_owned())));
        assert_eq!((look.image.as_deref(), look.deployments.len(), look.open.len()), (Some("theirs:1"), 2, 0));
    }

    #[test]
    fn what_is_ambiguous_is_left_open_and_nothing_is_guessed() {
        let mut one = room("aaaa1", "one");
        one.labels.remove("x.deployment");
        one.labels.extend([("x.at".to_owned(), "lately".to_owned()), ("x.colour".to_owned(), "red".to_owned())]);
        one.directories.push("/tools".to_owned());
        let look = common(&[one]).expect("alike");
        let keys: Vec<&str> = look.containers.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["name", "workspace_label"]);
        for part in ["containers.created_label", "x.at, x.colour, x.uid", "/run/s, /tools"] {
            assert!(look.open.iter().any(|open| open.contains(part)), "{part}: {:?}", look.open);
        }
        let other_image = Seen { image: "theirs:2".to_owned(), ..room("bbbb2", "two") };
        let look = common(&[room("aaaa1", "one"), other_image]).expect("alike");
        assert!(
            look.image.is_none() && look.open[0].contains("theirs:1") && look.open[0].contains("theirs:2"),
            "{look:?}"
        );
        assert!(common(&[]).expect_err("none").contains("begin a run"));
        let other = Seen { name: "else".to_owned(), directories: vec!["/x".to_owned()], ..Seen::default() };
        let why = common(&[room("aaaa1", "one"), other]).expect_err("two kinds");
        assert!(why.contains("room-aaaa1-x") && why.contains("else"), "{why}");
    }
}
