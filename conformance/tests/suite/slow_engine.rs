//! A slow engine: the real one behind a socket that delays a request before it forwards it, whether or not the client is still
//! connected. A real engine behaves alike: it completes a request after its client has disconnected.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Scope};
use std::time::Duration;

use crate::fixture::wait;

const ENGINE: &str = "/var/run/docker.sock";

/// A relay to the engine that delays certain requests.
pub struct SlowEngine {
    pub socket: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    kept: AtomicUsize,
    done: AtomicUsize,
    ended: AtomicBool,
}

impl SlowEngine {
    /// Starts it; requests with `slow` in their first line are delayed for `kept`.
    pub fn start(dir: &Path, slow: &'static str, kept: Duration) -> Self {
        let socket = dir.join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for client in listener.incoming() {
                    if of_thread.ended.load(Ordering::SeqCst) {
                        break;
                    }
                    relay(scope, client.expect("a client"), slow, kept, &of_thread);
                }
            });
        });
        Self { socket, shared, thread: Some(thread) }
    }

    /// The number of requests that it has delayed or is delaying.
    pub fn kept(&self) -> usize {
        self.shared.kept.load(Ordering::SeqCst)
    }

    /// Ends it once all delayed requests have been answered, and returns their number.
    pub fn end(mut self) -> usize {
        self.shared.ended.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(&self.socket));
        self.thread.take().expect("ended once").join().expect("no panic");
        self.shared.done.load(Ordering::SeqCst)
    }
}

fn relay<'s>(scope: &'s Scope<'s, '_>, mut client: UnixStream, slow: &'static str, kept: Duration, shared: &'s Shared) {
    let mut engine = UnixStream::connect(ENGINE).expect("an engine");
    let (mut to_client, mut from_engine) = (client.try_clone().expect("a copy"), engine.try_clone().expect("a copy"));
    let waits_for_answer = Arc::new(AtomicBool::new(false));
    let waits = waits_for_answer.clone();
    scope.spawn(move || {
        let mut buffer = [0; 64 << 10];
        // The client may have disconnected; the engine's response is read anyway.
        while let Ok(length @ 1..) = from_engine.read(&mut buffer) {
            if waits.swap(false, Ordering::SeqCst) {
                shared.done.fetch_add(1, Ordering::SeqCst);
            }
            let _gone = to_client.write_all(&buffer[..length]);
        }
        let _gone = to_client.shutdown(Shutdown::Both);
    });
    scope.spawn(move || {
        let mut buffer = [0; 64 << 10];
        while let Ok(length @ 1..) = client.read(&mut buffer) {
            let line = buffer[..length].split(|byte| *byte == b'\r').next().unwrap_or_default();
            if String::from_utf8_lossy(line).contains(slow) {
                shared.kept.fetch_add(1, Ordering::SeqCst);
                #[expect(clippy::disallowed_methods, reason = "the delay is what this engine is for")]
                std::thread::sleep(kept);
                waits_for_answer.store(true, Ordering::SeqCst);
            }
            if engine.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        // Closes only the sending direction, so that the engine completes its requests.
        wait("the engine's answer", || !waits_for_answer.load(Ordering::SeqCst));
        let _gone = engine.shutdown(Shutdown::Both);
    });
}
