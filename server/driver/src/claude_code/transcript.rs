//! The CLI's transcripts: files of JSON lines in its home directory, from which it resumes a session. With `--session-mirror` it reports
//! each line that it adds (`{"type": "transcript_mirror", "filePath": …, "entries": […]}`).

use std::collections::HashSet;

use serde_json::Value;

use crate::Memory;
use crate::event::Event;

/// Where the transcripts are, below the home directory.
const DIRECTORY: &str = ".claude/projects/";
/// Bytes of a path below it, and components.
const LONGEST_PATH: usize = 512;
const MOST_COMPONENTS: usize = 5;
/// Files of one session: its own, and those of its sub-agents.
const MOST_FILES: usize = 1_000;
/// Entries of all of them.
const MOST_ENTRIES: usize = 500_000;

/// The lines that the CLI has added to a file; `None` for a file that is none of its transcripts.
pub(super) fn mirrored(message: &Value) -> Option<Event> {
    let path = message["filePath"].as_str()?;
    let at = path.find(DIRECTORY)?;
    let file = path.get(at..).filter(|file| is_transcript(file))?.to_owned();
    let lines = message["entries"].as_array()?.iter().map(|entry| format!("{entry}\n")).collect();
    Some(Event::Transcript { file, lines })
}

fn is_transcript(file: &str) -> bool {
    let Some(below) = file.strip_prefix(DIRECTORY) else { return false };
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let parts: Vec<&str> = below.split('/').collect();
    below.len() <= LONGEST_PATH
        && (2..=MOST_COMPONENTS).contains(&parts.len())
        && parts.iter().all(|part| plain(part))
        && std::path::Path::new(below).extension().is_some_and(|extension| extension == "jsonl")
}

/// The session of a file: the main transcript is directly in the project's directory, and named after it.
fn session(file: &str) -> Option<&str> {
    let (project, name) = file.strip_prefix(DIRECTORY)?.split_once('/')?;
    name.strip_suffix(".jsonl").filter(|name| !project.is_empty() && !name.contains('/'))
}

/// The memory that these lines make. Lines that are there twice, because a server has read them again after a restart, count once.
/// `None` if a message is missing to which another one refers.
pub(super) fn restore(reported: &[(String, String)]) -> Option<Memory> {
    let mut files: Vec<(String, String)> = Vec::new();
    let mut known: HashSet<(usize, String)> = HashSet::new();
    for (file, lines) in reported {
        if !is_transcript(file) {
            return None;
        }
        let at = files.iter().position(|(known, _)| known == file).unwrap_or(files.len());
        if at == files.len() {
            if at == MOST_FILES {
                return None;
            }
            files.push((file.clone(), String::new()));
        }
        let content = &mut files.get_mut(at)?.1;
        for line in lines.lines() {
            let entry: Value = serde_json::from_str(line).ok()?;
            if let Some(id) = entry["uuid"].as_str() {
                let parent = entry["parentUuid"].as_str();
                if known.len() == MOST_ENTRIES || parent.is_some_and(|parent| !known.contains(&(at, parent.to_owned())))
                {
                    return None;
                }
                if !known.insert((at, id.to_owned())) {
                    continue;
                }
            }
            content.push_str(line);
            content.push('\n');
        }
    }
    let session = files.iter().rev().find_map(|(file, _)| session(file))?.to_owned();
    Some(Memory { session, files })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = ".claude/projects/-workspace/5e55.jsonl";

    fn report(file: &str, entries: &Value) -> Option<Event> {
        mirrored(&json!({"type": "transcript_mirror", "filePath": file, "entries": entries}))
    }

    fn line(id: &str, parent: Option<&str>) -> String {
        format!("{}\n", json!({"uuid": id, "parentUuid": parent, "type": "user"}))
    }

    #[test]
    fn only_transcripts_are_mirrored() {
        let entries = json!([{"uuid": "1", "text": "a\nb"}, {"type": "mode"}]);
        let Some(Event::Transcript { file, lines }) = report(&format!("/home/appuser/{FILE}"), &entries) else {
            panic!("a transcript")
        };
        assert_eq!((file.as_str(), lines.lines().count()), (FILE, 2));
        let sub = "/h/.claude/projects/-workspace/5e55/subagents/agent-1.jsonl";
        assert!(report(sub, &entries).is_some());
        for bad in [
            "/h/.claude/settings.json",
            "/h/.claude/projects/x.jsonl",
            "/h/.claude/projects/../../.bashrc/x.jsonl",
            "/h/.claude/projects/a/./b.jsonl",
            "/h/.claude/projects/a//b.jsonl",
            "/h/.claude/projects/a/b.json",
            "/h/.claude/projects/a/b c.jsonl",
            "/h/.claude/projects/a/b/c/d/e/f.jsonl",
        ] {
            assert_eq!(report(bad, &entries), None, "{bad}");
        }
        assert_eq!(report(&format!("/h/.claude/projects/{}/a.jsonl", "x".repeat(600)), &entries), None);
    }

    #[test]
    fn a_memory_is_restored_once_or_not_at_all() {
        let part = |lines: &[String]| (FILE.to_owned(), lines.concat());
        let (one, two) = (line("1", None), line("2", Some("1")));
        let other = (".claude/projects/-workspace/5e55/subagents/agent-1.jsonl".to_owned(), line("9", None));
        let meta = "{\"type\":\"last-prompt\"}\n".to_owned();
        let whole = [
            part(&[one.clone(), meta.clone()]),
            other.clone(),
            part(std::slice::from_ref(&two)),
            part(&[one.clone(), two.clone()]),
        ];
        let memory = restore(&whole).expect("a memory");
        assert_eq!(memory.session, "5e55");
        assert_eq!(memory.files, [part(&[one.clone(), meta, two.clone()]), other.clone()]);
        assert_eq!(restore(&[part(&[two])]), None, "the beginning is missing");
        assert_eq!(restore(&[other]), None, "only a sub-agent's");
        assert_eq!(restore(&[part(&["not JSON\n".to_owned()])]), None);
        assert_eq!(restore(&[(".ssh/x.jsonl".into(), one)]), None);
        assert_eq!(restore(&[]), None);
    }
}
