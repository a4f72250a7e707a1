use std::collections::BTreeSet;
use std::time::Duration;

use nagaya_fixtures::model::sigv4::verify;
use nagaya_fixtures::vectors::{self, Vector};

use super::*;

fn credentials(vector: &Vector) -> Credentials {
    let given = &vector.credentials;
    Credentials::new(&given.access_key_id, &given.secret_access_key, given.session_token.clone(), None, "vector")
}

fn at(vector: &Vector) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(vector.at.as_second().unsigned_abs())
}

/// The headers of a vector that a client sends, as they reach the signer.
fn given(vector: &Vector) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &vector.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_bytes(value.trim().as_bytes()).expect("a value"));
    }
    headers
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Signs a vector as the proxy does, except for the time; returns the headers and the path to send.
fn signed(vector: &Vector, service: &str) -> (HeaderMap, PathAndQuery) {
    let path = vector.target.parse().expect("a path");
    let path = if vector.normalize { unambiguous(&path, service).expect("a path") } else { path };
    let method = vector.method.parse().expect("a method");
    let mut headers = given(vector);
    let scope = Scope { service, region: &vector.region };
    let hash = sha256(&vector.body);
    add_signature(&credentials(vector), scope, at(vector), (&method, &path), &mut headers, &hash).expect("signs");
    (headers, path)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).expect(name).to_str().expect("text")
}

/// AWS's published vectors (rows 16 and 17): an independent verifier accepts the signature of each; and if the same headers are
/// signed, the signature equals the published one.
#[test]
fn published_vectors_are_signed_as_published() {
    let (mut exact, mut checked) = (BTreeSet::new(), 0);
    for vector in vectors::all().expect("the vectors") {
        for service in [vector.service.as_str(), "s3"] {
            let (headers, path) = signed(&vector, service);
            let mut request = http::Request::builder().method(vector.method.as_str()).uri(path.to_string());
            *request.headers_mut().expect("headers") = headers.clone();
            let parts = request.body(()).expect("a request").into_parts().0;
            let scope = verify(&parts, &vector.body, &vector.credentials, vector.at.as_second());
            let scope = scope.unwrap_or_else(|why| panic!("{} for {service}: {why:?}", vector.name));
            assert_eq!((scope.region.as_str(), scope.service.as_str()), (vector.region.as_str(), service));
            checked += 1;
        }
        let (headers, path) = signed(&vector, &vector.service);
        let authorization = text(&headers, "authorization");
        let same_headers = authorization.contains(&format!("SignedHeaders={}, ", vector.signed_headers));
        // The vectors encode a path once for every service; AWS's services except S3 require it encoded twice.
        if same_headers && !path.path().contains('%') {
            assert!(
                authorization.ends_with(&format!("Signature={}", vector.signature)),
                "{}: {authorization}",
                vector.name
            );
            exact.insert(vector.name);
        }
    }
    assert!(checked >= 70, "{checked} were checked");
    assert!(exact.len() >= 20, "{} were the same: {exact:?}", exact.len());
    for must in
        ["get-vanilla-with-session-token", "get-vanilla-query-order-encoded", "get-relative-normalized", "post-vanilla"]
    {
        assert!(exact.contains(must), "{must}");
    }
}

/// The path is signed encoded twice, and only once for S3 (AWS, "Create a signed AWS API request").
#[test]
fn the_signed_request_is_the_one_sent() {
    for (path, service, sent) in [
        ("/model/a:b@c+d/invoke", "bedrock", "/model/a:b@c+d/invoke"),
        ("/a%2Fb/%20", "bedrock", "/a%2Fb/%20"),
        ("/a//b/../c/./d/", "bedrock", "/a/c/d/"),
        ("/..", "bedrock", "/"),
        ("/a/.", "bedrock", "/a/"),
        ("//", "bedrock", "/"),
        ("/a//b/../c", "s3", "/a//b/../c"),
        ("/a+b@c%2Fd%zz%+1", "s3", "/a%2Bb%40c/d%25zz%25%2B1"),
        ("/?q=a+b&r=%2B", "bedrock", "/?q=a%20b&r=%2B"),
        ("/?q=%zz&r=%", "s3", "/?q=%25zz&r=%25"),
    ] {
        let path: PathAndQuery = path.parse().expect("a path");
        assert_eq!(unambiguous(&path, service).expect("a path"), sent, "{path} for {service}");
    }
}

/// Row 17: headers that a hop may change are not signed.
#[test]
fn only_what_arrives_is_signed() {
    let mut vector = vectors::all().expect("the vectors").swap_remove(0);
    for (name, value) in
        [("connection", "x"), ("expect", "100-continue"), ("transfer-encoding", "chunked"), ("x-any", "1")]
    {
        vector.headers.push((name.into(), value.into()));
    }
    vector.headers.push(("content-type".into(), "a/b".into()));
    vector.headers.push(("x-amz-target".into(), "Service.Operation".into()));
    let (headers, _) = signed(&vector, "bedrock");
    let authorization = text(&headers, "authorization");
    assert!(authorization.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-target, "), "{authorization}");
}

/// Midnight UTC (row 16): the scope's date is that of the signing time.
#[test]
fn the_scope_has_the_date_of_the_signing_time() {
    let mut vector = vectors::all().expect("the vectors").swap_remove(0);
    for (at, date) in [("2015-08-30T23:59:59Z", "20150830"), ("2015-08-31T00:00:00Z", "20150831")] {
        vector.at = at.parse().expect("a time");
        let (headers, _) = signed(&vector, "bedrock");
        assert!(text(&headers, "x-amz-date").starts_with(date));
        assert!(text(&headers, "authorization").contains(&format!("/{date}/us-east-1/bedrock/")));
    }
}

proptest::proptest! {
    /// Any path and query that a client sends is refused, or signed so that an independent verifier accepts it; and nothing in the
    /// signed form can be read in another way.
    #[test]
    fn any_path_and_query_is_signed_as_sent_or_refused(text in "/[!-~]{0,12}(\\?([a-c%=&+;~/:A-F0-9-]{0,20}|[!-~]{0,20}))?", s3: bool) {
        use proptest::prelude::*;
        let service = if s3 { "s3" } else { "bedrock" };
        let Ok(path) = text.parse::<PathAndQuery>() else { return Ok(()) };
        let Ok(path) = unambiguous(&path, service) else { return Ok(()) };
        prop_assert_eq!(&unambiguous(&path, service).expect("again"), &path);
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("a.example"))]);
        let (id, secret) = ("AKIDTEST", "secret");
        let (credentials, at) = (Credentials::new(id, secret, None, None, "test"), SystemTime::now());
        let scope = Scope { service, region: "us-east-1" };
        add_signature(&credentials, scope, at, (&Method::GET, &path), &mut headers, &sha256(b"")).expect("signs");
        let mut request = http::Request::builder().uri(path.clone());
        *request.headers_mut().expect("headers") = headers;
        let parts = request.body(()).expect("a request").into_parts().0;
        let theirs = nagaya_fixtures::model::sigv4::Credentials {
            access_key_id: id.into(), secret_access_key: secret.into(), session_token: None,
        };
        let now = at.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs();
        let verdict = verify(&parts, b"", &theirs, i64::try_from(now).expect("a time"));
        prop_assert!(verdict.is_ok(), "{} as {}: {:?}", text, path, verdict.err());
    }
}
