//! A room and the bucket, made the same.

use nagaya_fixtures::s3::Fault;
use nagaya_workspace::objects::{SyncState, restore, save};

use crate::support::{Table, bucket, content, place, read, server, soon};

fn told(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn what_one_room_leaves_the_next_one_has_with_its_modes() {
    let server = server().await;
    let place = place(&server);
    let one = Table::of(&[("a.txt", "one"), ("src/b.rs", "two"), ("c", "")]);
    let mut step = SyncState::default();
    restore(&place, "one", &one, &mut step, soon()).await.expect("nothing to bring");
    let done = save(&place, "one", &one, &mut step, soon()).await.expect("goes out");
    assert_eq!((done.moved, done.deleted, done.skipped), (3, 0, 0));
    assert_eq!(read(&place, "src/b.rs").await, b"two");

    // Deleted in the room it is deleted in the bucket; nothing else is asked of it for what stays the same.
    one.remove("c");
    one.put("a.txt", "changed");
    let before = server.asked().len();
    let done = save(&place, "one", &one, &mut step, soon()).await.expect("goes out");
    assert_eq!((done.moved, done.deleted), (1, 1));
    let asked: Vec<String> = server.asked()[before..].iter().map(|asked| asked.method.clone()).collect();
    assert_eq!(asked, ["PUT", "POST", "PUT"], "the file, the deletion, the manifest");
    let quiet = server.asked().len();
    save(&place, "one", &one, &mut step, soon()).await.expect("nothing to do");
    assert_eq!(server.asked().len(), quiet, "a room that has not changed asks nothing of the bucket");

    let two = Table::default();
    let mut step = SyncState::default();
    let done = restore(&place, "two", &two, &mut step, soon()).await.expect("comes in");
    assert_eq!(done.moved, 2);
    assert_eq!(two.told(), told(&[("a.txt", "changed"), ("src/b.rs", "two")]));
    assert_eq!(two.mode("a.txt"), Some(0o755));
}

#[tokio::test]
async fn a_room_that_has_not_had_the_files_deletes_none() {
    let server = server().await;
    let place = place(&server);
    place.write("precious", content("x"), soon()).await.expect("writes");
    let room = Table::of(&[("new", "y")]);
    let mut step = SyncState::default();
    server.set_fault(Fault::Refuse).await.expect("is set");
    restore(&place, "one", &room, &mut step, soon()).await.expect_err("is refused");
    server.set_fault(Fault::None).await.expect("is set");
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("goes out");
    assert_eq!((done.moved, done.deleted), (1, 0));
    assert_eq!(place.list(soon()).await.expect("lists").len(), 2);
    // The next run brings in what is missing, and leaves alone what the room has.
    place.write("new", content("older"), soon()).await.expect("writes");
    restore(&place, "one", &room, &mut step, soon()).await.expect("comes in");
    assert_eq!(room.told(), told(&[("new", "y"), ("precious", "x")]));
    room.remove("precious");
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("goes out");
    assert_eq!(done.deleted, 1, "now it was the room that deleted it");
}

#[tokio::test]
async fn a_list_that_is_not_whole_deletes_nothing_and_says_so() {
    let server = server().await;
    let place = place(&server);
    let mut room = Table::of(&[("a", "x"), ("b", "y")]);
    let mut step = SyncState::default();
    restore(&place, "one", &room, &mut step, soon()).await.expect("nothing");
    save(&place, "one", &room, &mut step, soon()).await.expect("goes out");
    room.remove("a");
    room.cut = true;
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("goes out");
    assert_eq!((done.deleted, done.skipped), (0, 1));
    assert_eq!(read(&place, "a").await, b"x");
    room.cut = false;
    room.put(&"d/".repeat(600), "too long");
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("goes out");
    assert_eq!((done.deleted, done.skipped), (1, 1));
    assert!(done.skip_reason.is_some_and(|why| why.contains("too long")));
}

#[tokio::test]
async fn a_restarted_server_knows_what_the_room_has_had_and_sends_nothing_twice() {
    let server = server().await;
    let place = place(&server);
    let room = Table::of(&[("a", "x"), ("b", "y")]);
    let mut step = SyncState::default();
    restore(&place, "one", &room, &mut step, soon()).await.expect("nothing");
    save(&place, "one", &room, &mut step, soon()).await.expect("goes out");
    room.remove("a");
    let mut step = SyncState::default();
    let before = server.asked().len();
    let done = save(&place, "one", &room, &mut step, soon()).await.expect("goes out");
    assert_eq!((done.moved, done.deleted), (0, 1), "the content of b is known by its hash");
    assert!(!server.asked()[before..].iter().any(|asked| asked.path.ends_with("/files/b")));
    // The same way in: nothing comes back that the room has deleted.
    let mut step = SyncState::default();
    restore(&place, "one", &room, &mut step, soon()).await.expect("nothing");
    assert_eq!(room.told(), told(&[("b", "y")]));
}

#[tokio::test]
async fn a_sync_cut_off_at_any_request_is_made_good_by_the_next() {
    for fails in 1.. {
        let server = server().await;
        let place = place(&server);
        let room = Table::of(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let mut step = SyncState::default();
        restore(&place, "one", &room, &mut step, soon()).await.expect("nothing");
        save(&place, "one", &room, &mut step, soon()).await.expect("goes out");
        room.put("a", "changed");
        room.put("d", "new");
        room.remove("b");
        let before = server.asked().len();
        // Retries would hide it: everything fails from that request on.
        let cut = async {
            let count = || server.asked().len() - before;
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
        // Another process goes on, or the same one.
        let mut fresh = SyncState::default();
        let step = if fails % 2 == 0 { &mut step } else { &mut fresh };
        save(&place, "one", &room, step, soon()).await.expect("goes out");
        let next = Table::default();
        restore(&place, "two", &next, &mut SyncState::default(), soon()).await.expect("comes in");
        assert_eq!(next.told(), room.told(), "cut off at request {fails}");
        if whole {
            assert!(fails > 3, "there were only {fails} requests");
            break;
        }
    }
}

#[tokio::test]
async fn tenants_do_not_meet() {
    let server = server().await;
    let bucket = bucket(&server);
    let room = Table::of(&[("secret", "acme's")]);
    let mut step = SyncState::default();
    save(&bucket.conversation_store("acme", "c"), "one", &room, &mut step, soon()).await.expect("goes out");
    for (tenant, conversation) in [("other", "c"), ("acme", "d"), ("acme/c", ""), ("..", "acme")] {
        let place = bucket.conversation_store(tenant, conversation);
        let listed = place.list(soon()).await.map(|listed| listed.len());
        assert!(matches!(listed, Ok(0) | Err(_)), "{tenant}/{conversation}: {listed:?}");
    }
}
