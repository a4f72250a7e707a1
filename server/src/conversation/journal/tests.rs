use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, Write};

use super::*;
use crate::conversation::event::{Done, DoneStatus, UsageReport};
use crate::conversation::order::Order;
use crate::conversation::store::{Conversation, ConversationStatus, Model, ModelStatus, Tenant, TenantStatus};
use crate::providers::Provider;

fn head() -> Head {
    Head { run_id: "r".into(), began: jiff::Timestamp::UNIX_EPOCH, order: order() }
}

pub(in crate::conversation) fn order() -> Order {
    let at = jiff::Timestamp::UNIX_EPOCH;
    let price = |text: &str| text.parse().expect("a price");
    Order {
        conversation: Conversation {
            conversation_id: "c".into(),
            session_id: "s".into(),
            tenant_id: "t".into(),
            user_id: "u".into(),
            model_id: "m".into(),
            title: None,
            status: ConversationStatus::Active,
            workspace_enabled: true,
            total_input_tokens: 0,
            total_output_tokens: 0,
            estimated_context_tokens: 0,
            context_limit_reached: false,
            created_at: at,
            updated_at: at,
        },
        tenant: Tenant {
            tenant_id: "t".into(),
            system_prompt: Some("— 長屋\n".into()),
            model_id: None,
            status: TenantStatus::Active,
            created_at: at,
            updated_at: at,
        },
        model: Model {
            model_id: "m".into(),
            display_name: "M".into(),
            provider: Provider::Bedrock,
            provider_model_id: "b".into(),
            model_region: None,
            context_window: 1,
            max_output_tokens: 1,
            input_token_price: price("0.0030"),
            output_token_price: price("1"),
            status: ModelStatus::Active,
            created_at: at,
            updated_at: at,
        },
        user_input: "two\nlines".into(),
        request_id: None,
        user: None,
        bounds: crate::conversation::order::Bounds::default(),
        client_tools: Vec::new(),
        content: Vec::new(),
        command: false,
        uploads: None,
    }
}

fn done() -> Event {
    Event::Done(Done {
        status: DoneStatus::Success,
        result: String::new(),
        is_error: false,
        errors: Vec::new(),
        usage: UsageReport::default(),
        cost_usd: "0".into(),
        turn_count: 1,
        duration_ms: 1,
        session_id: None,
        stop_reason: None,
        structured_output: None,
    })
}

fn text(text: &str) -> Event {
    Event::TextDelta { text: text.into() }
}

fn ping() -> Event {
    Event::Ping { elapsed_ms: 1 }
}

async fn begin_in(file: File) -> Journal {
    Journal::begin(file, head(), None).await.expect("begins")
}

async fn begin() -> Arc<Journal> {
    Arc::new(begin_in(tempfile::tempfile().expect("a file")).await)
}

/// Everything that a reader is sent.
async fn sent(mut reader: Reader) -> String {
    let mut all = Vec::new();
    while let Some(piece) = reader.next().await.expect("reads") {
        assert!(!piece.is_empty() && piece.len() <= 8 * 1024, "a piece of {} bytes", piece.len());
        all.extend_from_slice(&piece);
    }
    String::from_utf8(all).expect("text")
}

fn ids(stream: &str) -> Vec<String> {
    stream.lines().filter_map(|line| line.strip_prefix("id: ")).map(Into::into).collect()
}

fn numbered(seqs: std::ops::RangeInclusive<usize>) -> Vec<String> {
    seqs.map(|seq| format!("r:{seq}")).collect()
}

#[tokio::test]
async fn readers_get_all_events_whenever_they_start() {
    let journal = begin().await;
    let early = tokio::spawn(sent(journal.reader(0)));
    for n in 0..100 {
        journal.append(n, &ping()).await.expect("writes");
        journal.note(&Note::Cancel).await.expect("writes");
        tokio::task::yield_now().await;
    }
    journal.append(0, &done()).await.expect("writes");
    journal.append(0, &ping()).await.expect("is dropped");
    journal.note(&Note::Settled).await.expect("writes");
    let early = early.await.expect("reads");
    assert_eq!(ids(&early), numbered(1..=101));
    assert_eq!(sent(journal.reader(0)).await, early);
    assert_eq!(ids(&sent(journal.reader(99)).await), numbered(100..=101));
    assert_eq!(sent(journal.reader(101)).await, "");
    assert_eq!(sent(journal.reader(500)).await, "");
}

