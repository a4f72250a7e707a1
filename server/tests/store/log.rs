//! The log that several servers share, in PostgreSQL.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nagaya_fixtures::postgres::Postgres;
use nagaya_server::conversation::event::{Done, DoneStatus, Event, UsageReport};
use nagaya_server::conversation::journal::shared::SharedLog;
use nagaya_server::conversation::journal::{Head, Journal, JournalRef, Journals, Note, Position, Retention};
use nagaya_server::conversation::order::{Bounds, Order};
use nagaya_server::conversation::store::{Database, NewConversation, NewTenant, Store};

use crate::same::populate;

/// Deadline for every wait.
const DEADLINE: Duration = Duration::from_secs(30);

/// Time in which what must not happen would have happened.
const MOMENT: Duration = Duration::from_millis(300);

/// A deployment's database, and the directories of its servers.
struct Deployment {
    postgres: Postgres,
    store: Store,
    conversation: String,
    dir: tempfile::TempDir,
}

impl Deployment {
    async fn new() -> Self {
        let postgres = Postgres::start().expect("PostgreSQL");
        let store = Store::open(&postgres.url().parse().expect("an address")).await.expect("opens");
        let conversation = populate(&store).await;
        Self { postgres, store, conversation, dir: tempfile::tempdir().expect("a directory") }
    }

    fn server(&self, name: &str) -> Journals {
        let url = self.postgres.url().parse().expect("an address");
        let log = SharedLog::open(Database::address(&url).as_str(), name).expect("opens");
        open(&self.dir.path().join(name), Some(Arc::new(log)))
    }

    async fn head(&self, run_id: &str) -> Head {
        let order = Order {
            conversation: self.store.conversation("t", &self.conversation).await.expect("reads"),
            tenant: self.store.tenant("t").await.expect("reads"),
            model: self.store.model("m").await.expect("reads"),
            user_input: format!("input of {run_id}"),
            request_id: None,
            user: None,
            bounds: Bounds::default(),
            client_tools: Vec::new(),
            content: Vec::new(),
            command: false,
            uploads: None,
        };
        Head { run_id: run_id.into(), began: jiff::Timestamp::now(), order }
    }

    fn reference(&self, run_id: &str) -> JournalRef {
        JournalRef { conversation: self.conversation.clone(), run_id: run_id.into() }
    }

    async fn listed(&self, journals: &Journals) -> Vec<String> {
        let (entries, _) = journals.list(&self.conversation, Position::default(), 1_000).await.expect("lists");
        entries.iter().map(|entry| format!("{}:{} {}", entry.position.run_id, entry.position.seq, entry.kind)).collect()
    }
}

fn open(dir: &Path, log: Option<Arc<SharedLog>>) -> Journals {
    Journals::open(dir.join("runs"), dir.join("log"), log).expect("opens")
}

