//! Skills: folders with a `SKILL.md` that tells the model how to do something, and with what that needs. They come as archives from outside,
//! and are checked before anything is written anywhere.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zip::ZipArchive;

/// Files of one skill.
const MOST_FILES: usize = 200;
/// Size of all files of one skill, in bytes.
pub const LARGEST: usize = 4 << 20;
/// Length of a path, in bytes, and of each of its parts.
const LONGEST_PATH: usize = 255;
/// Folders in each other.
const DEEPEST: usize = 8;
/// Length of a description, in bytes.
const LONGEST_DESCRIPTION: usize = 1_024;
/// The file that every skill has.
const MANIFEST: &str = "SKILL.md";
/// Kinds of files in the mode of an entry (stat(2)).
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// The files of a skill, by their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files(BTreeMap<String, String>);

/// A skill that keeps the rules.
#[derive(Debug)]
pub struct Checked {
    /// What it is for.
    pub description: String,
    /// Number of files.
    pub files: usize,
    /// Size of the files, in bytes.
    pub bytes: usize,
    /// The files as JSON, which is what is stored.
    pub content: String,
    /// SHA-256 of that, in hexadecimal.
    pub digest: String,
}

/// A version of a skill that a run has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Name of the skill.
    pub name: String,
    /// Number of the version.
    pub version: i64,
    /// SHA-256 of its content, in hexadecimal.
    pub digest: String,
}

/// Beginning of the names under which the driver has skills, also as commands.
pub const SKILLS: &str = "skills:";

/// Whether this may be the name of a skill.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-') && !name.ends_with('-')
}

/// The name and the version that an entry of a configuration means: `pricing` or `pricing@3`; `None` if it is neither.
#[must_use]
pub fn reference(entry: &str) -> Option<(&str, Option<i64>)> {
    let (name, version) = match entry.split_once('@') {
        Some((name, version)) => (name, Some(version.parse().ok().filter(|version| *version > 0)?)),
        None => (entry, None),
    };
    is_name(name).then_some((name, version))
}

/// The SHA-256 of a content, in hexadecimal.
#[must_use]
pub fn digest(content: &str) -> String {
    Sha256::digest(content.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a skill from a ZIP archive. No more than [`LARGEST`] bytes are unpacked, whatever the archive says.
///
/// # Errors
/// What is wrong with the archive.
pub fn from_zip(name: &str, archive: &[u8]) -> Result<Checked, String> {
    let mut archive = ZipArchive::new(Cursor::new(archive)).map_err(|error| format!("is no ZIP archive: {error}"))?;
    // Folders have entries of their own.
    let most = MOST_FILES * 2;
    if archive.len() > most {
        return Err(format!("has {} entries; at most {MOST_FILES} files are accepted", archive.len()));
    }
    let (mut files, mut left) = (Vec::new(), LARGEST);
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).map_err(|error| format!("entry {at} cannot be read: {error}"))?;
        let path = entry.name().map_err(|error| format!("entry {at} has no valid name: {error}"))?.into_owned();
        let kind = entry.unix_mode().map_or(0, |mode| mode & KIND);
        if entry.is_dir() {
            check_path(path.trim_end_matches('/'))?;
            continue;
        }
        if entry.is_symlink() || !matches!(kind, 0 | REGULAR) {
            return Err(format!("{path:?} is a link or a special file; only regular files are accepted"));
        }
        let mut content = Vec::new();
        let most = u64::try_from(left).unwrap_or(u64::MAX) + 1;
        (&mut entry)
            .take(most)
            .read_to_end(&mut content)
            .map_err(|error| format!("{path:?} cannot be unpacked: {error}"))?;
        left = left.checked_sub(content.len()).ok_or_else(too_large)?;
        files.push((path, content));
    }
    check(name, files)
}

fn too_large() -> String {
    format!("has more than {LARGEST} bytes unpacked")
}