#[tokio::test]
async fn a_client_gets_the_payload_in_an_sse_frame() {
    let journal = begin().await;
    journal.append(7, &text("{\n— \"長屋\" #")).await.expect("writes");
    journal.append(0, &done()).await.expect("writes");
    let stream = sent(journal.reader(0)).await;
    let mut decoder = nagaya_protocol::sse::Decoder::new();
    decoder.push(stream.as_bytes());
    let event = decoder.next_event().expect("decodes").expect("an event");
    assert_eq!((event.id.as_deref(), event.name.as_deref()), (Some("r:1"), Some("text_delta")));
    let data: serde_json::Value = serde_json::from_str(&event.data).expect("JSON");
    assert_eq!((data["seq"].as_u64(), data["text"].as_str()), (Some(1), Some("{\n— \"長屋\" #")));
}

#[tokio::test]
async fn a_long_event_is_sent_in_small_pieces_and_a_reader_may_start_in_the_middle() {
    let journal = begin().await;
    let long = "長".repeat(700_000);
    for n in 1..=20_000_u64 {
        journal.put(n, &text("small"));
        if n == 10_000 {
            journal.put(n, &text(&long));
        }
        if n % 7 == 0 {
            journal.flush().await.expect("writes");
        }
    }
    journal.append(0, &done()).await.expect("writes");
    assert!(journal.inner().marks.len() > 20, "{} marks", journal.inner().marks.len());
    let all = sent(journal.reader(0)).await;
    assert_eq!(ids(&all), numbered(1..=20_002));
    assert!(all.contains(&long));
    for after in [1, 600, 9_999, 10_000, 10_001, 15_000, 20_001] {
        let rest = sent(journal.reader(after)).await;
        assert!(all.ends_with(&rest) && rest.starts_with(&format!("id: r:{}\n", after + 1)), "after {after}");
    }
}

#[tokio::test]
async fn readers_end_when_the_process_leaves_the_run() {
    let journal = begin().await;
    journal.append(1, &ping()).await.expect("writes");
    let reading = tokio::spawn(sent(journal.reader(0)));
    journal.leave();
    assert_eq!(ids(&reading.await.expect("reads")), numbered(1..=1));
    assert!(!journal.ended().await && !journal.is_closed());
}

/// Writes the journal of a typical run.
async fn write_run(journal: &Journal) {
    let call = |id: &str| Event::ToolCall {
        tool_use_id: id.into(),
        tool_name: "Bash".into(),
        input: serde_json::json!({"a": "\n}"}),
        summary: "長".into(),
        parent_agent_id: None,
    };
    journal.append(0, &Event::setup("Opening")).await.expect("writes");
    journal.note(&Note::Room { workspace: "w".into() }).await.expect("writes");
    journal
        .note(&Note::Execution { id: "e".into(), began: jiff::Timestamp::UNIX_EPOCH, after: 0 })
        .await
        .expect("writes");
    for event in [text("a"), call("1"), call("2")] {
        journal.append(2, &event).await.expect("writes");
    }
    journal.append(0, &ping()).await.expect("writes");
    journal.append(5, &text("b")).await.expect("writes");
    journal.append(0, &done()).await.expect("writes");
    journal.note(&Note::Settled).await.expect("writes");
}

