//! Settings of what tenants may decide: their vaults, and tools of the model's provider.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::reader::Reader;
use super::rooms::Rooms;
use crate::providers::Providers;
use crate::tenancy::vaults::seal::{KEY_BYTES, Sealer, parse_key};
use crate::tenancy::{Operator, Settings};

/// How long the command that prints the vaults' key may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(20);
/// Pause between two looks at whether it has ended.
const COMMAND_LOOK: Duration = Duration::from_millis(20);

type Key = Zeroizing<[u8; KEY_BYTES]>;

/// Reads what tenants may decide, within what `rooms` has.
pub(super) fn read(r: &mut Reader, rooms: &Rooms, providers: &Providers) -> Settings {
    let provider_tools = r.parse("MODEL_PROVIDER_TOOLS", "", |text| {
        let tools: Vec<String> = items(text).collect();
        let named = |tool: &String| tool.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if tools.iter().all(named) { Ok(tools) } else { Err("accepted: names such as web_search, separated by commas") }
    });
    let roles = r.parse("VAULT_ROLES", "", |text| {
        let roles: Vec<String> = items(text).collect();
        let is_role = |role: &String| role.starts_with("arn:") && role.contains(":role/");
        if roles.iter().all(is_role) { Ok(roles) } else { Err("accepted: ARNs of roles, separated by commas") }
    });
    let from_file = r.parse("VAULT_KEY_FILE", "", |path| optional(path, key_of_file));
    let from_command = r.parse("VAULT_KEY_COMMAND", "", |command| optional(command, key_of_command));
    let older = r.parse("VAULT_OLD_KEY_FILES", "", |paths| {
        items(paths).map(|path| key_of_file(&path)).collect::<Result<Vec<Key>, _>>()
    });
    if from_file.is_some() && from_command.is_some() {
        r.error("VAULT_KEY_FILE and VAULT_KEY_COMMAND: set one of them");
    }
    let key = from_file.or(from_command);
    if key.is_none() && !older.is_empty() {
        r.error("VAULT_OLD_KEY_FILES: needs VAULT_KEY_FILE or VAULT_KEY_COMMAND, with the key for new secrets");
    }
    let sealer = key.and_then(|key| {
        Sealer::new(&key, &older).inspect_err(|error| r.error(format!("VAULT_KEY_FILE: {error}"))).ok()
    });
    let operator = Operator {
        models: Vec::new(),
        provider_tools,
        run_seconds: rooms.execution_timeout.as_secs(),
        images: rooms.images.keys().cloned().collect(),
        disk: rooms.limits.disk,
    };
    Settings { operator, sealer, roles, providers: Some(providers.clone()) }
}

fn items(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty())
}

fn optional<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

fn key_of_file(path: &str) -> Result<Key, String> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| error.to_string())?;
    parse_key(&text)
}

/// The key that a command prints, without a shell: words are separated by spaces.
fn key_of_command(command: &str) -> Result<Key, String> {
    let mut words = command.split_whitespace();
    let mut child = Command::new(words.next().ok_or("accepted: a program and its arguments")?)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| error.to_string())?;
    let began = Instant::now();
    // A key fits into the pipe, so the program can end without being read.
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if began.elapsed() >= COMMAND_DEADLINE {
            let ended = child.kill().and_then(|()| child.wait());
            return Err(format!("it did not end within {COMMAND_DEADLINE:?} ({ended:?})"));
        }
        std::thread::sleep(COMMAND_LOOK);
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("it ended with {}", output.status));
    }
    parse_key(&Zeroizing::new(String::from_utf8(output.stdout).map_err(|_| "it printed no text")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(pairs: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let environment = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut reader = Reader::new(environment, None);
        let region = "us-east-1".to_owned();
        let providers = Providers { bedrock: true, anthropic: None, region, idle: Duration::from_secs(60) };
        let (rooms, _) = Rooms::read(&mut reader);
        let settings = read(&mut reader, &rooms, &providers);
        let errors = reader.finish().err().unwrap_or_default();
        (settings, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_key_comes_from_a_file_or_a_command_and_errors_do_not_show_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let (good, bad) = (file("good", &"0f".repeat(KEY_BYTES)), file("bad", "hunter2"));
        let key_id = |pairs: &[(&str, &str)]| {
            let (settings, errors) = read_from(pairs);
            assert_eq!(errors, [""; 0]);
            settings.sealer.map(|sealer| sealer.key_id().to_owned())
        };
        let by_file = key_id(&[("VAULT_KEY_FILE", &good)]);
        assert!(by_file.is_some());
        assert_eq!(key_id(&[("VAULT_KEY_COMMAND", &format!("cat {good}"))]), by_file);
        assert_eq!(key_id(&[]), None);
        for wrong in [
            &[("VAULT_KEY_FILE", bad.as_str())][..],
            &[("VAULT_KEY_FILE", "/no/such/file")],
            &[("VAULT_KEY_COMMAND", "false")],
            &[("VAULT_KEY_COMMAND", &format!("cat {bad}"))],
            &[("VAULT_KEY_FILE", &good), ("VAULT_KEY_COMMAND", &format!("cat {good}"))],
            &[("VAULT_OLD_KEY_FILES", &good)],
            &[("VAULT_ROLES", "admin")],
            &[("MODEL_PROVIDER_TOOLS", "Web Search")],
        ] {
            let (_, errors) = read_from(wrong);
            assert!(!errors.is_empty() && !format!("{errors:?}").contains("hunter2"), "{wrong:?}: {errors:?}");
        }
    }
}
