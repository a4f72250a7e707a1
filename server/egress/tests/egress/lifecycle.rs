//! Listeners: which workspace a request belongs to, and shutdown.

use nagaya_fixtures::origin::Kind;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::support::{DEADLINE, Proxy, descriptors, eventually, identity, origin, read_all, read_head, settings};

#[tokio::test]
async fn the_listener_identifies_the_workspace() {
    let proxy = Proxy::start(settings(&[]));
    proxy.talk("GET http://a.example/ HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    proxy.listener.as_ref().expect("open").identify(identity("another"));
    proxy.talk("GET http://a.example/ HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    eventually("two records", || proxy.records.all().len() == 2).await;
    let whose: Vec<String> = proxy.records.all().into_iter().map(|record| record.identity.workspace).collect();
    assert_eq!(whose, ["w", "another"]);
}

#[tokio::test]
async fn stopping_a_listener_closes_its_tunnels() {
    let echo = origin(Kind::RawEcho).await;
    let before = descriptors();
    let mut proxy = Proxy::start(settings(&[("echo.example:7", echo.addr())]));
    let mut tunnel = proxy.connect().await;
    tunnel.write_all(b"CONNECT echo.example:7 HTTP/1.1\r\nhost: echo.example:7\r\n\r\n").await.expect("writes");
    read_head(&mut tunnel).await;
    assert_eq!((proxy.egress.open_listeners(), proxy.egress.open_tunnels()), (1, 1), "the stimulus");
    proxy.listener.take().expect("open").stop(DEADLINE).await;
    assert_eq!(read_all(&mut tunnel).await, "");
    assert_eq!((proxy.egress.open_listeners(), proxy.egress.open_tunnels()), (0, 0));
    assert!(UnixStream::connect(proxy.socket()).await.is_err());
    drop((proxy, tunnel));
    eventually("descriptors are back", || descriptors() <= before).await;
}

#[tokio::test]
async fn a_dropped_listener_stops() {
    let mut proxy = Proxy::start(settings(&[]));
    drop(proxy.listener.take());
    eventually("it is closed", || proxy.egress.open_listeners() == 0).await;
    assert!(UnixStream::connect(proxy.socket()).await.is_err());
}
