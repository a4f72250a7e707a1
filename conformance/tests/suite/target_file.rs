//! `--target-file` and `describe`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use http::Method;
use nagaya_conformance::client::http::Api;
use nagaya_conformance::description::Description;
use nagaya_conformance::harness::exchanges::{Exchanges, Secrets};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fixture::{Fixture, Manner, ends};

fn written(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("target.toml");
    std::fs::write(&path, text).expect("written");
    (dir, path.display().to_string())
}

#[test]
fn a_file_with_faults_names_them_all_and_nothing_is_run() {
    let (_dir, path) = written("[http]\nprefix = \"v1\"\nform_field = \"x\"\n[lunch]\n");
    let (status, text) = ends(["run", "--target-file", &path, "--filter", "id(=HLTH-001)"]);
    assert_eq!(status, 3, "{text}");
    for fault in [":2: http.prefix", ":3: http.form_field", ":4: lunch is no table of a target file: write launch"] {
        assert!(text.contains(&format!("{path}{fault}")), "{fault}: {text}");
    }
    assert!(text.contains("3 things are wrong") && !text.contains("pass"), "{text}");
    let (status, text) = ends(["run", "--target-file", "/no/such/file"]);
    assert!(status == 3 && text.contains("/no/such/file"), "{text}");
}

#[test]
fn a_target_that_cannot_be_launched_needs_an_address() {
    let (_dir, path) = written("name = \"other\"\n");
    let (status, text) = ends(["run", "--target-file", &path]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("launch.program") && text.contains("--target"), "{text}");
}

/// The requests of `asks`, as they arrive at a server that answers each with 200 and `answer`.
async fn arriving(description: &str, answer: &'static str, asks: impl AsyncFnOnce(Api)) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while let Ok((mut client, _)) = listener.accept() {
            let mut request = String::new();
            let mut buffer = [0; 4096];
            while !is_whole(&request) {
                match client.read(&mut buffer) {
                    Ok(read) if read > 0 => request.push_str(&String::from_utf8_lossy(&buffer[..read])),
                    _ => break,
                }
            }
            if request.is_empty() {
                break;
            }
            seen.push(request);
            client.write_all(answer.replace('\n', "\r\n").as_bytes()).expect("written");
        }
        seen
    });
    let description = Description::parse(description, Path::new("")).unwrap_or_else(|faults| panic!("{faults:?}"));
    let api = Api::new(&base, Some("secret"), Exchanges::new(Secrets::default())).expect("a client");
    asks(api.speaking(&Arc::clone(&description.speech)).expect("a client")).await;
    drop(std::net::TcpStream::connect(base.trim_start_matches("http://")));
    server.join().expect("joined")
}

/// Whether the head and as much of a body as it announces have arrived.
fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

const OTHERWISE: &str = "[http]\nkey_header = \"Authorization\"\nkey_scheme = \"Token \"\nprefix = \"/v2\"\nruns = \"form\"\n\
                         form_field = \"body\"\nfiles_field = \"uploads\"\nmetadata_field = \"paths\"\n[http.routes]\n\"/api/tenants\" = \"/customers\"\n";

#[tokio::test]
async fn requests_have_the_targets_header_paths_and_encoding() {
    let answer = "HTTP/1.1 200 OK\nContent-Length: 2\nConnection: close\n\n{}";
    let seen = arriving(OTHERWISE, answer, async |api| {
        api.get("/api/tenants?limit=1").await.expect("an answer");
        api.post("/api/tenants/a/conversations/b/stream", &json!({"user_input": "x"})).await.expect("an answer");
        api.post("/api/models", &json!({})).await.expect("an answer");
        api.with_token("t").get("/").await.expect("an answer");
        // On a connection of its own, on which a scenario writes itself.
        let mut stream = api.connect().await.expect("a connection");
        let head = api.head_of(&Method::PUT, "/api/tenants/a/x?path=b").expect("http://");
        stream.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes()).await.expect("written");
        stream.read_to_end(&mut Vec::new()).await.expect("an answer");
        let form = api.form_of_run("x").file("f", b"1").metadata("[]");
        api.post_form("/api/tenants", form.whole()).await.expect("an answer");
    })
    .await;
    assert!(
        seen[0].starts_with("GET /v2/customers?limit=1 ") && seen[0].contains("authorization: Token secret\r\n"),
        "{seen:#?}"
    );
    assert!(seen[1].starts_with("POST /v2/customers/a/conversations/b/stream "), "{seen:#?}");
    assert!(
        seen[1].contains("multipart/form-data") && seen[1].contains("name=\"body\"\r\n\r\n{\"user_input\":\"x\"}"),
        "{seen:#?}"
    );
    assert!(seen[2].contains("content-type: application/json") && seen[2].ends_with("\r\n\r\n{}"), "{seen:#?}");
    assert!(seen[3].contains("authorization: Bearer t\r\n"), "a token is the contract's: {seen:#?}");
    assert!(
        seen[4].starts_with("PUT /v2/customers/a/x?path=b HTTP/1.1\r\nHost: 127.0.0.1:")
            && seen[4].contains("Authorization: Token secret\r\n"),
        "{seen:#?}"
    );
    for field in ["name=\"body\"\r\n\r\n{", "name=\"uploads\"; filename=\"f\"", "name=\"paths\"\r\n\r\n[]"] {
        assert!(seen[5].contains(field), "{field}: {seen:#?}");
    }
}

#[tokio::test]
async fn answers_have_the_contracts_paths() {
    let answer = "HTTP/1.1 200 OK\nContent-Type: application/json\nLink: </v2/customers/a?after=1>; rel=\"next\"\nContent-Length: 54\n\
                  Connection: close\n\n{\"paths\":{\"/v2/customers/{id}\":{\"get\":{}},\"/v2/docs\":{}}}";
    let answer: &'static str = Box::leak(
        answer.replace("54", &answer.split("\n\n").last().unwrap_or_default().len().to_string()).into_boxed_str(),
    );
    arriving(OTHERWISE, answer, async |api| {
        let reply = api.get("/openapi.json").await.expect("an answer");
        assert_eq!(reply.header("link"), Some("</api/tenants/a?after=1>; rel=\"next\""));
        let paths =
            reply.json().expect("JSON")["paths"].as_object().expect("paths").keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths, ["/api/tenants/{id}", "/docs"]);
    })
    .await;
}

#[test]
fn describe_writes_a_file_once_and_run_accepts_it() {
    let (dir, _) = written("");
    let fixture = Fixture::start(Manner::Good);
    let path = dir.path().join("described.toml").display().to_string();
    let (status, text) = ends(["describe", "--target", &fixture.url, "-o", &path]);
    assert_eq!(status, 0, "{text}");
    let (status, text) = ends(["run", "--target", &fixture.url, "--target-file", &path, "--filter", "id(=HLTH-001)"]);
    assert_eq!(status, 0, "{text}");
    // What somebody has completed is not lost.
    let (status, text) = ends(["describe", "--target", &fixture.url, "-o", &path]);
    assert!(status == 64 && text.contains("exists"), "{status}: {text}");
    let (status, text) = ends(["describe", "--target", "host:8000"]);
    assert!(status == 3 && text.contains("http://host:8000"), "{status}: {text}");
    let (status, text) = ends(["describe"]);
    assert!(status == 64 && text.contains("--target"), "{status}: {text}");
}
