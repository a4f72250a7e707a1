//! The buffer of one execution's events: numbered, bounded in memory, and replayable.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nagaya_protocol::{AgentEvent, sse};
use tokio::sync::watch;

/// Bytes of events kept for readers that reconnect.
const KEPT: usize = 8 * 1024 * 1024;
/// How many bytes the slowest reader may lag behind before the writer waits for it.
const AHEAD: usize = KEPT / 2;
/// How long the writer waits for a reader that does not read before it drops that reader.
const PATIENCE: Duration = Duration::from_secs(30);

/// The events of one execution.
#[derive(Debug)]
pub(crate) struct Buffer {
    inner: Mutex<Inner>,
    /// Changes with every write and read, on close, and when a reader is dropped.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    /// Encoded events, each with the number of bytes written before it.
    lines: VecDeque<(usize, Arc<str>)>,
    /// Number of the oldest event that is kept.
    first: u64,
    /// Bytes written since the execution began; `kept` counts those that are still in `lines`.
    written: usize,
    kept: usize,
    closed: bool,
    readers: HashMap<u64, u64>,
    next_reader: u64,
    /// When the last reader left; `None` while there is a reader.
    alone_since: Option<Instant>,
}

impl Buffer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                lines: VecDeque::new(),
                first: 1,
                written: 0,
                kept: 0,
                closed: false,
                readers: HashMap::new(),
                next_reader: 0,
                alone_since: Some(Instant::now()),
            }),
            changed: watch::Sender::new(0),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Writes an event. Waits up to [`PATIENCE`] for slow readers, except for the last event, which is written at once.
    pub(crate) async fn write(&self, event: &AgentEvent) {
        if !event.is_last() {
            self.wait_for_readers(PATIENCE).await;
        }
        {
            let mut inner = self.inner();
            let Some(line) = encode(inner.end(), event) else { return };
            let line: Arc<str> = line.into();
            let offset = inner.written;
            inner.written += line.len();
            inner.kept += line.len();
            inner.lines.push_back((offset, line));
            while inner.kept > KEPT && inner.lines.len() > 1 {
                inner.kept -= inner.lines.pop_front().map_or(0, |(_, line)| line.len());
                inner.first += 1;
            }
            inner.closed = event.is_last();
        }
        self.notify();
    }

    /// Waits until no reader lags too far behind. Readers that still do after `patience` are dropped, so that they cannot block
    /// the execution.
    async fn wait_for_readers(&self, patience: Duration) {
        let mut changed = self.changed.subscribe();
        let caught_up = async {
            while self.inner().lag() > AHEAD {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(patience, caught_up).await.is_err() {
            tracing::warn!(?patience, "closed the stream of a reader that did not keep up");
            self.inner().drop_slow_readers();
            self.notify();
        }
    }

    /// Whether the last event has been written.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner().closed
    }

    /// Waits until the last event has been written.
    pub(crate) async fn closed(&self) {
        let mut changed = self.changed.subscribe();
        while !self.is_closed() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// How long the buffer has had no reader; zero while it has one.
    pub(crate) fn alone_for(&self) -> Duration {
        self.inner().alone_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// A reader of the events after number `after`; `None` if some of them are no longer kept.
    pub(crate) fn reader(self: &Arc<Self>, after: u64) -> Option<Reader> {
        let changed = self.changed.subscribe();
        let mut inner = self.inner();
        if after + 1 < inner.first {
            return None;
        }
        let id = inner.next_reader;
        inner.next_reader += 1;
        inner.readers.insert(id, after + 1);
        inner.alone_since = None;
        drop(inner);
        Some(Reader { buffer: self.clone(), id, changed })
    }
}

impl Inner {
    /// Number of the next event to be written.
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn line(&self, number: u64) -> Option<&(usize, Arc<str>)> {
        self.lines.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// How many bytes a reader that continues with event `number` has yet to read; all bytes ever written if that event is gone.
    fn behind(&self, number: u64) -> usize {
        if number < self.first {
            return self.written;
        }
        self.line(number).map_or(0, |(offset, _)| self.written - offset)
    }

    /// How many bytes the slowest reader has yet to read.
    fn lag(&self) -> usize {
        self.readers.values().map(|number| self.behind(*number)).max().unwrap_or(0)
    }

    fn drop_slow_readers(&mut self) {
        let slow: Vec<u64> =
            self.readers.iter().filter(|(_, number)| self.behind(**number) > AHEAD).map(|(id, _)| *id).collect();
        slow.iter().for_each(|id| self.remove_reader(*id));
    }

    fn remove_reader(&mut self, id: u64) {
        // A reader that was dropped as too slow is removed again when its `Reader` is dropped.
        if self.readers.remove(&id).is_some() && self.readers.is_empty() {
            self.alone_since = Some(Instant::now());
        }
    }
}

/// Encodes an event for the wire; `None` if it is longer than decoders accept.
fn encode(number: u64, event: &AgentEvent) -> Option<String> {
    let line = sse::encode(&number.to_string(), event.name(), &event.data());
    if line.len() <= sse::MAX_EVENT {
        return Some(line);
    }
    tracing::warn!(kind = event.name(), bytes = line.len(), limit = sse::MAX_EVENT, "an event is too long to be sent");
    None
}

/// A reader of the buffer's events, from some number on.
#[derive(Debug)]
pub(crate) struct Reader {
    buffer: Arc<Buffer>,
    id: u64,
    changed: watch::Receiver<u64>,
}

impl Reader {
    /// The next event, encoded; `None` after the last one, or if the reader was dropped as too slow.
    pub(crate) async fn next(&mut self) -> Option<Arc<str>> {
        loop {
            {
                let mut inner = self.buffer.inner();
                let number = *inner.readers.get(&self.id)?;
                if let Some((_, line)) = inner.line(number).cloned() {
                    inner.readers.insert(self.id, number + 1);
                    drop(inner);
                    self.buffer.notify();
                    return Some(line);
                }
                if inner.closed || number < inner.first {
                    return None;
                }
            }
            self.changed.changed().await.ok()?;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.buffer.inner().remove_reader(self.id);
        self.buffer.notify();
    }
}

#[cfg(test)]
mod tests {
    use nagaya_protocol::{Ended, How};

    use super::*;

    fn text(text: &str) -> AgentEvent {
        AgentEvent::Frame(text.into())
    }

    fn last() -> AgentEvent {
        AgentEvent::Ended(Ended {
            how: How::Cancelled,
            message: String::new(),
            stderr: String::new(),
            out_of_memory: None,
        })
    }

    async fn ids(mut reader: Reader) -> Vec<String> {
        let mut ids = Vec::new();
        while let Some(line) = reader.next().await {
            ids.push(line.lines().next().unwrap_or_default().trim_start_matches("id: ").to_owned());
        }
        ids
    }

    #[tokio::test]
    async fn a_reader_that_reconnects_misses_nothing() {
        let buffer = Buffer::new();
        let live = tokio::spawn(ids(buffer.reader(0).expect("kept")));
        for n in 0..10 {
            buffer.write(&text(&n.to_string())).await;
        }
        buffer.write(&last()).await;
        let all: Vec<String> = (1..=11).map(|n| n.to_string()).collect();
        assert_eq!(live.await.expect("reads"), all);
        assert_eq!(ids(buffer.reader(4).expect("kept")).await, all[4..]);
        assert!(ids(buffer.reader(11).expect("kept")).await.is_empty());
    }

    #[tokio::test]
    async fn old_events_are_dropped_and_a_reader_of_them_is_refused() {
        let buffer = Buffer::new();
        let mebibyte = "x".repeat(1024 * 1024);
        for _ in 0..20 {
            buffer.write(&text(&mebibyte)).await;
        }
        let (first, kept) = {
            let inner = buffer.inner();
            assert_eq!(inner.kept, inner.lines.iter().map(|(_, line)| line.len()).sum::<usize>());
            (inner.first, inner.kept)
        };
        assert!(kept <= KEPT && kept > KEPT - 2 * mebibyte.len(), "as much as may be is kept: {kept}");
        assert_eq!(first, 20 - 7 + 1, "seven events of a mebibyte and their heads");
        for (after, is_there) in [(0, false), (first - 2, false), (first - 1, true), (first, true), (20, true)] {
            assert_eq!(buffer.reader(after).is_some(), is_there, "{after}");
        }
        buffer.write(&last()).await;
        let rest: Vec<String> = (first..=21).map(|number| number.to_string()).collect();
        assert_eq!(ids(buffer.reader(first - 1).expect("kept")).await, rest);
    }

    #[tokio::test]
    async fn the_writer_waits_for_a_slow_reader() {
        let buffer = Buffer::new();
        let mut reader = buffer.reader(0).expect("kept");
        let writer = {
            let buffer = buffer.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    buffer.write(&text(&"x".repeat(1024 * 1024))).await;
                }
                buffer.write(&last()).await;
            })
        };
        let mut count = 0;
        while reader.next().await.is_some() {
            count += 1;
            tokio::task::yield_now().await;
        }
        writer.await.expect("writes");
        assert_eq!(count, 21);
    }

    #[tokio::test]
    async fn a_stalled_reader_is_dropped_and_the_others_continue() {
        let buffer = Buffer::new();
        let mut stuck = buffer.reader(0).expect("kept");
        buffer.write(&text(&"x".repeat(AHEAD))).await;
        let live = tokio::spawn(ids(buffer.reader(1).expect("kept")));
        buffer.wait_for_readers(Duration::from_millis(1)).await;
        assert!(stuck.next().await.is_none(), "its stream has ended");
        assert_eq!(buffer.alone_for(), Duration::ZERO, "the other one listens");
        buffer.write(&last()).await;
        assert_eq!(live.await.expect("reads"), ["2"]);
    }

    #[tokio::test]
    async fn it_is_alone_from_the_last_reader_on() {
        let buffer = Buffer::new();
        let alone = || buffer.inner().alone_since.is_some();
        assert!(alone());
        let (one, two) = (buffer.reader(0), buffer.reader(0));
        assert!(!alone());
        drop(one);
        assert!(!alone());
        drop(two);
        assert!(alone());
        let third = buffer.reader(0);
        assert_eq!((alone(), buffer.alone_for()), (false, Duration::ZERO));
        drop(third);
    }

    #[tokio::test]
    async fn a_reader_may_lag_by_half_of_what_is_kept_and_no_more() {
        for (length, is_dropped) in [(AHEAD, false), (AHEAD + 1, true)] {
            let buffer = Buffer::new();
            let mut behind = buffer.reader(0).expect("kept");
            let head = encode(1, &text("")).expect("fits").len();
            buffer.write(&text(&"x".repeat(length - head))).await;
            assert_eq!(buffer.inner().lag(), length);
            buffer.wait_for_readers(Duration::from_millis(1)).await;
            assert_eq!(behind.next().await.is_none(), is_dropped, "{length}");
        }
    }

    #[tokio::test]
    async fn the_last_event_does_not_wait_for_slow_readers() {
        let buffer = Buffer::new();
        let _stuck = buffer.reader(0).expect("kept");
        buffer.write(&text(&"x".repeat(AHEAD))).await;
        let written = tokio::time::timeout(PATIENCE / 3, buffer.write(&last())).await;
        assert!(written.is_ok() && buffer.is_closed());
    }

    #[tokio::test]
    async fn a_line_too_long_is_left_out() {
        let buffer = Buffer::new();
        buffer.write(&text(&"x".repeat(sse::MAX_EVENT))).await;
        buffer.write(&last()).await;
        let mut reader = buffer.reader(0).expect("kept");
        let line = reader.next().await.expect("an end");
        assert!(line.starts_with("id: 1\nevent: ended\n"), "{line}");
        assert!(reader.next().await.is_none());
    }
}