/// Checks the files of a skill. A folder that has all of them is left out of their paths.
///
/// # Errors
/// What is wrong with them.
pub fn check(name: &str, files: Vec<(String, Vec<u8>)>) -> Result<Checked, String> {
    if files.len() > MOST_FILES {
        return Err(format!("has {} files; at most {MOST_FILES} are accepted", files.len()));
    }
    let bytes: usize = files.iter().map(|(_, content)| content.len()).sum();
    if bytes > LARGEST {
        return Err(too_large());
    }
    files.iter().try_for_each(|(path, _)| check_path(path))?;
    let files = without_top(files);
    check_names(&files)?;
    let manifest = files.iter().find(|(path, _)| path == MANIFEST).map(|(_, content)| content.as_slice());
    let description = described(name, manifest.ok_or_else(|| format!("has no {MANIFEST}"))?)?;
    let count = files.len();
    let files = Files(files.into_iter().map(|(path, content)| (path, STANDARD.encode(content))).collect());
    let content = serde_json::to_string(&files).map_err(|error| error.to_string())?;
    Ok(Checked { description, files: count, bytes, digest: digest(&content), content })
}

fn check_path(path: &str) -> Result<(), String> {
    let bad = |why: &str| Err(format!("the path {path:?} {why}"));
    if path.starts_with('/') || path.split(['/', '\\']).any(|part| part == "..") {
        return bad("leads out of the skill");
    }
    if path.contains('\\') || path.chars().any(char::is_control) || path.contains(':') {
        return bad("has a character that is not accepted: '\\', ':' or a control character");
    }
    let parts: Vec<&str> = path.split('/').collect();
    if path.len() > LONGEST_PATH || parts.len() > DEEPEST {
        return bad(&format!("is longer than {LONGEST_PATH} bytes, or deeper than {DEEPEST} folders"));
    }
    if parts.iter().any(|part| matches!(*part, "" | ".")) {
        return bad("has an empty part or '.'");
    }
    Ok(())
}

/// Archives of a folder have it in every path.
fn without_top(files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let top = |path: &str| path.split_once('/').map(|(top, _)| format!("{top}/"));
    let Some(first) = files.first().and_then(|(path, _)| top(path)) else { return files };
    if !files.iter().all(|(path, _)| path.starts_with(&first)) {
        return files;
    }
    files.into_iter().map(|(path, content)| (path[first.len()..].to_owned(), content)).collect()
}

