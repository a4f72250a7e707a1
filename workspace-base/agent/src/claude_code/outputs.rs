//! Makes outputs of tools that are too long for the model a part of the conversation's files.
//!
//! The CLI saves such an output as `~/.claude/projects/PROJECT/SESSION/tool-results/NAME`, where only the room's own processes find
//! it, and tells the model that path. It accepts no link on the way there and has no setting for another place. So each output is
//! copied into the workspace, and clients are told the copy's path.

use std::io;
use std::path::{Path, PathBuf};

use crate::files;

/// The CLI's directory for outputs of a session.
const SAVED: &str = "tool-results";
/// The directory in the workspace.
const KEPT: &str = ".tool-results";
/// Outputs that are looked for in one line.
const MOST: usize = 4;

/// Where the CLI saves outputs, and where they are copied to.
#[derive(Debug)]
pub(crate) struct Outputs {
    /// The CLI's directory of projects.
    projects: String,
    workspace: PathBuf,
}

impl Outputs {
    /// For the CLI's directories below `home`.
    pub(crate) fn new(home: &Path, workspace: &Path) -> Self {
        Self { projects: format!("{}/.claude/projects/", home.display()), workspace: workspace.to_owned() }
    }

    /// The CLI's line, with outputs that it names copied into the workspace, and their paths there. A path has no character that JSON
    /// writes in another way.
    pub(crate) fn reachable(&self, text: String) -> String {
        let found: Vec<&str> =
            text.match_indices(&self.projects).take(MOST).filter_map(|(at, _)| self.path(&text[at..])).collect();
        let kept: Vec<(String, String)> = found
            .into_iter()
            .filter_map(|path| match self.keep(Path::new(path)) {
                Ok(kept) => Some((path.to_owned(), kept)),
                // The tool may only have mentioned a path, for example of a session before.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    tracing::warn!(path, %error, "a long output is not among the conversation's files");
                    None
                }
            })
            .collect();
        kept.into_iter().fold(text, |text, (path, kept)| text.replace(&path, &kept))
    }

    /// The path of an output with which this text begins.
    fn path<'a>(&self, text: &'a str) -> Option<&'a str> {
        let rest = text.strip_prefix(&self.projects)?;
        let end = rest.find(|next: char| !next.is_ascii_alphanumeric() && !"-_./".contains(next)).unwrap_or(rest.len());
        let rest = rest[..end].trim_end_matches('.');
        let mut parts = rest.split('/');
        let [_, _, SAVED, _] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?] else { return None };
        let plain = parts.next().is_none() && rest.split('/').all(|part| !matches!(part, "" | "." | ".."));
        plain.then(|| &text[..self.projects.len() + rest.len()])
    }

    /// Copies an output into the workspace; returns its path there.
    fn keep(&self, saved: &Path) -> io::Result<String> {
        let name = saved.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        // Whoever adds all files of the workspace to a repository does not mean these.
        let ignored = format!("{KEPT}/.gitignore");
        if !self.workspace.join(&ignored).exists() {
            files::create(&self.workspace, &ignored, &mut &b"*\n"[..], 2)?;
        }
        let kept = format!("{KEPT}/{name}");
        let mut output = files::open_regular(saved)?;
        let length = output.metadata()?.len();
        files::create(&self.workspace, &kept, &mut output, length)?;
        Ok(self.workspace.join(kept).display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_saved_output_is_copied_into_the_workspace_and_its_path_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let (home, workspace) = (dir.path().join("home"), dir.path().join("workspace"));
        let saved = home.join(".claude/projects/-workspace/0d66d590-b75f/tool-results");
        fs::create_dir_all(&saved).expect("makes");
        fs::create_dir(&workspace).expect("makes");
        fs::write(saved.join("b7.txt"), "long").expect("writes");
        let outputs = Outputs::new(&home, &workspace);
        let told = |text: &str| format!("<persisted-output>\nFull output saved to: {text}\n\nPreview:\n1\n");
        let (before, after) = (saved.join("b7.txt"), workspace.join(".tool-results/b7.txt"));
        for _ in 0..2 {
            let line = outputs.reachable(told(&before.display().to_string()));
            assert_eq!(line, told(&after.display().to_string()));
            assert_eq!(fs::read_to_string(&after).expect("is there"), "long");
        }
        // At the end of a sentence, and twice.
        let sentence = |path: &Path| format!("See {0}, or {0}.", path.display());
        assert_eq!(outputs.reachable(sentence(&before)), sentence(&after));
        let mut kept: Vec<_> =
            fs::read_dir(workspace.join(KEPT)).expect("reads").flatten().map(|entry| entry.file_name()).collect();
        kept.sort();
        assert_eq!(kept, [".gitignore", "b7.txt"]);
    }

    #[test]
    fn other_paths_and_files_are_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (home, workspace) = (dir.path().join("home"), dir.path().join("workspace"));
        let session = home.join(".claude/projects/p/s");
        fs::create_dir_all(session.join(SAVED).join("deep")).expect("makes");
        fs::create_dir(&workspace).expect("makes");
        fs::write(session.join("tool.txt"), "x").expect("writes");
        fs::write(session.join("tool-results/deep/x"), "x").expect("writes");
        for place in [home.join(".claude/projects/tool-results"), home.join(".claude/projects/p/tool-results")] {
            fs::create_dir(&place).expect("makes");
            fs::write(place.join("above"), "x").expect("writes");
        }
        fs::write(session.join("tool-results/beside"), "x").expect("writes");
        std::os::unix::fs::symlink("/etc/passwd", session.join("tool-results/link")).expect("links");
        let outputs = Outputs::new(&home, &workspace);
        for path in [
            "s/tool.txt",
            "s/tool-results",
            "s/tool-results/",
            "s/tool-results/none",
            "s/tool-results/deep/x",
            "s/tool-results/deep",
            "s/tool-results/link",
            "s/tool-results/..",
            "s/../s/tool-results/x",
            // These would lead to files that exist.
            "../tool-results/above",
            "./tool-results/above",
            "/tool-results/above",
            "s/tool-results/../tool-results/beside",
        ] {
            let line = format!("saved to {}/.claude/projects/p/{path}", home.display());
            assert_eq!(outputs.reachable(line.clone()), line);
        }
        assert!(!workspace.join(".tool-results/link").exists());
    }
    #[test]
    fn an_output_is_kept_below_the_workspace_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let (home, workspace, other) =
            (dir.path().join("home"), dir.path().join("workspace"), dir.path().join("other"));
        let saved = home.join(".claude/projects/p/s/tool-results");
        fs::create_dir_all(&saved).expect("makes");
        fs::create_dir(&workspace).expect("makes");
        fs::create_dir(&other).expect("makes");
        std::os::unix::fs::symlink(&other, workspace.join(KEPT)).expect("links");
        let outputs = Outputs::new(&home, &workspace);
        let names: Vec<PathBuf> = (0..=MOST).map(|number| saved.join(format!("{number}.txt"))).collect();
        for name in &names {
            fs::write(name, "long").expect("writes");
        }
        let line = names.iter().map(|name| format!("{} ", name.display())).collect::<String>();
        assert_eq!(outputs.reachable(line.clone()), line);
        assert_eq!(fs::read_dir(&other).expect("reads").count(), 0);
        // Where the directory is one, as many are kept of a line as may be.
        fs::remove_file(workspace.join(KEPT)).expect("removes");
        let told = outputs.reachable(line);
        assert_eq!(told.matches(&workspace.display().to_string()).count(), MOST);
        assert_eq!(told.matches(&names[MOST].display().to_string()).count(), 1);
        assert_eq!(fs::read_to_string(workspace.join(KEPT).join(".gitignore")).expect("reads"), "*\n");
    }
}