#[tokio::test]
async fn a_journal_cut_at_any_byte_continues_without_gap_or_repetition() {
    let mut whole = Vec::new();
    let journal = begin().await;
    write_run(&journal).await;
    let mut file = &journal.file;
    file.rewind().expect("rewinds");
    file.read_to_end(&mut whole).expect("reads");
    let seen_whole = sent(journal.reader(0)).await;
    let first = whole.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    for cut in 0..=whole.len() {
        // Also followed by bytes without meaning, as after a power failure.
        for junk in [&b""[..], &[0; 300], b"9 text_delta {\"seq\":1,", b"\x01\n", b"#\"settl"] {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&whole[..cut]).and_then(|()| file.write_all(junk)).expect("writes");
            let Some((past, _)) = Past::read(&file, 0).expect("reads") else {
                assert!(cut < first, "cut at {cut}: the run is not known");
                continue;
            };
            assert_eq!(past.head.order.user_input, "two\nlines");
            assert!(past.bytes <= cut as u64 && whole[..usize::try_from(past.bytes).expect("small")].ends_with(b"\n"));
            let lost = &whole[usize::try_from(past.bytes).expect("small")..cut];
            assert!(!lost.contains(&b'\n'), "cut at {cut}: a complete line was lost");
            let (seq, was_done) = (past.seq, past.done);
            let resumed = Arc::new(Journal::resume(file, &past, None).expect("resumes"));
            // Bytes left behind would be at the file's end, where a start looks for the mark of a settled run.
            assert_eq!(resumed.file.metadata().expect("looks").len(), past.bytes, "cut at {cut}: not truncated");
            for _ in seq..6 {
                resumed.append(0, &ping()).await.expect("writes");
            }
            resumed.append(0, &done()).await.expect("writes");
            let stream = sent(resumed.reader(0)).await;
            assert_eq!(ids(&stream), numbered(1..=if was_done { 7 } else { 7.max(seq + 1) }), "cut at {cut}");
            let kept: Vec<&str> = seen_whole.split_inclusive("\n\n").take(seq).collect();
            assert!(stream.starts_with(&kept.concat()), "cut at {cut}: an event that was seen is missing");
        }
    }
}

#[tokio::test]
async fn a_journal_restores_the_state_of_a_resumed_run() {
    let mut file = tempfile::tempfile().expect("a file");
    let journal = begin_in(file.try_clone().expect("clones")).await;
    write_run(&journal).await;
    let mut past = Past::read(&file, 0).expect("reads").expect("a past").0;
    assert_eq!((past.seq, past.done, past.settled, past.agent_event, past.recorded), (7, true, true, 5, 1));
    assert_eq!(past.lines, 11);
    let open = past.take_known_before().tools;
    assert_eq!(open, HashMap::from([("1".to_owned(), "Bash".to_owned()), ("2".to_owned(), "Bash".to_owned())]));
    let (_, at) = (past.bytes, whole_up_to(&mut file, "ping"));
    file.set_len(at).expect("cuts");
    let mut past = Past::read(&file, 0).expect("reads").expect("a past").0;
    assert_eq!((past.seq, past.done, past.agent_event, past.recorded), (4, false, 2, 3));
    assert_eq!((past.room.as_deref(), past.execution.as_ref().map(|e| e.id.as_str())), (Some("w"), Some("e")));
    // The agent's event that both calls are from comes again.
    assert_eq!(past.take_known_before(), Known::default());
}

#[tokio::test]
async fn what_comes_again_meets_what_was_known_before_it() {
    let file = tempfile::tempfile().expect("a file");
    let journal = begin_in(file.try_clone().expect("clones")).await;
    let known = |tools: &[(&str, &str)], servers: &[&str]| Known {
        tools: tools.iter().map(|(id, name)| ((*id).to_owned(), (*name).to_owned())).collect(),
        failed_servers: servers.iter().map(|name| (*name).to_owned()).collect(),
    };
    let server = |name: &str| Event::McpServer { name: name.into(), status: "failed".into(), message: None };
    let result = |id: &str| Event::ToolResult {
        tool_use_id: id.into(),
        tool_name: "Task".into(),
        status: "completed",
        content: String::new(),
        is_error: false,
        parent_agent_id: None,
    };
    let call = |id: &str, name: &str| Event::ToolCall {
        tool_use_id: id.into(),
        tool_name: name.into(),
        input: serde_json::json!({}),
        summary: String::new(),
        parent_agent_id: None,
    };
    let before_first = known(&[], &[]);
    let before_second = known(&[("1", "Task")], &["early"]);
    let before_third = known(&[("2", "Bash")], &["early", "late"]);
    let rounds: [(u64, Vec<Event>, Known); 3] = [
        (3, vec![server("early"), call("1", "Task")], before_first),
        (4, vec![server("late"), server("early"), result("1"), call("2", "Read"), call("2", "Bash")], before_second),
        (6, vec![result("2")], before_third),
    ];
    for (number, events, before) in rounds {
        for event in events {
            journal.append(number, &event).await.expect("writes");
        }
        let mut past = Past::read(&file, 0).expect("reads").expect("a past").0;
        assert_eq!(past.take_known_before(), before, "before the agent's event {number}");
    }
}