/// No two names differ in nothing but case, no path is given twice, and no file is a folder of another: on any file system, the files
/// are the same.
fn check_names(files: &[(String, Vec<u8>)]) -> Result<(), String> {
    let mut seen: BTreeMap<String, (&str, bool)> = BTreeMap::new();
    for (path, _) in files {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let (part, is_file) = (&path[..end], end == path.len());
            match seen.insert(part.to_lowercase(), (part, is_file)) {
                Some((other, was_file)) if other != part || is_file || was_file => {
                    return Err(format!(
                        "the paths {other:?} and {part:?} are the same where case does not count, or one is a folder of the other"
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The description in the front matter of a manifest, which must have the skill's name.
fn described(name: &str, manifest: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(manifest).map_err(|_| format!("{MANIFEST} is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let accepted = || {
        format!("{MANIFEST} must begin with a line '---', lines 'name: {name}' and 'description: …', and a line '---'")
    };
    let front = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")).ok_or_else(accepted)?.0;
    let field = |field: &str| {
        let line = front.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned())
    };
    let named = field("name").ok_or_else(accepted)?;
    if named != name {
        return Err(format!("{MANIFEST} has the name {named:?}, and the skill is uploaded as {name:?}"));
    }
    let mut description = field("description").filter(|text| !text.is_empty()).ok_or_else(accepted)?;
    description.retain(|c| !c.is_control());
    description.truncate(description.floor_char_boundary(LONGEST_DESCRIPTION));
    Ok(description)
}

impl Files {
    /// The files of a version as it is stored.
    ///
    /// # Errors
    /// It is not what was stored under this digest.
    pub fn stored(content: &str, expected: &str) -> Result<Self, String> {
        if digest(content) != expected {
            return Err("the stored content is not the one that was uploaded".into());
        }
        serde_json::from_str(content).map_err(|error| error.to_string())
    }

    /// Paths and contents.
    ///
    /// # Errors
    /// The content is not what was stored.
    pub fn unpacked(&self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let unpack = |(path, content): (&String, &String)| {
            Ok((path.clone(), STANDARD.decode(content).map_err(|error| error.to_string())?))
        };
        self.0.iter().map(unpack).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    const SKILL: &str = "---\nname: pricing\ndescription: \"How to price melons\"\n---\nAlways round up.\n";

    fn file(path: &str) -> (String, Vec<u8>) {
        (path.into(), b"x".to_vec())
    }

    fn with(paths: &[&str]) -> Result<Checked, String> {
        check(
            "pricing",
            [(MANIFEST.to_owned(), SKILL.into())].into_iter().chain(paths.iter().map(|path| file(path))).collect(),
        )
    }

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        for (path, content) in entries {
            writer.start_file(*path, options).expect("an entry");
            writer.write_all(content).expect("writes");
        }
        writer.finish().expect("an archive").into_inner()
    }

    #[test]
    fn a_skill_is_read_with_and_without_its_folder() {
        let plain = from_zip("pricing", &archive(&[(MANIFEST, SKILL.as_bytes()), ("a/b.txt", b"b")])).expect("a skill");
        let folder = archive(&[("pricing/SKILL.md", SKILL.as_bytes()), ("pricing/a/b.txt", b"b")]);
        let folder = from_zip("pricing", &folder).expect("a skill");
        assert_eq!((plain.description.as_str(), plain.files), ("How to price melons", 2));
        assert_eq!(plain.digest, folder.digest);
        let files = Files::stored(&plain.content, &plain.digest).expect("as stored").unpacked().expect("files");
        assert_eq!(files, [(MANIFEST.to_owned(), SKILL.into()), ("a/b.txt".to_owned(), b"b".to_vec())]);
        assert!(Files::stored(&plain.content, "other").is_err());
    }

    #[test]
    fn hostile_paths_are_refused() {
        for bad in
            ["../a", "a/../../b", "/etc/passwd", "a\\b", "..\\a", "C:a", "a//b", "./a", "a\nb", "1/2/3/4/5/6/7/8/9"]
        {
            assert!(with(&[bad]).is_err(), "{bad:?}");
        }
        for pair in [["a", "A"], ["a", "a"], ["a/b", "A/c"], ["a", "a/b"], ["skill.md", "x"]] {
            assert!(with(&pair).is_err(), "{pair:?}");
        }
        assert!(with(&["a/b", "a/c", "d"]).is_ok());
        let many: Vec<String> = (0..MOST_FILES).map(|n| n.to_string()).collect();
        assert!(with(&many.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn bombs_and_links_are_refused_before_they_are_unpacked() {
        let bomb = archive(&[(MANIFEST, SKILL.as_bytes()), ("bomb", &vec![0; LARGEST + 1])]);
        assert!(bomb.len() < 100_000);
        assert!(from_zip("pricing", &bomb).is_err_and(|why| why.contains("unpacked")));
        let mut writer = ZipWriter::new(Cursor::new(archive(&[(MANIFEST, SKILL.as_bytes())])));
        writer = ZipWriter::new_append(writer.finish().expect("ends"))
            .unwrap_or_else(|_| ZipWriter::new(Cursor::new(Vec::new())));
        writer.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).expect("a link");
        let linked = writer.finish().expect("an archive").into_inner();
        assert!(from_zip("pricing", &linked).is_err_and(|why| why.contains("link")));
        assert!(from_zip("pricing", b"no archive").is_err());
    }

    #[test]
    fn a_manifest_names_and_describes_the_skill() {
        let of = |text: &str| check("pricing", vec![(MANIFEST.into(), text.into())]);
        assert!(of(SKILL).is_ok() && of(&SKILL.replace('\n', "\r\n")).is_ok());
        for bad in [
            "",
            "# Pricing",
            "---\nname: pricing\n---\n",
            "---\nname: other\ndescription: d\n---\n",
            "---\nname: pricing\ndescription: d\n",
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        assert!(check("pricing", vec![file("a")]).is_err_and(|why| why.contains(MANIFEST)));
    }

    #[test]
    fn entries_of_configurations_name_a_skill_and_perhaps_a_version() {
        assert_eq!(reference("pricing"), Some(("pricing", None)));
        assert_eq!(reference("pricing@3"), Some(("pricing", Some(3))));
        for bad in ["", "Pricing", "a b", "pricing@", "pricing@0", "pricing@x", "-a", "a/b", "../a"] {
            assert_eq!(reference(bad), None, "{bad}");
        }
    }
}
