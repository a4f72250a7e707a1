//! The log of a conversation as a list: what was put into its runs, and their events, in order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::value::RawValue;

use super::line::{EventLine, Note};
use super::{Journals, past, retention};

/// Content of one page, in bytes; a page has one entry in any case.
const LARGEST_PAGE: usize = 8 << 20;
/// Runs that are looked through for one page.
const MOST_RUNS: u32 = 100;
/// Lines that are read from the shared log at a time.
const LINES: u32 = 1_000;

/// A place in the log: that of an entry. Entries are ordered by run, and by number within it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Id of the run; ids ascend with time.
    pub run_id: String,
    /// 0 for what was put into the run, and the number of an event.
    pub seq: usize,
}

impl FromStr for Position {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (run_id, seq) = text.rsplit_once(':').ok_or("must be the id of an entry, <run_id>:<number>")?;
        let seq = seq.parse().map_err(|_| "must be the id of an entry, <run_id>:<number>")?;
        Ok(Self { run_id: run_id.to_owned(), seq })
    }
}

/// An entry of the log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it is.
    pub position: Position,
    /// `user` for what was put into a run, else the event's name.
    pub kind: String,
    /// Its fields, as they were sent.
    pub data: Box<RawValue>,
}

/// Collects a page.
struct Page {
    entries: Vec<Entry>,
    bytes: usize,
    most: usize,
}

impl Page {
    /// Takes a line of a run; `false` if the page is full.
    fn take(&mut self, run_id: &str, after: &Position, line: &str) -> io::Result<bool> {
        let Some((seq, kind, data)) = entry(line)? else { return Ok(true) };
        let position = Position { run_id: run_id.to_owned(), seq };
        if position <= *after {
            return Ok(true);
        }
        let bytes = data.get().len();
        if self.entries.len() == self.most || (!self.entries.is_empty() && self.bytes + bytes > LARGEST_PAGE) {
            return Ok(false);
        }
        self.bytes += bytes;
        self.entries.push(Entry { position, kind, data });
        Ok(true)
    }
}

/// Number, kind and fields of an entry; `None` for what only servers read.
fn entry(line: &str) -> io::Result<Option<(usize, String, Box<RawValue>)>> {
    if let Some(note) = past::note(line) {
        let Note::Run(head) = note else { return Ok(None) };
        let mut data = head.order.message();
        data["timestamp"] = serde_json::json!(head.began);
        data["request_id"] = serde_json::json!(head.order.request_id);
        data["model_id"] = serde_json::json!(head.order.model.model_id);
        return Ok(Some((0, "user".into(), serde_json::value::to_raw_value(&data)?)));
    }
    let Some(event) = EventLine::parse(line) else { return Ok(None) };
    let Some(seq) = event.seq() else { return Ok(None) };
    Ok(Some((seq, event.name.to_owned(), RawValue::from_string(event.data.to_owned())?)))
}

impl Journals {
    /// Entries of a conversation's log after a place: at most `most`, and no more than fit into a page. The second value says whether
    /// there are more.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn list(&self, conversation: &str, after: Position, most: usize) -> io::Result<(Vec<Entry>, bool)> {
        let mut page = Page { entries: Vec::new(), bytes: 0, most };
        let Some(log) = &self.shared else {
            let (kept, open) = (self.kept.join(conversation), self.unsettled_of(conversation)?);
            return tokio::task::spawn_blocking(move || {
                let mut runs: BTreeMap<String, PathBuf> = open.into_iter().collect();
                for run_id in names(&kept)? {
                    runs.entry(run_id).or_default();
                }
                for (run_id, in_progress) in runs.into_iter().filter(|(run_id, _)| *run_id >= after.run_id) {
                    // A run moves on: it ends, and then is made smaller.
                    let places = [in_progress, kept.join(&run_id), retention::compacted(&kept, &run_id)];
                    let Some(file) = first_of(&places)? else { continue };
                    let mut lines = BufReader::new(file);
                    let mut line = String::new();
                    // A line without an end is being written.
                    while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
                        if !page.take(&run_id, &after, line.trim_end())? {
                            return Ok((page.entries, true));
                        }
                        line.clear();
                    }
                }
                Ok((page.entries, false))
            })
            .await
            .map_err(io::Error::other)?;
        };
        let runs = log.runs_from(conversation, &after.run_id, MOST_RUNS).await?;
        let all = runs.len() < MOST_RUNS as usize;
        for run_id in runs {
            // The lines before the entry's number cannot be later entries: each entry has a line.
            let mut from = if run_id == after.run_id { after.seq as u64 } else { 0 };
            loop {
                let lines = log.lines(&run_id, from, LINES).await?;
                let Some((last, _)) = lines.last() else { break };
                from = last + 1;
                for (_, line) in &lines {
                    if !page.take(&run_id, &after, line)? {
                        return Ok((page.entries, true));
                    }
                }
            }
        }
        Ok((page.entries, !all))
    }
}

/// The first of these files that exists.
fn first_of(places: &[PathBuf]) -> io::Result<Option<File>> {
    for place in places {
        match File::open(place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => return file.map(Some),
        }
    }
    Ok(None)
}

/// The runs in a conversation's directory.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut runs = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let run_id = name.strip_suffix(".compact").unwrap_or(&name);
        if !run_id.contains('.') {
            runs.push(run_id.to_owned());
        }
    }
    Ok(runs)
}
