//! What the table of rooms keeps track of.

use super::*;

#[test]
fn a_release_begins_only_if_the_room_is_unchanged() {
    let rooms = Rooms::new(Clock::default());
    let occupant = Occupant { conversation: "c".into(), tenant: "t".into() };
    let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None));
    rooms.insert(room.clone(), RoomState::Bound { occupant, leased: false, session: None });
    let seen = |rooms: &Rooms| rooms.all().pop().expect("a room");
    let idle = seen(&rooms);
    rooms.lease_bound("c").expect("a lease");
    assert!(!rooms.begin_release_if_unchanged(&idle), "a run has leased it");
    rooms.end_lease(&room.id, None);
    assert!(!rooms.begin_release_if_unchanged(&idle), "a run has leased and returned it");
    assert!(rooms.begin_release_if_unchanged(&seen(&rooms)));
    assert!(!rooms.is_live(&room.id));
    rooms.remove(&room.id);
    assert!(!rooms.begin_release_if_unchanged(&idle) && !rooms.contains(&room.id), "another server has it");
}

#[test]
fn drivers_of_the_pool_count_among_those_that_wait() {
    let rooms = Rooms::new(Clock::default());
    let living = || Living { execution: "e".into(), read: 1, options: "o".into() };
    let add = |state| {
        let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None));
        rooms.insert(room.clone(), state);
        room
    };
    for conversation in ["a", "b"] {
        let occupant = Occupant { conversation: conversation.into(), tenant: "t".into() };
        let session = Some(Session { id: "s".into(), living: Some(living()) });
        add(RoomState::Bound { occupant, leased: false, session });
    }
    let pooled = add(RoomState::Pooled);
    assert!(rooms.take_surplus_drivers(2).is_empty());
    pooled.set_started(Some(living()));
    let recorded = rooms.record_fields(&pooled.id).expect("fields").1;
    assert_eq!((rooms.started(), recorded), (1, Some(Session::of_nobody(living()))));
    assert_eq!(rooms.take_surplus_drivers(2).len(), 1, "a conversation's driver ends");
    assert_eq!(pooled.take_started(), Some(living()));
    assert_eq!((pooled.started(), rooms.started()), (None, 0));
    assert!(rooms.take_surplus_drivers(2).is_empty(), "it is no longer counted");
}

#[test]
fn a_room_is_idle_from_the_end_of_its_lease_and_the_last_access_to_its_files_on() {
    let clock = Clock::default();
    let rooms = Rooms::new(clock.clone());
    let occupant = Occupant { conversation: "c".into(), tenant: "t".into() };
    let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None));
    rooms.insert(room.clone(), RoomState::Bound { occupant, leased: false, session: None });
    let idle = || clock.now().duration_since(rooms.all().pop().expect("a room").last_used);
    let hour = Duration::from_secs(3600);
    rooms.lease_bound("c").expect("a lease");
    clock.advance(hour);
    rooms.end_lease(&room.id, None);
    assert!(idle() < hour, "a run that took an hour");
    clock.advance(hour);
    assert!(idle() >= hour);
    rooms.touch_room_of("c").expect("a room");
    assert!(idle() < hour, "files were read");
}

#[test]
fn the_table_takes_no_more_rooms_than_the_limit() {
    let rooms = Rooms::new(Clock::default());
    let room = || Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None));
    assert!(rooms.insert_within(room(), 2) && rooms.insert_within(room(), 2));
    assert!(!rooms.insert_within(room(), 2), "also if whoever asks has seen space a moment ago");
    assert!(rooms.insert_within(room(), 0), "0 is no limit");
}

#[test]
fn a_room_is_handed_over_only_if_it_is_not_leased() {
    let rooms = Rooms::new(Clock::default());
    assert!(matches!(rooms.hand_over("c"), Handover::NoRoom));
    let occupant = Occupant { conversation: "c".into(), tenant: "t".into() };
    let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None));
    rooms.insert(room.clone(), RoomState::Bound { occupant, leased: true, session: Some(Session::ended("s")) });
    assert!(matches!(rooms.hand_over("c"), Handover::Busy) && rooms.is_leased("c"));
    rooms.end_lease(&room.id, None);
    assert!(matches!(rooms.hand_over("c"), Handover::Room(_, Some(session)) if session.id == "s"));
    assert!(!rooms.contains(&room.id) && rooms.of_conversation("c").is_none());
}

/// What the table says of a room: its state's name, whether it is live and in the pool, whose it is, what its record has, whether it counts
/// as leased, and how many are in the pool.
type Said = (&'static str, bool, bool, bool, Option<(bool, Option<&'static str>)>, bool, usize);

