//! Responses that are cut off: the bytes that arrived are passed on, then the client's connection is closed.

use nagaya_egress::{Decision, Settings};
use nagaya_fixtures::listen::Listening;
use nagaya_fixtures::tls::Tls;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::{Proxy, any, read_all, settings};

const HOST: &str = "web.example";
/// Repetitions of each case, so that a fault that depends on timing shows.
const TRIES: usize = 100;

/// A target that sends the same bytes for each request and closes the connection.
async fn closing(answer: Vec<u8>, tls: Option<Tls>) -> Listening {
    let listening = Listening::start(any(), move |stream| {
        let (answer, tls) = (answer.clone(), tls.clone());
        async move {
            match tls {
                None => answer_and_close(stream, &answer).await,
                Some(tls) => answer_and_close(tls.acceptor.accept(stream).await.expect("TLS"), &answer).await,
            }
        }
    });
    listening.await.expect("listens")
}

async fn answer_and_close(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

fn request(version: &str) -> String {
    format!("GET http://{HOST}/ HTTP/{version}\r\nhost: {HOST}\r\n\r\n")
}

async fn ask(proxy: &Proxy, version: &str) -> String {
    let mut stream = proxy.connect().await;
    stream.write_all(request(version).as_bytes()).await.expect("writes");
    read_all(&mut stream).await
}

/// All bytes sent before the close arrive: the head alone, a few bytes or many, in either framing, with and without TLS.
#[tokio::test]
async fn bytes_sent_before_a_close_arrive() {
    let many = "x".repeat(60_000);
    let chunk = format!("ea60\r\n{many}\r\n");
    for (head, sent, arrives) in [
        ("content-length: 10", "HELLO", "HELLO"),
        ("content-length: 10", "", ""),
        ("content-length: 100000", &many, &many),
        ("transfer-encoding: chunked", "5\r\nHELLO\r\n", "5\r\nHELLO\r\n"),
        ("transfer-encoding: chunked", "5\r\nHELLO\r\n5\r\nWO", "5\r\nHELLO\r\n2\r\nWO\r\n"),
        ("transfer-encoding: chunked", "", ""),
        ("transfer-encoding: chunked", &chunk, &many),
    ] {
        for with_tls in [false, true] {
            let tls = with_tls.then(|| Tls::new(&[HOST.to_owned()]).expect("a certificate"));
            let ca_pem = tls.as_ref().map(|tls| tls.ca_pem.clone().into_bytes());
            let target = closing(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{sent}").into_bytes(), tls).await;
            let host = format!("{HOST}:{}", if with_tls { 443 } else { 80 });
            let settings = settings(&[(host.as_str(), target.addr())]);
            let credentials = match with_tls {
                true => settings.credentials.clone().with_header(HOST, "x-api-key", "k"),
                false => settings.credentials.clone(),
            };
            let proxy = Proxy::start(Settings { credentials, extra_ca_pem: ca_pem, ..settings });
            for n in 0..TRIES {
                let told = ask(&proxy, "1.1").await;
                let what = format!("{head}, {} bytes, TLS: {with_tls}, try {n}", sent.len());
                assert!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{what}: {told:?}");
                let body = told.split_once("\r\n\r\n").expect("a head").1;
                if arrives == many {
                    let content: String = body.chars().filter(|character| *character == 'x').collect();
                    assert_eq!(content.len(), many.len(), "{what}");
                } else {
                    assert_eq!(body, arrives, "{what}");
                }
                assert!(!body.ends_with("0\r\n\r\n"), "{what}: it looks whole");
            }
            let records = proxy.records.all();
            assert!(records.iter().all(|record| record.decision == Decision::Failed("reset")), "{head}");
        }
    }
}

/// If nothing has been passed on yet, the client gets a 502 with the reason.
#[tokio::test]
async fn a_response_cut_off_in_its_head_is_502() {
    for sent in
        ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n", "HTTP/1.1 100 Continue\r\n\r\n"]
    {
        let target = closing(sent.as_bytes().to_vec(), None).await;
        let host = format!("{HOST}:80");
        let proxy = Proxy::start(settings(&[(host.as_str(), target.addr())]));
        for n in 0..20 {
            let told = proxy.talk(request("1.1").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await;
            assert!(told.starts_with("HTTP/1.1 502 ") && told.contains(r#""reason":"reset""#), "{sent:?} {n}: {told}");
        }
    }
}
