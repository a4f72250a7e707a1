//! Synchronisation of a workspace with the bucket.

use nagaya_fixtures::s3::Fault;
use nagaya_workspace::objects::{SyncState, restore, save};

use crate::support::{Table, bucket, content, place, read, server, soon};

fn contents(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn the_next_room_gets_the_files_and_modes_of_the_previous_one() {
    let server = server().await;
    let place = place(&server);
    let one = Table::of(&[("a.txt", "one"), ("src/b.rs", "two"), ("c", "")]);
    let mut step = SyncState::default();
    restore(&place, "one", &one, &mut step, soon()).await.expect("restores nothing");
    let done = save(&place, "one", &one, &mut step, soon()).await.expect("stores");
    assert_eq!((done.moved, done.deleted, done.skipped), (3, 0, 0));
    assert_eq!(read(&place, "src/b.rs").await, b"two");

    // A file deleted in the room is deleted in the bucket; unchanged files cause no request.
    one.remove("c");
    one.put("a.txt", "changed");
    let before = server.requests().len();
    let done = save(&place, "one", &one, &mut step, soon()).await.expect("stores");
    assert_eq!((done.moved, done.deleted), (1, 1));
    let methods: Vec<String> = server.requests()[before..].iter().map(|request| request.method.clone()).collect();
    assert_eq!(methods, ["PUT", "POST", "PUT"], "the file, the deletion, the manifest");
    let count = server.requests().len();
    save(&place, "one", &one, &mut step, soon()).await.expect("stores nothing");
    assert_eq!(server.requests().len(), count, "an unchanged room causes no request");

    let two = Table::default();
    let mut step = SyncState::default();
    let done = restore(&place, "two", &two, &mut step, soon()).await.expect("restores");
    assert_eq!(done.moved, 2);
    assert_eq!(two.contents(), contents(&[("a.txt", "changed"), ("src/b.rs", "two")]));
    assert_eq!(two.mode("a.txt"), Some(0o755));
}

#[tokio::test]
async fn a_room_that_never_received_the_files_deletes_none() {
    let server = server().await;
    let place = place(&server);
    place.write("precious", content("x"), soon()).await.expect("writes");
    let room = Table::of(&[("new", "y")]);
    let mut step = SyncState::default();
    server.set_fault(Fault::Refuse).await.expect("sets the fault");
    restore(&place, "one", &room, &mut step, soon()).await.expect_err("the bucket refuses");
    server.set_fault(Fault::None).await.expect("sets the fault");
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("stores");
    assert_eq!((done.moved, done.deleted), (1, 0));
    assert_eq!(place.list(soon()).await.expect("lists").len(), 2);
    // The next run restores what is missing, and keeps the room's own files.
    place.write("new", content("older"), soon()).await.expect("writes");
    restore(&place, "one", &room, &mut step, soon()).await.expect("restores");
    assert_eq!(room.contents(), contents(&[("new", "y"), ("precious", "x")]));
    room.remove("precious");
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("stores");
    assert_eq!(done.deleted, 1, "the room had the file and deleted it");
}

#[tokio::test]
async fn a_file_that_is_uploaded_while_the_stored_ones_are_restored_stays_and_is_saved() {
    let server = server().await;
    let place = place(&server);
    for path in ["same", "other"] {
        place.write(path, content("stored"), soon()).await.expect("writes");
    }
    let room = Table::default().with_upload("same", "uploaded");
    let mut step = SyncState::default();
    let done = restore(&place, "one", &room, &mut step, soon()).await.expect("restores");
    assert_eq!((done.moved, done.skipped, step.restored), (1, 0, true));
    assert_eq!(room.contents(), contents(&[("other", "stored"), ("same", "uploaded")]));
    save(&place, "one", &room, &mut step, soon()).await.expect("stores");
    assert_eq!(read(&place, "same").await, b"uploaded");
}

#[tokio::test]
async fn an_incomplete_list_deletes_nothing_and_is_reported() {
    let server = server().await;
    let place = place(&server);
    let mut room = Table::of(&[("a", "x"), ("b", "y")]);
    let mut step = SyncState::default();
    restore(&place, "one", &room, &mut step, soon()).await.expect("restores nothing");
    save(&place, "one", &room, &mut step, soon()).await.expect("stores");
    room.remove("a");
    room.cut = true;
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("stores");
    assert_eq!((done.deleted, done.skipped), (0, 1));
    assert_eq!(read(&place, "a").await, b"x");
    room.cut = false;
    room.put(&"d/".repeat(600), "too long");
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("stores");
    assert_eq!((done.deleted, done.skipped), (1, 1));
    assert!(done.skip_reason.is_some_and(|why| why.contains("too long")));
}

#[tokio::test]
async fn a_restarted_server_applies_the_rooms_deletions_and_uploads_nothing_again() {
    let server = server().await;
    let place = place(&server);
    let room = Table::of(&[("a", "x"), ("b", "y")]);
    let mut step = SyncState::default();
    restore(&place, "one", &room, &mut step, soon()).await.expect("restores nothing");
    save(&place, "one", &room, &mut step, soon()).await.expect("stores");
    room.remove("a");
    let mut step = SyncState::default();
    let before = server.requests().len();
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("stores");
    assert_eq!((done.moved, done.deleted), (0, 1), "the content of b is recognised by its hash");
    assert!(!server.requests()[before..].iter().any(|request| request.path.ends_with("/files/b")));
    // The same in the other direction: a file that the room deleted is not restored.
    let mut step = SyncState::default();
    restore(&place, "one", &room, &mut step, soon()).await.expect("restores nothing");
    assert_eq!(room.contents(), contents(&[("b", "y")]));
}

#[tokio::test]
async fn a_sync_aborted_at_any_request_is_completed_by_the_next() {
    for fails in 1.. {
        let server = server().await;
        let place = place(&server);
        let room = Table::of(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let mut step = SyncState::default();
        restore(&place, "one", &room, &mut step, soon()).await.expect("restores nothing");
        save(&place, "one", &room, &mut step, soon()).await.expect("stores");
        room.put("a", "changed");
        room.put("d", "new");
        room.remove("b");
        let before = server.requests().len();
        // The sync is dropped at that request, since retries would hide a single failure.
        let cut = async {
            let count = || server.requests().len() - before;
            let work = save(&place, "one", &room, &mut step, soon());
            tokio::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    done = &mut work => return done.is_ok(),
                    () = tokio::task::yield_now() => {
                        if count() >= fails {
                            return false;
                        }
                    }
                }
            }
        };
        let whole = cut.await;
        // The next sync runs in a new process (without memory of the room), or in the same one.
        let mut fresh = SyncState::default();
        let step = if fails % 2 == 0 { &mut step } else { &mut fresh };
        save(&place, "one", &room, step, soon()).await.expect("stores");
        let next = Table::default();
        restore(&place, "two", &next, &mut SyncState::default(), soon()).await.expect("restores");
        assert_eq!(next.contents(), room.contents(), "aborted at request {fails}");
        if whole {
            assert!(fails > 3, "there were only {fails} requests");
            break;
        }
    }
}

#[tokio::test]
async fn a_conversation_sees_no_files_of_another_conversation_or_tenant() {
    let server = server().await;
    let bucket = bucket(&server);
    let room = Table::of(&[("secret", "acme's")]);
    let mut step = SyncState::default();
    save(&bucket.conversation_store("acme", "c"), "one", &room, &mut step, soon()).await.expect("stores");
    for (tenant, conversation) in [("other", "c"), ("acme", "d"), ("acme/c", ""), ("..", "acme")] {
        let place = bucket.conversation_store(tenant, conversation);
        let listed = place.list(soon()).await.map(|listed| listed.len());
        assert!(matches!(listed, Ok(0) | Err(_)), "{tenant}/{conversation}: {listed:?}");
    }
}