fn text(text: &str) -> Event {
    Event::TextDelta { text: text.into() }
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

async fn sent(journal: &Arc<Journal>) -> String {
    let (mut reader, mut all) = (journal.reader(0), Vec::new());
    while let Some(piece) = reader.next().await.expect("reads") {
        all.extend_from_slice(&piece);
    }
    String::from_utf8(all).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_readers_have_seen_every_server_can_read() {
    let deployment = Deployment::new().await;
    let (one, two) = (deployment.server("one"), deployment.server("two"));
    let journal = Arc::new(one.begin(deployment.head("r1").await).await.expect("begins"));
    for n in 1..=50 {
        journal.append(n, &text("a line\n\u{9577}")).await.expect("writes");
    }
    let reader = {
        let journal = journal.clone();
        tokio::spawn(async move { sent(&journal).await })
    };
    // What is written while the database does not answer is not shown.
    deployment.postgres.pause().expect("pauses");
    let mut writing = {
        let journal = journal.clone();
        tokio::spawn(async move { journal.append(51, &text("late")).await })
    };
    let shown = tokio::time::timeout(MOMENT, &mut writing).await;
    assert!(shown.is_err(), "an event that is not in the database was shown");
    deployment.postgres.resume().expect("goes on");
    writing.await.expect("ends").expect("writes");
    let left = Arc::new(two.last(&deployment.conversation).await.expect("reads").expect("a run"));
    assert!(left.last_seq().expect("reads") == 51 && sent(&left).await.contains("late"));
    journal.append(0, &done()).await.expect("writes");
    journal.note(&Note::Settled).await.expect("writes");
    one.keep(&deployment.reference("r1")).await.expect("kept");
    let here = reader.await.expect("reads");
    let there = Arc::new(two.last(&deployment.conversation).await.expect("reads").expect("a run"));
    assert_eq!(sent(&there).await, here);
    assert!(one.begin(deployment.head("r1").await).await.is_err(), "a run has one journal");
    assert!(one.knows(&deployment.conversation, "r1").await.expect("asks"), "and keeps it");
    deployment.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_server_has_died_is_claimed_once_and_its_server_adds_no_more() {
    let deployment = Deployment::new().await;
    let (one, two, three) = (deployment.server("one"), deployment.server("two"), deployment.server("three"));
    let journal = one.begin(deployment.head("r1").await).await.expect("begins");
    journal.append(1, &text("before")).await.expect("writes");
    let log = two.shared().expect("a log");
    let left = log.unsettled().await.expect("reads").pop().expect("a run");
    assert_eq!((left.run_id.as_str(), left.owner.as_str(), left.settled), ("r1", "one", false));
    assert!(two.claim(&left).await.expect("claims"));
    assert!(!three.claim(&left).await.expect("asks"), "it was claimed twice");
    let (theirs, past) = two.resume(&deployment.reference("r1")).await.expect("reads").expect("a past");
    assert_eq!((past.seq, past.head.order.user_input.as_str()), (1, "input of r1"));
    theirs.append(2, &text("after")).await.expect("writes");
    // The server was not dead, only slow.
    journal.append(2, &text("too late")).await.expect("writes");
    tokio::time::timeout(DEADLINE, journal.taken_over()).await.expect("it is told");
    theirs.append(3, &done()).await.expect("writes");
    let read = Arc::new(three.last(&deployment.conversation).await.expect("reads").expect("a run"));
    let stream = sent(&read).await;
    assert!(stream.contains("before") && stream.contains("after") && !stream.contains("too late"), "{stream}");
    deployment.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_while_the_database_is_away_and_is_copied_afterwards() {
    let mut deployment = Deployment::new().await;
    let one = deployment.server("one");
    let journal = Arc::new(one.begin(deployment.head("r1").await).await.expect("begins"));
    journal.append(1, &text("before")).await.expect("writes");
    let head = deployment.head("r2").await;
    deployment.postgres.stop().expect("stops");
    for n in 2..=2_000 {
        journal.put(n, &text(&"x".repeat(500)));
    }
    journal.flush().await.expect("writes to the file");
    journal.append(2_001, &text("in the file")).await.expect("writes to the file");
    let reading = Arc::clone(&journal);
    let mut reader = reading.reader(2_000);
    let seen = tokio::time::timeout(DEADLINE, reader.next()).await.expect("in time").expect("reads").expect("an event");
    assert!(String::from_utf8_lossy(&seen).contains("in the file"));
    assert!(one.begin(head).await.is_err(), "a run begins that no other server could read");
    deployment.postgres.start_again().expect("starts");
    let until = Instant::now() + DEADLINE;
    while !journal.complete_copy().await {
        assert!(Instant::now() < until, "the log does not catch up");
        tokio::task::yield_now().await;
    }
    journal.append(2_002, &done()).await.expect("writes");
    let two = deployment.server("two");
    let there = Arc::new(two.last(&deployment.conversation).await.expect("reads").expect("a run"));
    assert_eq!(sent(&there).await, sent(&journal).await);
    deployment.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_a_power_failure_has_shortened_is_read_from_the_database() {
    let deployment = Deployment::new().await;
    let one = deployment.server("one");
    let journal = one.begin(deployment.head("r1").await).await.expect("begins");
    for n in 1..=100 {
        journal.append(n, &text("a line")).await.expect("writes");
    }
    let file = deployment.dir.path().join(format!("one/runs/{}.r1", deployment.conversation));
    let whole = std::fs::read(&file).expect("reads");
    for cut in [0, 10, whole.len() / 2, whole.len() - 3] {
        std::fs::write(&file, &whole[..cut]).expect("cuts");
        let (_, past) = one.resume(&deployment.reference("r1")).await.expect("reads").expect("a past");
        assert_eq!((past.seq, past.lines), (100, 101), "cut at {cut}");
        assert_eq!(std::fs::read(&file).expect("reads"), whole);
    }
    deployment.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_keeps_what_stays_of_use_until_its_time_is_up_or_the_conversation_is_deleted() {
    let deployment = Deployment::new().await;
    let (one, two) = (deployment.server("one"), deployment.server("two"));
    for run_id in ["r1", "r2", "r3"] {
        let journal = one.begin(deployment.head(run_id).await).await.expect("begins");
        journal.append(1, &text("passing")).await.expect("writes");
        journal.append(1, &Event::Title { title: "stays".into() }).await.expect("writes");
        if run_id != "r3" {
            journal.append(0, &done()).await.expect("writes");
            journal.note(&Note::Settled).await.expect("writes");
            one.keep(&deployment.reference(run_id)).await.expect("kept");
        }
    }
    let first = ["r1:0 user", "r1:2 title", "r1:3 done"];
    let rest =
        ["r2:0 user", "r2:1 text_delta", "r2:2 title", "r2:3 done", "r3:0 user", "r3:1 text_delta", "r3:2 title"];
    assert_eq!(deployment.listed(&two).await, [first.as_slice(), &rest].concat());
    let keep = |time| Retention { time, bytes: u64::MAX };
    two.forget(keep(DEADLINE)).await.expect("nothing is so old");
    assert_eq!(deployment.listed(&two).await.len(), 10);
    two.forget(keep(Duration::ZERO)).await.expect("removes");
    assert_eq!(deployment.listed(&two).await, rest[4..], "a run that is not settled stays");
    deployment.store.delete_conversation("t", &deployment.conversation).await.expect("deletes");
    assert!(deployment.listed(&two).await.is_empty());
    assert_eq!(one.last_kept(&deployment.conversation).as_deref(), Some("r2"), "its copies on a disk");
    one.forget(keep(DEADLINE)).await.expect("removes");
    assert_eq!(one.last_kept(&deployment.conversation), None, "which go with it, though they are not old");
    deployment.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_runs_share_the_transactions_of_the_log() {
    let deployment = Deployment::new().await;
    let one = deployment.server("one");
    let mut journals = Vec::new();
    for n in 0..50 {
        journals.push(one.begin(deployment.head(&format!("r{n:02}")).await).await.expect("begins"));
    }
    let all = journals.iter().map(async |journal| {
        for n in 1..=40 {
            journal.append(n, &text("a line")).await.expect("writes");
        }
    });
    futures::future::join_all(all).await;
    let listed = deployment.listed(&one).await;
    assert_eq!(listed.len(), 1_000, "a page");
    for (n, journal) in journals.iter().enumerate() {
        let mine = one.list(&deployment.conversation, Position { run_id: format!("r{n:02}"), seq: 0 }, 40).await;
        let (entries, _) = mine.expect("lists");
        let wrong = entries.iter().find(|entry| entry.position.run_id != journal.run_id());
        assert!(entries.len() == 40 && wrong.is_none(), "{wrong:?}");
    }
    deployment.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_gap_is_removed_when_a_run_is_taken_over_so_that_the_next_one_reads_all() {
    let deployment = Deployment::new().await;
    let servers = ["one", "two", "three"].map(|name| deployment.server(name));
    let journal = servers[0].begin(deployment.head("r1").await).await.expect("begins");
    for n in 1..=10 {
        journal.append(n, &text("of the first")).await.expect("writes");
    }
    let pool = sqlx::PgPool::connect(&deployment.postgres.url()).await.expect("connects");
    sqlx::query("DELETE FROM log_lines WHERE line = 6").execute(&pool).await.expect("a gap");
    for (server, seq) in servers[1..].iter().zip([5, 6]) {
        let run = server.shared_run("r1").await.expect("reads").expect("a run");
        assert!(server.claim(&run).await.expect("claims"));
        let (theirs, past) = server.resume(&deployment.reference("r1")).await.expect("reads").expect("a past");
        assert_eq!((past.seq, past.lines), (seq, seq as u64 + 1));
        theirs.append(100, &text("of the next")).await.expect("writes");
    }
    let listed = deployment.listed(&servers[0]).await;
    assert_eq!(listed.len(), 8, "{listed:?}");
    pool.close().await;
    deployment.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_has_a_size_and_who_has_most_of_it_loses_the_oldest() {
    let deployment = Deployment::new().await;
    let one = deployment.server("one");
    for run_id in ["r1", "r2", "r3", "r4", "r5", "r6", "r7"] {
        let journal = one.begin(deployment.head(run_id).await).await.expect("begins");
        journal.append(1, &Event::Title { title: "x".repeat(10_000) }).await.expect("writes");
        journal.append(1, &text("passing")).await.expect("writes");
        journal.append(0, &done()).await.expect("writes");
        journal.note(&Note::Settled).await.expect("writes");
        one.keep(&deployment.reference(run_id)).await.expect("kept");
    }
    let pool = sqlx::PgPool::connect(&deployment.postgres.url()).await.expect("connects");
    let sizes =
        "SELECT r.bytes - (SELECT SUM(OCTET_LENGTH(text)) FROM log_lines l WHERE l.run_id = r.run_id) FROM log_runs r";
    let differences: Vec<i64> = sqlx::query_scalar(sizes).fetch_all(&pool).await.expect("reads");
    assert_eq!(differences, [0; 7], "what is counted is what is there, also of runs that were made smaller");
    // Another tenant with less, whose run is the oldest.
    let store = &deployment.store;
    let small = NewTenant { tenant_id: "small".into(), system_prompt: None, model_id: Some("m".into()) };
    store.create_tenant(small).await.expect("creates");
    let (tenant_id, user_id, model_id) = ("small".into(), "u".into(), "m".into());
    let theirs = NewConversation { tenant_id, user_id, model_id, workspace_enabled: true };
    let theirs = store.create_conversation(theirs).await.expect("creates");
    let mut head = deployment.head("r0").await;
    head.order.conversation = theirs.clone();
    let journal = one.begin(head).await.expect("begins");
    journal.append(0, &done()).await.expect("writes");
    let reference = JournalRef { conversation: theirs.conversation_id.clone(), run_id: "r0".into() };
    one.keep(&reference).await.expect("kept");
    sqlx::query("UPDATE log_runs SET settled_at = settled_at - INTERVAL '1 minute' WHERE run_id = 'r0'")
        .execute(&pool)
        .await
        .expect("changes");
    let keep = |bytes| Retention { time: DEADLINE * 1_000, bytes };
    one.forget(keep(100_000)).await.expect("nothing is too much");
    assert_eq!(deployment.listed(&one).await.len(), 22);
    let runs = "SELECT run_id FROM log_runs ORDER BY run_id";
    one.forget(keep(30_000)).await.expect("removes");
    let left: Vec<String> = sqlx::query_scalar(runs).fetch_all(&pool).await.expect("reads");
    assert_eq!(left, ["r0", "r6", "r7"], "some at a time, the oldest first, and no more than it takes");
    one.forget(keep(10_000)).await.expect("removes");
    assert!(deployment.listed(&one).await.is_empty());
    let left: Vec<String> = sqlx::query_scalar("SELECT run_id FROM log_runs").fetch_all(&pool).await.expect("reads");
    assert_eq!(left, ["r0"], "what another has does not cost a tenant its own");
    pool.close().await;
    deployment.store.close().await;
}
