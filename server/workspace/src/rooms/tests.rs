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
