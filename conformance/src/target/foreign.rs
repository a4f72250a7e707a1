//! Whose deployment is tested. The workspace image, the server image, the Compose file and the Dockerfile that the suite finds by itself
//! are this project's, and prove nothing about another deployment. There, each must be named, or what needs it could not run.

use std::path::Path;

use super::binaries;
use crate::harness::environment::{self, SERVER, SERVER_IMAGE};
use crate::harness::options::{LaunchAs, Options};

/// Whether the deployment under test is this project's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Who says that it is another, if it is.
    named_by: Option<String>,
}

impl Owner {
    /// According to the options and the environment.
    #[must_use]
    pub fn of(options: &Options) -> Self {
        let server = environment::named(SERVER);
        let is_other = |path: &String| !is_same(Path::new(path), binaries::beside("nagaya").as_deref());
        let contained = (options.launch == LaunchAs::Container).then(|| environment::named(SERVER_IMAGE)).flatten();
        let described = options.description.file.as_ref().map(|path| format!("--target-file {}", path.display()));
        let named_by = match (&options.target, server, contained) {
            (Some(_), ..) => Some("--target".to_owned()),
            _ if described.is_some() => described,
            (None, Some(path), _) if is_other(&path) => Some(format!("{SERVER}={path}")),
            (None, _, Some(image)) if Some(&image) != options.description.images.server.as_ref() => {
                Some(format!("{SERVER_IMAGE}={image}"))
            }
            _ => None,
        };
        Self { named_by }
    }

    /// Whether something that only the user can name, by `flag`, may be used: it `is_named`, or this project's is the right one.
    ///
    /// # Errors
    /// The reason that it may not.
    pub fn may_use(&self, what: &str, is_named: bool, flag: &str) -> Result<(), String> {
        match &self.named_by {
            Some(by) if !is_named => Err(format!(
                "{by} is tested, whose {what} nobody named: this project's proves nothing about it; name it with {flag}"
            )),
            _ => Ok(()),
        }
    }
}

/// Whether two paths lead to one file.
fn is_same(one: &Path, other: Option<&Path>) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    other.is_some_and(|other| real(one).is_some() && real(one) == real(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_artefact_is_used_for_another_deployment() {
        let ours = Owner { named_by: None };
        assert_eq!(ours.may_use("workspace image", false, "--image"), Ok(()));
        let theirs = Owner::of(&Options { target: Some("http://host".to_owned()), ..Options::default() });
        assert_eq!(theirs.may_use("workspace image", true, "--image"), Ok(()));
        let why = theirs.may_use("workspace image", false, "--image").expect_err("not named");
        assert!(why.contains("--target") && why.contains("workspace image") && why.contains("--image"), "{why}");
    }

    #[test]
    fn one_program_under_two_paths_is_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let (program, link, other) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        for path in [&program, &other] {
            std::fs::write(path, "").expect("written");
        }
        std::os::unix::fs::symlink(&program, &link).expect("linked");
        assert!(is_same(&link, Some(&program)));
        assert!(!is_same(&other, Some(&program)) && !is_same(&program, None));
        assert!(!is_same(&dir.path().join("none"), Some(&dir.path().join("none"))), "no program at all");
    }
}
