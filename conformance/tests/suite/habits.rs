//! A rule that no test of behaviour shows: the suite links nothing of the server.

#[test]
fn nothing_of_the_server_is_linked() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, dependencies) = manifest.split_once("[dependencies]").expect("dependencies");
    assert!(dependencies.contains("bollard"), "the dependencies were not found: {dependencies}");
    assert!(!dependencies.contains("nagaya"), "a crate of this project is among the dependencies");
}