fn whole_up_to(file: &mut File, name: &str) -> u64 {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("reads");
    let before: String = text.split_inclusive('\n').take_while(|line| !line.contains(&format!(" {name} "))).collect();
    before.len() as u64
}

#[tokio::test]
async fn readers_get_the_end_of_a_run_although_the_disk_takes_nothing() {
    let journal = begin().await;
    journal.append(1, &ping()).await.expect("writes");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f");
    let mut file = &journal.file;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("reads");
    fs::write(&path, &bytes).expect("writes");
    let past = Past::read(&journal.file, 0).expect("reads").expect("a past").0;
    let inner = Inner { written: past.bytes, seq: past.seq, ..Inner::default() };
    let read_only = File::open(&path).expect("opens");
    let journal = Arc::new(Journal::new(
        "r".into(),
        read_only,
        inner,
        Progress { bytes: past.bytes, ..Progress::default() },
        None,
    ));
    let reading = tokio::spawn(sent(journal.reader(0)));
    assert!(journal.append(2, &text("x")).await.is_err());
    assert!(journal.append(0, &done()).await.is_err());
    assert_eq!(ids(&reading.await.expect("reads")), numbered(1..=3));
}

#[tokio::test]
async fn a_settled_run_moves_to_its_conversation_and_the_one_before_is_made_smaller() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || Journals::open(dir.path().join("runs"), dir.path().join("log"), None).expect("opens");
    let journals = open();
    fs::write(dir.path().join("runs/notes"), "not a journal").expect("writes");
    for run_id in ["1", "2"] {
        let head = Head { run_id: run_id.into(), ..head() };
        let journal = journals.begin(head.clone()).await.expect("begins");
        assert!(journals.begin(head).await.is_err(), "a run has one journal");
        write_run(&journal).await;
        let journals = open();
        let reference = journals.unsettled().expect("lists").pop().expect("one");
        assert_eq!((reference.conversation.as_str(), reference.run_id.as_str()), ("c", run_id));
        let (_, past) = journals.resume(&reference).await.expect("reads").expect("a past");
        assert!(past.done && past.settled);
        journals.keep(&reference).await.expect("kept");
        assert!(journals.unsettled().expect("lists").is_empty());
        assert!(journals.knows("c", run_id).await.expect("known") && !journals.knows("c", "3").await.expect("known"));
    }
    let last = Arc::new(journals.last("c").await.expect("reads").expect("a journal"));
    assert_eq!((last.run_id(), ids(&sent(last.reader(0)).await).len()), ("2", 7));
    let list = async |after: &str, most| {
        let after = if after.is_empty() { Position::default() } else { after.parse().expect("a place") };
        let (entries, more) = journals.list("c", after, most).await.expect("lists");
        let shown = |entry: &Entry| format!("{}:{} {}", entry.position.run_id, entry.position.seq, entry.kind);
        (entries.iter().map(shown).collect::<Vec<_>>(), more)
    };
    let (all, more) = list("", 100).await;
    let first = ["1:0 user", "1:3 tool_call", "1:4 tool_call", "1:7 done"];
    let second = [
        "2:0 user",
        "2:1 progress",
        "2:2 text_delta",
        "2:3 tool_call",
        "2:4 tool_call",
        "2:5 ping",
        "2:6 text_delta",
        "2:7 done",
    ];
    assert_eq!(
        (all.clone(), more),
        ([first.as_slice(), &second].concat().iter().map(|&entry| entry.to_owned()).collect(), false)
    );
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let (page, more) = list(&after, 5).await;
        assert!(page.len() == 5 || !more);
        paged.extend(page);
        after = paged.last().and_then(|shown: &String| shown.split(' ').next()).unwrap_or_default().to_owned();
        if !more {
            break;
        }
    }
    assert_eq!(paged, all);
    journals.remove_all("c").expect("removes");
    assert!(journals.last("c").await.expect("reads").is_none() && list("", 1).await.0.is_empty());
}

