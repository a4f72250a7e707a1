//! The other servers of the deployment on this host, and the protocol between servers.
//!
//! Every server has a Unix socket in a directory beside those of the rooms. A server that accepts a connection is alive; for a dead
//! one the kernel refuses the connection at once. This needs no heartbeat and no clock, and does not depend on the shared state.
//! Living servers report their own rooms, so that a conversation has at most one room even if the shared state has lost all records.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::policies::Changed;
use nagaya_workspace::id::RoomId;
use nagaya_workspace::{Living, Session};

/// Directory of the servers' sockets, in the directory of the rooms' sockets; no room can have this name.
const DIRECTORY: &str = ".servers";
/// Maximum number of attempts at a start, if another server removes the directory meanwhile.
const ATTEMPTS: usize = 100;
/// How long a server may take to answer another.
const DEADLINE: Duration = Duration::from_secs(3);
/// Maximum size of a question or answer, in bytes: the ids of some hundred thousand rooms.
const LONGEST: u64 = 4 << 20;

/// A question of one server to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Question {
    /// Which rooms does the server have, in any state?
    Rooms,
    /// Is the room of this conversation in use, or being acquired?
    Runs(String),
    /// Hand over the room of this conversation.
    HandOver(String),
    /// Policies have changed: give the rooms concerned their present ones.
    Policies(Changed),
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The ids of the server's rooms.
    Rooms(Vec<String>),
    /// The room is not in use, or there is no such room; or the question is done.
    No,
    /// The conversation's room is in use or being acquired.
    Busy,
    /// The room is handed over; the answering server has removed it from its table.
    Handed(Handed),
}

/// A room that is handed over to another server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Handed {
    pub(super) workspace: String,
    /// The driver's session of the last run in the room.
    session: Option<String>,
    /// The driver's process, if it waits for another turn.
    #[serde(default)]
    living: Option<Living>,
}

impl Handed {
    pub(super) fn new(workspace: String, session: Option<Session>) -> Self {
        let (session, living) = session.map_or((None, None), |session| (Some(session.id), session.living));
        Self { workspace, session, living }
    }

    /// What the last run in the room has left of its driver.
    pub(super) fn session(self) -> Option<Session> {
        self.session.map(|id| Session { id, living: self.living })
    }
}

/// Why another server did not answer. It may be alive, so its rooms must be left alone.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The directory of the servers' sockets cannot be used.
    #[error("the directory of the servers' sockets: {0}")]
    Directory(#[from] io::Error),
    /// The server does not answer, or its answer is invalid.
    #[error("another server of this deployment ({id}) does not answer: {why}")]
    Silent {
        /// Id of the server.
        id: String,
        /// Description of the failure.
        why: String,
    },
}

