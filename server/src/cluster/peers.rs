//! The other servers of the deployment on this host, and what servers say to each other.
//!
//! Every server has a Unix socket in a directory beside the rooms'. Who can be connected to lives; who died, however, is
//! refused by the kernel at once: no heartbeat, no clock, and no shared state that is down makes a living server look dead
//! or a dead one living. What the living have, they say themselves, so that the one-room rule also holds where the shared
//! state has forgotten everything.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use nagaya_workspace::id::RoomId;

/// Directory of the servers' sockets, below the rooms'; its name is no room's.
const DIRECTORY: &str = ".servers";
/// How often a start may find that the directory has just been removed.
const ATTEMPTS: usize = 100;
/// How long a server may take to answer another.
const DEADLINE: Duration = Duration::from_secs(3);
/// Longest question or answer in bytes: the ids of some hundred thousand rooms.
const LONGEST: u64 = 4 << 20;

/// What one server asks another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Question {
    /// Which rooms are yours, whatever they are doing?
    Rooms,
    /// Does something run in a room of this conversation, or are you getting it one?
    Runs(String),
    /// Give me the room of this conversation.
    HandOver(String),
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// These.
    Rooms(Vec<String>),
    /// No, or no such room.
    No,
    /// Something runs in its room, or it is just getting one.
    Busy,
    /// Here it is; from now on I do not know it.
    Handed(Handed),
}

/// A room that changes its server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Handed {
    pub(super) workspace: String,
    /// Driver's session of the last run in it.
    pub(super) session: Option<String>,
}

/// Why another server could not be asked. It may live, so nothing is done that could be its business.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The directory of the servers' sockets cannot be used.
    #[error("the directory of the servers' sockets: {0}")]
    Directory(#[from] io::Error),
    /// It does not answer, or not sensibly.
    #[error("another server of this deployment ({id}) does not answer: {why}")]
    Silent {
        /// Its id.
        id: String,
        /// In the system's words.
        why: String,
    },
}

/// This server among the others.
#[derive(Debug)]
pub struct Peers {
    id: RoomId,
    directory: Option<Directory>,
}

#[derive(Debug)]
struct Directory {
    dir: PathBuf,
    deployment: String,
    listener: Mutex<Option<UnixListener>>,
}

impl Peers {
    /// The only server of its deployment.
    #[must_use]
    pub fn alone(deployment: &str) -> Self {
        Self { id: RoomId::generate(deployment), directory: None }
    }

    /// One of several, which share the directory of the rooms' sockets.
    ///
    /// # Errors
    /// The sockets' directory cannot be made or written.
    pub fn among(base: &Path, deployment: &str) -> io::Result<Self> {
        let (dir, id) = (base.join(DIRECTORY), RoomId::generate(deployment));
        let mut attempts = 0;
        let listener = loop {
            match appear(&dir, &id) {
                // The last of the others has just left, and taken the directory along: before the socket was made, or while
                // the directory was.
                Err(error) if is_gone(&error) && attempts < ATTEMPTS => attempts += 1,
                appeared => break appeared?,
            }
        };
        let directory = Directory { dir, deployment: deployment.to_owned(), listener: Mutex::new(Some(listener)) };
        Ok(Self { id, directory: Some(directory) })
    }

    /// This life of this server.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Whether there can be no other.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.directory.is_none()
    }

    /// Where others' questions arrive; once.
    pub(super) fn listener(&self) -> Option<UnixListener> {
        self.directory.as_ref()?.listener.lock().take()
    }

    /// The door at which this server answers the others what callers ask of it; `None` where there are no others.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn bind_api(&self) -> io::Result<Option<UnixListener>> {
        let Some(directory) = &self.directory else { return Ok(None) };
        UnixListener::bind(directory.api_socket(&self.id)).map(Some)
    }

    /// The doors of the others, living or dead.
    pub(super) fn api_sockets(&self) -> io::Result<Vec<PathBuf>> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        Ok(directory.others(&self.id)?.iter().map(|id| directory.api_socket(id)).collect())
    }

    /// From here on nobody finds this server.
    pub(super) fn leave(&self) {
        if let Some(directory) = &self.directory
            && let Err(error) = directory.remove(&self.id)
        {
            tracing::warn!(%error, "this server's socket is left behind; the others will remove it");
        }
        if let Some(directory) = &self.directory {
            // The last one leaves nothing; where others are, the directory is not empty, and stays.
            let _ = fs::remove_dir(&directory.dir);
        }
    }

    /// Asks every living server.
    ///
    /// # Errors
    /// One of them lives, as far as one knows, and does not answer.
    pub(super) async fn ask(&self, question: &Question) -> Result<Vec<Answer>, PeerError> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let answers =
            directory.others(&self.id)?.into_iter().map(|id| async move { directory.ask(&id, question).await });
        let answers = futures::future::join_all(answers).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Whether a server of this deployment lives.
    ///
    /// # Errors
    /// It cannot be told.
    pub(super) async fn is_running(&self, id: &str) -> Result<bool, PeerError> {
        let (Some(directory), Some(id)) = (&self.directory, RoomId::parse(id)) else { return Ok(false) };
        Ok(id == self.id || directory.connect(&id).await?.is_some())
    }
}