#[test]
fn in_each_state_a_room_is_found_where_it_belongs_and_nowhere_else() {
    let occupant = || Occupant { conversation: "c".into(), tenant: "t".into() };
    let bound = |leased| RoomState::Bound { occupant: occupant(), leased, session: Some(Session::ended("s")) };
    let of_c = Some((true, Some("s")));
    let cases: [(RoomState, Said); 5] = [
        (RoomState::Starting, ("starting", true, false, false, None, false, 0)),
        (RoomState::Pooled, ("pooled", true, true, false, Some((false, None)), false, 1)),
        (bound(true), ("running", true, false, true, of_c, true, 0)),
        (bound(false), ("idle", true, false, true, of_c, false, 0)),
        (RoomState::Releasing, ("releasing", false, false, false, None, false, 0)),
    ];
    for (before, _) in &cases {
        for (after, expected) in &cases {
            let rooms = Rooms::new(Clock::default());
            let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None));
            let id = room.id.clone();
            rooms.insert(room, before.clone());
            let is_released = *before == RoomState::Releasing;
            assert_eq!(rooms.advance(&id, after.clone()), !is_released, "{before:?} to {after:?}");
            let expected = if is_released { &cases[4].1 } else { expected };
            let record = rooms
                .record_fields(&id)
                .map(|(occupant, session)| (occupant.is_some(), session.map(|session| session.id)));
            let record = record.as_ref().map(|(is_bound, session)| (*is_bound, session.as_deref()));
            let name = rooms.all()[0].state.name();
            let (is_of_c, is_leased) = (rooms.of_conversation("c").as_ref() == Some(&id), rooms.is_leased("c"));
            let said = (name, rooms.is_live(&id), rooms.is_pooled(&id), is_of_c, record, is_leased, rooms.pooled());
            assert_eq!(said, *expected, "{before:?} to {after:?}");
            assert_eq!((rooms.len(), rooms.own_ids(), rooms.is_own(&id)), (1, vec![id.clone()], true));
            rooms.remove(&id);
            assert_eq!(
                (rooms.len(), rooms.pooled(), rooms.of_conversation("c"), rooms.is_own(&id)),
                (0, 0, None, false)
            );
        }
    }
}

#[test]
fn the_oldest_of_the_pool_is_taken_and_the_newest_is_surplus() {
    let rooms = Rooms::new(Clock::default());
    let ids: Vec<RoomId> = (0..4)
        .map(|_| {
            let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None));
            rooms.insert(room.clone(), RoomState::Pooled);
            room.id.clone()
        })
        .collect();
    assert_eq!(rooms.surplus(4), []);
    assert_eq!(rooms.surplus(3), ids[3..]);
    assert_eq!(rooms.surplus(0), ids);
    let occupant = Occupant { conversation: "c".into(), tenant: "t".into() };
    let taken = rooms.lease_pooled(&occupant).expect("one");
    assert_eq!(
        (taken.id.clone(), taken.occupant(), rooms.is_leased("c")),
        (ids[0].clone(), Some(occupant.clone()), true)
    );
    assert!(rooms.lease_bound("c").is_none(), "it is leased already");
    // A session that a run leaves stays until another one replaces it.
    for (left, is_there) in [(Some("one"), "one"), (None, "one"), (Some("two"), "two")] {
        rooms.end_lease(&ids[0], left.map(Session::ended));
        assert!(!rooms.is_leased("c"));
        let (room, session) = rooms.lease_bound("c").expect("a lease");
        assert_eq!((&room.id, session.map(|session| session.id).as_deref()), (&ids[0], Some(is_there)));
    }
    // What it was is known to its release.
    assert_eq!(rooms.begin_release(&ids[0]).expect("a room").occupant(), Some(occupant));
    assert_eq!((rooms.of_conversation("c"), rooms.pooled()), (None, 3));
    assert!(rooms.begin_release(&RoomId::generate("d")).is_none());
    // The mark of one that is about to come is gone with it.
    let coming = RoomId::generate("d");
    let mark = rooms.reserve(&coming);
    assert!(rooms.is_own(&coming) && !rooms.contains(&coming) && rooms.own_ids().contains(&coming));
    drop(mark);
    assert!(!rooms.is_own(&coming));
    let unowned = rooms.begin_release_unowned(&coming);
    assert_eq!((unowned.id.clone(), rooms.is_live(&coming), rooms.contains(&coming)), (coming.clone(), false, true));
    assert!(unowned.agent().is_err());
}

#[test]
fn of_drivers_that_wait_those_used_last_stay_and_runs_are_left_alone() {
    let clock = Clock::default();
    let rooms = Rooms::new(clock.clone());
    let living = |name: &str| Living { execution: name.into(), read: 1, options: "o".into() };
    let add = |conversation: &str, leased, waits| {
        let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None));
        let occupant = Occupant { conversation: conversation.into(), tenant: "t".into() };
        let living = Some(living(conversation)).filter(|_| waits);
        let session = Some(Session { id: conversation.into(), living });
        rooms.insert(room, RoomState::Bound { occupant, leased, session });
        clock.advance(Duration::from_secs(1));
    };
    add("oldest", false, true);
    add("at work", true, true);
    add("without", false, false);
    add("older", false, true);
    add("newest", false, true);
    let mut left = 3;
    for (most, expected) in [(4, &[][..]), (3, &[]), (2, &["oldest"]), (2, &[]), (0, &["older", "newest"]), (0, &[])] {
        let taken: Vec<String> =
            rooms.take_surplus_drivers(most).into_iter().map(|(_, living)| living.execution).collect();
        assert_eq!(taken, expected, "at most {most}");
        left -= taken.len();
        let waiting = rooms.all().into_iter().filter(|entry| {
            matches!(&entry.state, RoomState::Bound { leased: false, session: Some(session), .. } if session.living.is_some())
        });
        assert_eq!(waiting.count(), left);
    }
    // Their sessions stay, so that another process can go on.
    assert_eq!(rooms.lease_bound("oldest").expect("a lease").1, Some(Session::ended("oldest")));
}