#[tokio::test]
async fn messages_that_wait_are_in_the_journal_until_they_are_dropped() {
    let mut file = tempfile::tempfile().expect("a file");
    let journal = begin_in(file.try_clone().expect("clones")).await;
    let waits = |run_id: &str| {
        Note::Waits(Box::new(crate::conversation::waiting::Message {
            run_id: run_id.into(),
            order: order(),
            interrupts: None,
        }))
    };
    let waiting = |file: &File| {
        let (past, _) = Past::read(file, 0).expect("reads").expect("a past");
        past.waiting.iter().map(|message| message.run_id.clone()).collect::<Vec<_>>()
    };
    journal.note(&waits("1")).await.expect("writes");
    journal.note(&Note::Dropped).await.expect("writes");
    journal.note(&waits("2")).await.expect("writes");
    journal.append(0, &done()).await.expect("writes");
    journal.note(&waits("3")).await.expect("writes");
    journal.note(&Note::Settled).await.expect("writes");
    assert_eq!(waiting(&file), ["2", "3"]);
    file.rewind().expect("rewinds");
}

#[tokio::test]
async fn a_journal_is_full_at_its_limits() {
    for set in [(|inner: &mut Inner| inner.written = MOST_BYTES) as fn(&mut Inner), |inner| inner.seq = MOST_EVENTS] {
        let journal = begin().await;
        assert_eq!(journal.full(), None);
        set(&mut journal.inner());
        assert_eq!(journal.full(), None);
        journal.put(1, &Event::setup("one more"));
        assert!(journal.full().is_some());
    }
}

#[tokio::test]
async fn the_end_of_a_run_is_synced_before_it_is_told() {
    let journal = begin().await;
    let Event::Done(done) = done() else { unreachable!("it is one") };
    let totals = crate::conversation::store::RunTotals {
        session_id: None,
        title: None,
        input_tokens: 1,
        output_tokens: 1,
        context_tokens: None,
        context_full: false,
    };
    let outcome = nagaya_telemetry::metrics::RunOutcome::Success;
    let ending = Ending { done, totals, usage: nagaya_driver::Usage::default(), outcome };
    assert_eq!(journal.synced.load(Ordering::Relaxed), 0);
    journal.keep_ending(&ending).await.expect("kept");
    assert_eq!(journal.synced.load(Ordering::Relaxed), 1);
    let mut lines = journal.lines();
    let mut last = Vec::new();
    while let Some(line) = lines.next_line().expect("reads") {
        last = line.to_vec();
    }
    assert!(last.starts_with(b"#{\"ending\""), "{}", String::from_utf8_lossy(&last));
}

#[tokio::test]
async fn a_run_resumed_without_its_beginning_asks_for_its_last_event_again() {
    let mut file = tempfile::tempfile().expect("a file");
    let journal = begin_in(file.try_clone().expect("cloned")).await;
    for agent_event in [0, 6, 7, 7, 0] {
        journal.append(agent_event, &ping()).await.expect("writes");
    }
    file.rewind().expect("rewinds");
    let (past, _) = Past::read(&file, 0).expect("reads").expect("a past");
    assert_eq!((past.agent_event, past.recorded, past.asked_again_after()), (7, 2, 6));
    assert_eq!(Past::none(head()).asked_again_after(), 0);
}