impl Directory {
    /// No longer than a room's own sockets, whose paths have been measured.
    fn api_socket(&self, id: &RoomId) -> PathBuf {
        self.dir.join(format!("{id}.d"))
    }

    /// Removes what a server has here.
    fn remove(&self, id: &RoomId) -> io::Result<()> {
        remove(&self.api_socket(id))?;
        remove(&self.dir.join(id.as_str()))
    }

    fn others(&self, me: &RoomId) -> io::Result<Vec<RoomId>> {
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let id = entry?.file_name().to_str().and_then(RoomId::parse);
            others.extend(id.filter(|id| id != me && id.is_of(&self.deployment)));
        }
        Ok(others)
    }

    /// `None` where nobody listens: then that server is dead, and its socket is removed.
    async fn connect(&self, id: &RoomId) -> Result<Option<UnixStream>, PeerError> {
        let path = self.dir.join(id.as_str());
        let silent = |why: String| PeerError::Silent { id: id.to_string(), why };
        match tokio::time::timeout(DEADLINE, UnixStream::connect(&path)).await {
            Ok(Ok(stream)) => Ok(Some(stream)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.remove(id)?;
                Ok(None)
            }
            Ok(Err(error)) => Err(silent(error.to_string())),
            Err(_) => Err(silent(format!("no connection within {DEADLINE:?}"))),
        }
    }

    async fn ask(&self, id: &RoomId, question: &Question) -> Result<Option<Answer>, PeerError> {
        let silent = |why: String| PeerError::Silent { id: id.to_string(), why };
        let Some(mut stream) = self.connect(id).await? else { return Ok(None) };
        let exchange = async {
            write(&mut stream, question).await?;
            read(&mut stream).await
        };
        match tokio::time::timeout(DEADLINE, exchange).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            // It may have died meanwhile.
            Ok(Err(error)) => match self.connect(id).await? {
                Some(_) => Err(silent(error.to_string())),
                None => Ok(None),
            },
            Err(_) => Err(silent(format!("no answer within {DEADLINE:?}"))),
        }
    }
}

/// Listens where others look. There the socket appears only when somebody listens.
fn appear(dir: &Path, id: &RoomId) -> io::Result<UnixListener> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let new = dir.join(format!("{id}.new"));
    let listener = UnixListener::bind(&new)?;
    fs::rename(&new, dir.join(id.as_str()))?;
    Ok(listener)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Answers one question on a connection, within the time the asker waits.
pub(super) async fn serve<F: Future<Output = Answer>>(mut stream: UnixStream, answer: impl FnOnce(Question) -> F) {
    let exchange = async {
        let question = read(&mut stream).await?;
        let answer = answer(question).await;
        write(&mut stream, &answer).await
    };
    match tokio::time::timeout(DEADLINE, exchange).await {
        // Whoever only wanted to know whether this server lives says nothing.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Ok(Err(error)) => tracing::warn!(%error, "another server's question"),
        Err(_) => tracing::warn!("another server's question was not answered within {DEADLINE:?}"),
        Ok(Ok(())) => {}
    }
}

async fn write(stream: &mut UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

async fn read<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LONGEST)).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_dead_are_told_from_the_living_and_from_the_silent() {
        let base = tempfile::tempdir().expect("a directory");
        let one = Peers::among(base.path(), "d").expect("a socket");
        let two = Peers::among(base.path(), "d").expect("a socket");
        let other = Peers::among(base.path(), "another").expect("a socket");
        let listener = two.listener().expect("a listener");
        let answering = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, async |_| Answer::Busy).await;
            }
        });
        let answers = one.ask(&Question::Rooms).await.expect("answers");
        assert!(matches!(answers[..], [Answer::Busy]), "of its own deployment alone: {answers:?}");
        assert!(one.is_running(two.id()).await.expect("tells") && one.is_running(one.id()).await.expect("tells"));
        answering.abort();
        assert!(answering.await.is_err());
        assert!(!one.is_running(two.id()).await.expect("tells"));
        assert!(one.ask(&Question::Rooms).await.expect("nobody").is_empty());
        assert!(!base.path().join(DIRECTORY).join(two.id()).exists(), "the dead one's socket is removed");
        drop(other);
        // It accepts, as the kernel does for it, and says nothing.
        let stuck = Peers::among(base.path(), "d").expect("a socket");
        assert!(matches!(one.ask(&Question::Rooms).await, Err(PeerError::Silent { .. })));
        assert!(one.is_running(stuck.id()).await.expect("tells"));
    }

    #[tokio::test]
    async fn the_last_one_leaves_nothing() {
        let base = tempfile::tempdir().expect("a directory");
        let dir = base.path().join(DIRECTORY);
        let one = Peers::among(base.path(), "d").expect("a socket");
        let two = Peers::among(base.path(), "d").expect("a socket");
        one.leave();
        assert!(dir.join(two.id()).exists());
        two.leave();
        assert!(!dir.exists());
        // Some come while others go: nobody is refused, and nobody's socket goes with another's.
        let runtime = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _inside = runtime.enter();
                    for _ in 0..200 {
                        let peers = Peers::among(base.path(), "d").expect("a socket");
                        assert!(dir.join(peers.id()).exists());
                        peers.leave();
                    }
                });
            }
        });
        assert!(!dir.exists());
    }
}