/// This server's view of the others.
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

    /// A server of a deployment with several, which share the directory of the rooms' sockets.
    ///
    /// # Errors
    /// If the directory of the sockets cannot be created or written.
    pub fn among(base: &Path, deployment: &str) -> io::Result<Self> {
        let (dir, id) = (base.join(DIRECTORY), RoomId::generate(deployment));
        let mut attempts = 0;
        let listener = loop {
            match appear(&dir, &id) {
                // The last of the other servers has just stopped and removed the directory, before this socket was created in it.
                Err(error) if is_gone(&error) && attempts < ATTEMPTS => attempts += 1,
                appeared => break appeared?,
            }
        };
        let directory = Directory { dir, deployment: deployment.to_owned(), listener: Mutex::new(Some(listener)) };
        Ok(Self { id, directory: Some(directory) })
    }

    /// Id of this server process; every start has a new one.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Whether the deployment can have no other server.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.directory.is_none()
    }

    /// Returns the listener for questions of other servers, once.
    pub(super) fn listener(&self) -> Option<UnixListener> {
        self.directory.as_ref()?.listener.lock().take()
    }

    /// Binds the socket on which this server answers forwarded API requests; `None` if there are no other servers.
    ///
    /// # Errors
    /// If the socket cannot be bound.
    pub(super) fn bind_api(&self) -> io::Result<Option<UnixListener>> {
        let Some(directory) = &self.directory else { return Ok(None) };
        UnixListener::bind(directory.api_socket(&self.id)).map(Some)
    }

    /// The API sockets of the other servers, living or dead.
    pub(super) fn api_sockets(&self) -> io::Result<Vec<PathBuf>> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        Ok(directory.others(&self.id)?.iter().map(|id| directory.api_socket(id)).collect())
    }

    /// Removes this server's sockets, so that other servers no longer find it.
    pub(super) fn leave(&self) {
        if let Some(directory) = &self.directory
            && let Err(error) = directory.remove(&self.id)
        {
            tracing::warn!(%error, "this server's socket is left behind; the others will remove it");
        }
        if let Some(directory) = &self.directory {
            // This succeeds only for the last server: while others run, the directory is not empty.
            let _ = fs::remove_dir(&directory.dir);
        }
    }

    /// Asks every living server.
    ///
    /// # Errors
    /// If a server that may be alive does not answer.
    pub(super) async fn ask(&self, question: &Question) -> Result<Vec<Answer>, PeerError> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let answers =
            directory.others(&self.id)?.into_iter().map(|id| async move { directory.ask(&id, question).await });
        let answers = futures::future::join_all(answers).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Whether the server with this id is running.
    ///
    /// # Errors
    /// If that cannot be determined.
    pub(super) async fn is_running(&self, id: &str) -> Result<bool, PeerError> {
        let (Some(directory), Some(id)) = (&self.directory, RoomId::parse(id)) else { return Ok(false) };
        // Whether a server of another deployment runs cannot be seen here.
        Ok(id == self.id || !id.is_of(&directory.deployment) || directory.connect(&id).await?.is_some())
    }
}

impl Directory {
    /// Path of a server's API socket. It is no longer than those of rooms' sockets, which are checked at the start.
    fn api_socket(&self, id: &RoomId) -> PathBuf {
        self.dir.join(format!("{id}.d"))
    }

    /// Removes a server's sockets.
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

    /// Connects to a server; `None` if the connection is refused: then the server is dead, and its sockets are removed.
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
            // The server may have died meanwhile.
            Ok(Err(error)) => match self.connect(id).await? {
                Some(_) => Err(silent(error.to_string())),
                None => Ok(None),
            },
            Err(_) => Err(silent(format!("no answer within {DEADLINE:?}"))),
        }
    }
}

/// Binds this server's socket under a temporary name and renames it, so that other servers never find a socket that does not listen.
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

/// Answers one question on a connection, within the time that the other server waits.
pub(super) async fn serve<F: Future<Output = Answer>>(mut stream: UnixStream, answer: impl FnOnce(Question) -> F) {
    let exchange = async {
        let question = read(&mut stream).await?;
        let answer = answer(question).await;
        write(&mut stream, &answer).await
    };
    match tokio::time::timeout(DEADLINE, exchange).await {
        // A server that only checks whether this one is alive sends nothing.
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
    async fn dead_living_and_silent_servers_are_distinguished() {
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
        // The kernel accepts connections for this server, but it does not answer.
        let stuck = Peers::among(base.path(), "d").expect("a socket");
        assert!(matches!(one.ask(&Question::Rooms).await, Err(PeerError::Silent { .. })));
        assert!(one.is_running(stuck.id()).await.expect("tells"));
    }

    #[tokio::test]
    async fn the_last_server_removes_the_directory() {
        let base = tempfile::tempdir().expect("a directory");
        let dir = base.path().join(DIRECTORY);
        let one = Peers::among(base.path(), "d").expect("a socket");
        let two = Peers::among(base.path(), "d").expect("a socket");
        one.leave();
        assert!(dir.join(two.id()).exists());
        two.leave();
        assert!(!dir.exists());
        // Servers start while others stop: every start succeeds, and no server's socket is removed by another one.
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
